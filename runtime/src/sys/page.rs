//! The layout of the counters that a worker shares with its supervisor, in a
//! [`Mapping`](super::memory::Mapping).

use std::sync::atomic::AtomicU64;

use super::memory::Shareable;

/// The shared page. Fields are only ever appended, since the two processes may run different releases.
#[repr(C, align(64))]
pub(crate) struct Page {
    pub(crate) connections: Connections,
    pub(crate) requests: Requests,
    pub(crate) progress: Progress,
}

/// Counts of connections, as in the ledger; written at the start and end of connections.
#[repr(C, align(64))]
pub(crate) struct Connections {
    pub(crate) accepted: AtomicU64,
    pub(crate) finished: AtomicU64,
    pub(crate) closed: AtomicU64,
    pub(crate) forced: AtomicU64,
    pub(crate) received: AtomicU64,
    pub(crate) handed_off: AtomicU64,
    /// Not 0: the worker exits at its drain deadline, and connections still open are *forced*, not *lost*.
    pub(crate) exiting: AtomicU64,
}

/// Counts of requests; written at the start and end of requests, in a cache line of their own.
#[repr(C, align(64))]
pub(crate) struct Requests {
    pub(crate) begun: AtomicU64,
    pub(crate) ended: AtomicU64,
}

/// The progress of the worker; written during the start, for each task of `Daemon::spawn`, and at the end.
/// All fields are in one cache line, which every release has mapped.
#[repr(C, align(64))]
pub(crate) struct Progress {
    pub(crate) stage: AtomicU64,
    /// The listeners that were polled for accept: one bit per declared listener, in the order of their names.
    pub(crate) polled: AtomicU64,
    /// 0: unknown, because the worker is an earlier release; 1: `main` runs; 2: `main` has ended.
    pub(crate) main: AtomicU64,
    /// Running tasks of `Daemon::spawn`.
    pub(crate) tasks: AtomicU64,
    /// Not 0: `main` had not ended at the drain deadline.
    pub(crate) forced_main: AtomicU64,
    /// Tasks of `Daemon::spawn` that had not ended at the drain deadline.
    pub(crate) forced_tasks: AtomicU64,
    /// Tasks of `tokio::spawn` that had not ended when the drain was over.
    pub(crate) dropped_tasks: AtomicU64,
}

// SAFETY: plain `repr(C)` structs of atomic integers.
unsafe impl Shareable for Page {}
