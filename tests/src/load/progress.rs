use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Instant;

/// The counters of a load, which a test can read and wait for while the load runs.
#[derive(Debug, Default)]
pub struct Progress {
    started: AtomicU64,
    ok: AtomicU64,
    failed: AtomicU64,
    open: AtomicU64,
    newest_generation: AtomicU64,
    waiting: AtomicU64,
    lock: Mutex<()>,
    changed: Condvar,
}

impl Progress {
    /// The number of requests started.
    pub fn started(&self) -> u64 {
        self.started.load(Ordering::SeqCst)
    }

    /// The number of requests that succeeded.
    pub fn ok(&self) -> u64 {
        self.ok.load(Ordering::SeqCst)
    }

    /// The number of requests that failed.
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::SeqCst)
    }

    /// The number of requests that ended.
    pub fn finished(&self) -> u64 {
        self.ok() + self.failed()
    }

    /// The number of requests started and not ended.
    pub fn in_flight(&self) -> u64 {
        let finished = self.finished();
        self.started().saturating_sub(finished)
    }

    /// The number of connections open now.
    pub fn connections(&self) -> u64 {
        self.open.load(Ordering::SeqCst)
    }

    /// The newest generation that answered; 0 before the first response.
    pub fn newest_generation(&self) -> u64 {
        self.newest_generation.load(Ordering::SeqCst)
    }

    /// Waits until `done` returns true. Returns `false` if it did not by the deadline.
    pub fn wait(&self, deadline: Instant, done: impl Fn(&Progress) -> bool) -> bool {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let mut guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        let met = loop {
            if done(self) {
                break true;
            }
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { break false };
            let woken = self.changed.wait_timeout(guard, left);
            guard = woken.unwrap_or_else(PoisonError::into_inner).0;
        };
        drop(guard);
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        met
    }

    pub(super) fn begin(&self) {
        self.started.fetch_add(1, Ordering::SeqCst);
        self.tell();
    }

    pub(super) fn end(&self, ok: bool, generation: Option<u64>) {
        if let Some(generation) = generation {
            self.newest_generation.fetch_max(generation, Ordering::SeqCst);
        }
        let counter = if ok { &self.ok } else { &self.failed };
        counter.fetch_add(1, Ordering::SeqCst);
        self.tell();
    }

    pub(super) fn opened(&self) {
        self.open.fetch_add(1, Ordering::SeqCst);
        self.tell();
    }

    pub(super) fn closed(&self) {
        self.open.fetch_sub(1, Ordering::SeqCst);
    }

    fn tell(&self) {
        if self.waiting.load(Ordering::SeqCst) > 0 {
            drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner));
            self.changed.notify_all();
        }
    }
}
