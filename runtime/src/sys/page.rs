//! The layout of the counters that a worker shares with its supervisor.

use std::sync::atomic::AtomicU64;

use super::memory::Shareable;

/// The shared page. Fields are only ever appended: the two ends may be different releases.
#[repr(C, align(64))]
pub(crate) struct Page {
    pub(crate) connections: Connections,
    pub(crate) requests: Requests,
    pub(crate) progress: Progress,
}

/// Written at the start and end of connections.
#[repr(C, align(64))]
pub(crate) struct Connections {
    pub(crate) accepted: AtomicU64,
    pub(crate) finished: AtomicU64,
    pub(crate) closed: AtomicU64,
    pub(crate) forced: AtomicU64,
    pub(crate) received: AtomicU64,
    pub(crate) handed_off: AtomicU64,
    /// Not 0: what is open when the process ends was cut by it at the drain deadline.
    pub(crate) exiting: AtomicU64,
}

/// Written at the start and end of requests; a cache line of their own.
#[repr(C, align(64))]
pub(crate) struct Requests {
    pub(crate) begun: AtomicU64,
    pub(crate) ended: AtomicU64,
}

/// Written while starting, for each task of `Daemon::spawn`, and at the end; all of it in the one cache line
/// that every release has mapped.
#[repr(C, align(64))]
pub(crate) struct Progress {
    pub(crate) stage: AtomicU64,
    /// One bit per declared listener, in the order of their names.
    pub(crate) polled: AtomicU64,
    /// 0: not known, as of an earlier release; 1: `main` runs; 2: it has ended.
    pub(crate) main: AtomicU64,
    /// Tasks of `Daemon::spawn`.
    pub(crate) tasks: AtomicU64,
    /// Not 0: `main` had not ended at the drain deadline.
    pub(crate) forced_main: AtomicU64,
    /// Tasks of `Daemon::spawn` that had not ended at the drain deadline.
    pub(crate) forced_tasks: AtomicU64,
    /// Tasks of `tokio::spawn` that were left when the drain was over.
    pub(crate) dropped_tasks: AtomicU64,
}

// SAFETY: plain `repr(C)` structs of atomic integers.
unsafe impl Shareable for Page {}
