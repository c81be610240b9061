//! One counted connection, from accept to the line of the account that it ends in.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

use tokio_util::task::task_tracker::TaskTrackerToken;

use super::state::SharedState;
use crate::counters::CloseReason;

/// How it ended is written when this is dropped.
pub(crate) struct Connection {
    state: Arc<SharedState>,
    farewell: Arc<CloseNotice>,
    fate: AtomicU8,
    #[cfg(feature = "http")]
    seat: std::sync::OnceLock<super::http::ConnectionPermit>,
    _alive: TaskTrackerToken,
}

/// Whether the peer was told to go because of the drain.
#[derive(Debug, Default)]
pub(crate) struct CloseNotice(AtomicU8);

/// One attempt to accept: counted before it is made, so that no connection is missing in the ledger of a
/// process that is killed right after it. Killed in the middle, it may count one that was not accepted.
pub(crate) struct AcceptGuard {
    state: Arc<SharedState>,
    succeeded: bool,
}

impl AcceptGuard {
    pub(super) fn begin(state: &Arc<SharedState>) -> AcceptGuard {
        state.counters.begin_accept();
        AcceptGuard { state: Arc::clone(state), succeeded: false }
    }

    /// There is a connection: it counts until it is dropped.
    pub(crate) fn succeeded(mut self) -> Connection {
        self.succeeded = true;
        Connection::new(&self.state, fate::OURS)
    }
}

impl Drop for AcceptGuard {
    fn drop(&mut self) {
        if !self.succeeded {
            self.state.counters.cancel_accept();
        }
    }
}

/// What a connection is to this worker.
mod fate {
    /// It has one until it ends here.
    pub(super) const OURS: u8 = 0;
    /// An older generation offers it, and has not heard that it is taken.
    pub(super) const OFFERED: u8 = 1;
    /// The next generation has it.
    pub(super) const HANDED_OFF: u8 = 2;
    /// Whether the next generation has it cannot be known.
    pub(super) const LOST: u8 = 3;
}

const SENT: u8 = 1;
const LEFT_TO_PROGRAM: u8 = 2;

impl CloseNotice {
    /// The peer was told.
    pub(crate) fn mark_sent(&self) {
        self.0.store(SENT, Relaxed);
    }

    /// The program has it, and tells the peer when the drain begins.
    #[cfg(feature = "http")]
    pub(crate) fn leave_to_program(&self) {
        self.0.store(LEFT_TO_PROGRAM, Relaxed);
    }

    /// Whether it knows; `draining` says whether the drain has begun.
    pub(crate) fn was_sent(&self, draining: bool) -> bool {
        match self.0.load(Relaxed) {
            SENT => true,
            LEFT_TO_PROGRAM => draining,
            _ => false,
        }
    }
}

impl Connection {
    fn new(state: &Arc<SharedState>, fate: u8) -> Connection {
        Connection {
            state: Arc::clone(state),
            farewell: Arc::default(),
            fate: AtomicU8::new(fate),
            #[cfg(feature = "http")]
            seat: std::sync::OnceLock::new(),
            _alive: state.tasks.token(),
        }
    }

    /// One that an older generation offers: counted before that hears of it, so that none is missing in the
    /// ledger of a process that is killed right after it.
    pub(super) fn offered(state: &Arc<SharedState>) -> Connection {
        state.counters.begin_receive();
        Connection::new(state, fate::OFFERED)
    }

    /// The older generation has heard that it is taken.
    pub(crate) fn mark_received(&self) {
        self.fate.store(fate::OURS, Relaxed);
    }

    /// The next generation has it.
    pub(crate) fn mark_handed_off(&self) {
        self.fate.store(fate::HANDED_OFF, Relaxed);
    }

    /// Nobody knows whether the next generation has it.
    pub(crate) fn mark_lost(&self) {
        self.fate.store(fate::LOST, Relaxed);
    }

    /// Takes room among those of its listener for as long as it is open.
    #[cfg(feature = "http")]
    pub(crate) fn occupy(&self, seat: super::http::ConnectionPermit) {
        // One that has a seat already keeps that.
        let _ = self.seat.set(seat);
    }

    pub(crate) fn close_notice(&self) -> &Arc<CloseNotice> {
        &self.farewell
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let fate = self.fate.load(Relaxed);
        match fate {
            fate::OFFERED => return self.state.counters.cancel_receive(),
            // Its owner is not known, or the end of the process cuts it: the ledger has it as open until
            // then, and as lost after that.
            fate::LOST => return,
            fate::OURS if self.state.is_abandoned() => return,
            _ => {}
        }
        self.state.counters.end(if fate == fate::HANDED_OFF {
            CloseReason::HandedOff
        } else if self.state.forced.is_cancelled() {
            CloseReason::Forced
        } else if self.farewell.was_sent(self.state.is_draining()) {
            CloseReason::Closed
        } else {
            CloseReason::Finished
        });
    }
}
