//! One counted connection, from accept to the line of the account that it ends in.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering::Relaxed};

use tokio_util::task::task_tracker::TaskTrackerToken;

use super::state::State;
use crate::counters::Ending;

/// How it ended is written when this is dropped.
pub(crate) struct Connection {
    state: Arc<State>,
    farewell: Arc<Farewell>,
    passed: AtomicBool,
    lost: AtomicBool,
    #[cfg(feature = "http")]
    seat: std::sync::OnceLock<super::http::Seat>,
    _alive: TaskTrackerToken,
}

/// Whether the peer was told to go because of the drain.
#[derive(Debug, Default)]
pub(crate) struct Farewell(AtomicU8);

/// One attempt to accept: counted before it is made, so that no connection is missing in the account of a
/// process that is killed right after it.
pub(crate) struct Accepting {
    state: Arc<State>,
    succeeded: bool,
}

impl Accepting {
    pub(super) fn begin(state: &Arc<State>) -> Accepting {
        state.counters.accepting();
        Accepting { state: Arc::clone(state), succeeded: false }
    }

    /// There is a connection: it counts until it is dropped.
    pub(crate) fn succeeded(mut self) -> Connection {
        self.succeeded = true;
        Connection::new(&self.state)
    }
}

impl Drop for Accepting {
    fn drop(&mut self) {
        if !self.succeeded {
            self.state.counters.not_accepted();
        }
    }
}

const TOLD: u8 = 1;
const BY_THE_PROGRAM: u8 = 2;

impl Farewell {
    /// The peer was told.
    pub(crate) fn told(&self) {
        self.0.store(TOLD, Relaxed);
    }

    /// The program has it, and tells the peer when the drain begins.
    #[cfg(feature = "http")]
    pub(crate) fn by_the_program(&self) {
        self.0.store(BY_THE_PROGRAM, Relaxed);
    }

    /// Whether it knows; `draining` says whether the drain has begun.
    pub(crate) fn was_told(&self, draining: bool) -> bool {
        match self.0.load(Relaxed) {
            TOLD => true,
            BY_THE_PROGRAM => draining,
            _ => false,
        }
    }
}

impl Connection {
    pub(super) fn new(state: &Arc<State>) -> Connection {
        Connection {
            state: Arc::clone(state),
            farewell: Arc::default(),
            passed: AtomicBool::new(false),
            lost: AtomicBool::new(false),
            #[cfg(feature = "http")]
            seat: std::sync::OnceLock::new(),
            _alive: state.tasks.token(),
        }
    }

    /// The next generation has it.
    pub(crate) fn passed(&self) {
        self.passed.store(true, Relaxed);
    }

    /// Nobody knows whether the next generation has it.
    pub(crate) fn lost(&self) {
        self.lost.store(true, Relaxed);
    }

    /// Takes room among those of its listener for as long as it is open.
    #[cfg(feature = "http")]
    pub(crate) fn sit(&self, seat: super::http::Seat) {
        // One that has a seat already keeps that.
        let _ = self.seat.set(seat);
    }

    pub(crate) fn farewell(&self) -> &Arc<Farewell> {
        &self.farewell
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let passed = self.passed.load(Relaxed);
        if self.lost.load(Relaxed) || !passed && self.state.is_abandoned() {
            // It is cut by the end of the process, or nobody knows who has it, and stays open in the account
            // until then: it is lost.
            return;
        }
        self.state.counters.ended(if passed {
            Ending::Passed
        } else if self.state.forced.is_cancelled() {
            Ending::Forced
        } else if self.farewell.was_told(self.state.is_draining()) {
            Ending::Told
        } else {
            Ending::Finished
        });
    }
}
