//! The count of a connection without its stream.

use std::time::Instant;

use crate::worker::connection::Connection;
use crate::worker::daemon::Draining;

/// Keeps a connection open in the ledger until dropped, for a stream that a framework wants without its
/// wrapper.
///
/// [`Tracked::into_parts`](super::Tracked::into_parts) and
/// [`blocking::Stream::into_parts`](super::blocking::Stream::into_parts) return it. A drain waits for it.
/// Drop it when the stream is closed, and not earlier: at best in the task or thread that owns the stream.
#[must_use = "the ledger counts the connection as ended when its guard is dropped"]
pub struct ConnectionGuard {
    connection: Connection,
}

impl ConnectionGuard {
    pub(super) fn new(connection: Connection) -> ConnectionGuard {
        ConnectionGuard { connection }
    }

    /// Same as [`Daemon::draining`](crate::Daemon::draining).
    pub fn draining(&self) -> Draining {
        Draining::new(self.connection.state())
    }

    /// Same as [`Daemon::drain_deadline`](crate::Daemon::drain_deadline).
    pub fn drain_deadline(&self) -> Option<Instant> {
        self.connection.state().deadline()
    }

    /// Same as [`Tracked::mark_closed`](super::Tracked::mark_closed).
    pub fn mark_closed(&self) {
        self.connection.close_notice().mark_sent();
    }
}

impl std::fmt::Debug for ConnectionGuard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConnectionGuard").finish_non_exhaustive()
    }
}
