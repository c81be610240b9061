//! One counted connection, from accept or handoff to its entry in the ledger.
//!
//! [`AcceptGuard`] counts a connection before accept(2), [`Connection`] counts its end when dropped, and
//! [`CloseNotice`] remembers whether the peer was asked to close, which decides between *finished* and
//! *closed*.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

use tokio_util::task::task_tracker::TaskTrackerToken;

use super::state::SharedState;
use crate::counters::CloseReason;

/// A connection of this worker in the counters. Dropping it records how the connection ended.
pub(crate) struct Connection {
    state: Arc<SharedState>,
    farewell: Arc<CloseNotice>,
    fate: AtomicU8,
    #[cfg(feature = "http")]
    permit: std::sync::OnceLock<super::http::ConnectionPermit>,
    _alive: TaskTrackerToken,
}

/// Whether the peer was asked to close because of the drain (`Connection: close`, GOAWAY, a close frame).
#[derive(Debug, Default)]
pub(crate) struct CloseNotice(AtomicU8);

/// One attempt to accept. It is counted before accept(2): otherwise the ledger of a process that is killed
/// right after accept(2) would miss a connection. If the process is killed between the two, the ledger has
/// one connection too many.
pub(crate) struct AcceptGuard {
    state: Arc<SharedState>,
    succeeded: bool,
}

impl AcceptGuard {
    pub(super) fn begin(state: &Arc<SharedState>) -> AcceptGuard {
        state.counters.begin_accept();
        AcceptGuard { state: Arc::clone(state), succeeded: false }
    }

    /// Returns the accepted connection, which is counted as open until dropped.
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

/// The owner of a connection, from the view of this worker.
mod fate {
    /// This worker owns it.
    pub(super) const OURS: u8 = 0;
    /// An older generation offers it, and this worker's acknowledgement is not sent yet.
    pub(super) const OFFERED: u8 = 1;
    /// The next generation owns it.
    pub(super) const HANDED_OFF: u8 = 2;
    /// It was sent to the next generation, and whether that one took it cannot be known.
    pub(super) const LOST: u8 = 3;
}

const SENT: u8 = 1;
const LEFT_TO_PROGRAM: u8 = 2;

impl CloseNotice {
    /// Notes that the peer was asked to close.
    pub(crate) fn mark_sent(&self) {
        self.0.store(SENT, Relaxed);
    }

    /// Notes that the program owns the upgraded connection and asks the peer to close when the drain begins.
    #[cfg(feature = "http")]
    pub(crate) fn leave_to_program(&self) {
        self.0.store(LEFT_TO_PROGRAM, Relaxed);
    }

    /// Returns whether the peer was asked to close. `draining`: whether the drain has begun, by which time a
    /// program is assumed to have asked the peers of its own connections.
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
            permit: std::sync::OnceLock::new(),
            _alive: state.tasks.token(),
        }
    }

    /// Returns a connection that an older generation offers. It is counted before the acknowledgement is
    /// sent: otherwise the ledger of a process that is killed right after that would miss it.
    pub(super) fn offered(state: &Arc<SharedState>) -> Connection {
        state.counters.begin_receive();
        Connection::new(state, fate::OFFERED)
    }

    /// Notes that the acknowledgement was sent: this worker owns the connection.
    pub(crate) fn mark_received(&self) {
        self.fate.store(fate::OURS, Relaxed);
    }

    /// Notes that the next generation owns the connection.
    pub(crate) fn mark_handed_off(&self) {
        self.fate.store(fate::HANDED_OFF, Relaxed);
    }

    /// Notes that whether the next generation took the connection cannot be known.
    pub(crate) fn mark_lost(&self) {
        self.fate.store(fate::LOST, Relaxed);
    }

    /// Holds a permit of the listener's `max_connections` for as long as the connection is open.
    #[cfg(feature = "http")]
    pub(crate) fn occupy(&self, permit: super::http::ConnectionPermit) {
        // A connection that already has a permit keeps it.
        let _ = self.permit.set(permit);
    }

    pub(super) fn state(&self) -> &Arc<SharedState> {
        &self.state
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
            // Not counted as ended: the ledger keeps it as open while this process lives, and
            // `Counters::final_ledger` turns that into *lost*. That is right for a connection whose owner is
            // unknown, and for one that goes down with a process whose `main` ended unasked.
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
