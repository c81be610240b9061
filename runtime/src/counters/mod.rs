//! The counters of one worker, in memory that it shares with its supervisor, and the ledger read from them.
//!
//! The worker writes them with atomic operations and the supervisor reads them. They survive a SIGKILL of the
//! worker, and `status` never waits for a worker that hangs.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering::Relaxed;

use unbroken_core::ledger::sum;
pub(crate) use unbroken_core::{Ledger, Remaining};

use crate::sys::memory::{Mapping, shared_file};
use crate::sys::page::Page;

/// The progress of a starting worker. The counter is 0 before the first stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum StartupStage {
    /// The worker has received *welcome* with its settings and listeners.
    Welcomed = 1,
    /// `main` was called.
    Running = 2,
}

/// The values of the counter `main`; 0 before `main` runs, and always in a worker of an earlier release.
const MAIN_RUNNING: u64 = 1;
const MAIN_ENDED: u64 = 2;

/// The way in which a connection ended, which is the line of the ledger that counts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CloseReason {
    /// Ended by itself: closed by the client, or by the program without a drain or limit as the reason.
    Finished,
    /// Closed after the worker or the program asked the peer to close.
    Closed,
    /// Closed by force at the drain deadline.
    Forced,
    /// Handed off to the next generation.
    HandedOff,
}

/// The counters of one worker, mapped into this process.
pub(crate) struct Counters {
    page: Mapping<Page>,
}

impl Counters {
    /// Creates counters. Returns them with the descriptor by which another process maps them.
    pub(crate) fn create() -> io::Result<(Counters, OwnedFd)> {
        let fd = shared_file("unbroken-counters", size_of::<Page>())?;
        Ok((Counters::open(&fd)?, fd))
    }

    /// Maps the counters behind `fd`.
    pub(crate) fn open(fd: impl AsFd) -> io::Result<Counters> {
        Ok(Counters { page: Mapping::new(fd)? })
    }

    /// Counts an accepted connection. Call it before accept(2): a process that is killed right after
    /// accept(2) could not count the connection, which is lost then and must not be missing in the ledger.
    pub(crate) fn begin_accept(&self) {
        self.page.connections.accepted.fetch_add(1, Relaxed);
    }

    /// Takes back [`begin_accept`](Self::begin_accept): nothing was accepted.
    pub(crate) fn cancel_accept(&self) {
        self.page.connections.accepted.fetch_sub(1, Relaxed);
    }

    /// Counts a connection received from an older generation. Call it before the acknowledgement is sent, for
    /// the same reason as [`begin_accept`](Self::begin_accept).
    pub(crate) fn begin_receive(&self) {
        self.page.connections.received.fetch_add(1, Relaxed);
    }

    /// Takes back [`begin_receive`](Self::begin_receive): the older generation keeps the connection.
    pub(crate) fn cancel_receive(&self) {
        self.page.connections.received.fetch_sub(1, Relaxed);
    }

    /// Counts the end of a connection.
    pub(crate) fn end(&self, ending: CloseReason) {
        let connections = &self.page.connections;
        match ending {
            CloseReason::Finished => &connections.finished,
            CloseReason::Closed => &connections.closed,
            CloseReason::Forced => &connections.forced,
            CloseReason::HandedOff => &connections.handed_off,
        }
        .fetch_add(1, Relaxed);
    }

    /// Notes that the process is about to exit at the drain deadline: connections still open then count as
    /// forced, not as lost. They are not counted one by one because some may end by themselves before the
    /// exit.
    pub(crate) fn mark_exiting(&self) {
        self.page.connections.exiting.store(1, Relaxed);
    }

    /// Notes that `main` has returned, panicked or was dropped.
    pub(crate) fn main_ended(&self) {
        self.page.progress.main.store(MAIN_ENDED, Relaxed);
    }

    pub(crate) fn task_begun(&self) {
        self.page.progress.tasks.fetch_add(1, Relaxed);
    }

    pub(crate) fn task_ended(&self) {
        self.page.progress.tasks.fetch_sub(1, Relaxed);
    }

    /// Notes, at the drain deadline, whether `main` and how many tasks of `Daemon::spawn` are still running.
    pub(crate) fn record_forced(&self) {
        let progress = &self.page.progress;
        let runs = progress.main.load(Relaxed) == MAIN_RUNNING;
        progress.forced_main.store(runs.into(), Relaxed);
        progress.forced_tasks.store(progress.tasks.load(Relaxed), Relaxed);
    }

    /// Notes the number of tasks of `tokio::spawn` that are dropped with the runtime after the drain.
    pub(crate) fn record_dropped_tasks(&self, tasks: u64) {
        self.page.progress.dropped_tasks.store(tasks, Relaxed);
    }

    /// Returns what the worker has to finish before it can exit.
    pub(crate) fn remaining(&self) -> Remaining {
        let progress = &self.page.progress;
        Remaining {
            connections: self.read().open,
            tasks: progress.tasks.load(Relaxed),
            main: match progress.main.load(Relaxed) {
                0 => None,
                main => Some(main == MAIN_RUNNING),
            },
        }
    }

    #[cfg(any(feature = "http", test))]
    pub(crate) fn request_begun(&self) {
        self.page.requests.begun.fetch_add(1, Relaxed);
    }

    #[cfg(any(feature = "http", test))]
    pub(crate) fn request_ended(&self) {
        self.page.requests.ended.fetch_add(1, Relaxed);
    }

    pub(crate) fn set_stage(&self, stage: StartupStage) {
        self.page.progress.stage.store(stage as u64, Relaxed);
        if stage == StartupStage::Running {
            self.page.progress.main.store(MAIN_RUNNING, Relaxed);
        }
    }

    /// Returns whether `main` was called.
    pub(crate) fn has_run(&self) -> bool {
        self.page.progress.stage.load(Relaxed) >= StartupStage::Running as u64
    }

    /// Notes that the listener at `index` was polled for accept. Returns whether all `count` listeners were.
    /// There are 64 bits: listeners beyond the first 64 are not waited for.
    pub(crate) fn polled(&self, index: usize, count: usize) -> bool {
        let bit = 1_u64.checked_shl(u32::try_from(index).unwrap_or(64)).unwrap_or(0);
        let all = self.page.progress.polled.fetch_or(bit, Relaxed) | bit;
        all.count_ones() as usize >= count.min(64)
    }

    /// Returns whether the listener at `index` was polled for accept. False for one beyond the first 64,
    /// which has no bit.
    pub(crate) fn was_polled(&self, index: usize) -> bool {
        index < 64 && self.page.progress.polled.load(Relaxed) & (1 << index) != 0
    }

    /// Describes what a worker that is not ready has not done yet, for the error message. `manual`: the
    /// worker becomes ready only by `Daemon::ready`.
    pub(crate) fn missing(&self, listeners: &[&str], manual: bool) -> String {
        let stage = self.page.progress.stage.load(Relaxed);
        if stage < StartupStage::Welcomed as u64 {
            return "the program did not reach its `#[daemon]` main".into();
        }
        if stage < StartupStage::Running as u64 {
            return "`main` was not called".into();
        }
        if manual {
            return "`Daemon::ready` was not called".into();
        }
        let polled = self.page.progress.polled.load(Relaxed);
        let waiting: Vec<String> = listeners
            .iter()
            .enumerate()
            .filter(|(index, _)| *index < 64 && polled & (1 << index) == 0)
            .map(|(_, name)| format!("`{name}`"))
            .collect();
        match waiting.len() {
            0 => "its readiness message was not received".into(),
            1 => format!("listener {} was never polled for accept", waiting.join("")),
            _ => format!("listeners {} were never polled for accept", waiting.join(", ")),
        }
    }

    /// Returns the ledger as of now.
    pub(crate) fn read(&self) -> Ledger {
        let connections = &self.page.connections;
        // Ends are read before begins: in the other order, a connection that begins and ends in between would
        // be counted only as ended, and more would have ended than begun.
        let (finished, closed, forced, handed_off) = (
            connections.finished.load(Relaxed),
            connections.closed.load(Relaxed),
            connections.forced.load(Relaxed),
            connections.handed_off.load(Relaxed),
        );
        let accepted = connections.accepted.load(Relaxed);
        let received = connections.received.load(Relaxed);
        let ended = self.page.requests.ended.load(Relaxed);
        let requests = self.page.requests.begun.load(Relaxed);
        let progress = &self.page.progress;
        Ledger {
            accepted,
            received,
            finished,
            handed_off,
            closed,
            forced,
            lost: 0,
            open: sum([accepted, received])
                .saturating_sub(sum([finished, handed_off, closed, forced])),
            requests,
            in_flight: requests.saturating_sub(ended),
            forced_main: progress.forced_main.load(Relaxed),
            forced_tasks: progress.forced_tasks.load(Relaxed),
            dropped_tasks: progress.dropped_tasks.load(Relaxed),
        }
    }

    /// Returns the ledger of a worker that has exited: connections still open count as lost, or as forced
    /// after [`mark_exiting`](Self::mark_exiting).
    pub(crate) fn final_ledger(&self) -> Ledger {
        let mut ledger = self.read();
        let open = std::mem::take(&mut ledger.open);
        match self.page.connections.exiting.load(Relaxed) {
            0 => ledger.lost = sum([ledger.lost, open]),
            _ => ledger.forced = sum([ledger.forced, open]),
        }
        ledger.in_flight = 0;
        ledger
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn second_mapping_reads_the_same_counters() {
        let (worker, fd) = Counters::create().unwrap();
        let supervisor = Counters::open(&fd).unwrap();
        for _ in 0..5 {
            worker.begin_accept();
        }
        worker.end(CloseReason::Finished);
        worker.end(CloseReason::Closed);
        worker.end(CloseReason::Forced);
        worker.request_begun();
        let ledger = supervisor.read();
        assert_eq!((ledger.accepted, ledger.open, ledger.in_flight), (5, 2, 1));
        drop(worker);
        let closed = supervisor.final_ledger();
        assert_eq!((closed.lost, closed.open), (2, 0));
        assert_eq!(
            closed.accepted,
            closed.finished + closed.closed + closed.forced + closed.lost + closed.open
        );
    }

    /// A connection that ends by itself after `mark_exiting` is counted once.
    #[test]
    fn forced_connections_are_counted_once() {
        let (worker, fd) = Counters::create().unwrap();
        let supervisor = Counters::open(&fd).unwrap();
        for _ in 0..5 {
            worker.begin_accept();
        }
        worker.end(CloseReason::Finished);
        worker.mark_exiting();
        worker.end(CloseReason::Forced);
        let closed = supervisor.final_ledger();
        assert_eq!((closed.accepted, closed.finished, closed.forced), (5, 1, 4));
        assert_eq!((closed.lost, closed.open), (0, 0));
    }

    /// A worker that is killed during accept(2) may have taken a connection with it.
    #[test]
    fn connection_being_accepted_at_death_is_lost() {
        let (worker, fd) = Counters::create().unwrap();
        let supervisor = Counters::open(&fd).unwrap();
        worker.begin_accept();
        worker.cancel_accept();
        worker.begin_accept();
        worker.end(CloseReason::Finished);
        worker.begin_accept();
        let closed = supervisor.final_ledger();
        assert_eq!((closed.accepted, closed.finished, closed.lost), (2, 1, 1));
    }

    #[test]
    fn remaining_and_forced_work_are_reported() {
        let (worker, fd) = Counters::create().unwrap();
        let supervisor = Counters::open(&fd).unwrap();
        // As a worker of an earlier release leaves the counters.
        assert_eq!(supervisor.remaining(), Remaining { connections: 0, tasks: 0, main: None });
        worker.set_stage(StartupStage::Running);
        worker.task_begun();
        worker.task_begun();
        worker.task_ended();
        worker.begin_accept();
        let held = Remaining { connections: 1, tasks: 1, main: Some(true) };
        assert_eq!(supervisor.remaining(), held);
        worker.record_forced();
        worker.end(CloseReason::Forced);
        // The task is dropped because of the deadline.
        worker.task_ended();
        worker.main_ended();
        worker.record_dropped_tasks(3);
        assert_eq!(
            supervisor.remaining(),
            Remaining { connections: 0, tasks: 0, main: Some(false) }
        );
        let ledger = supervisor.final_ledger();
        assert_eq!(ledger.forced(), Some(held));
        let text = "1 forced, 0 lost; 0 requests; 1 task forced; `main` forced; \
                    3 tasks of `tokio::spawn` dropped";
        assert!(ledger.to_string().ends_with(text), "{ledger}");
        assert_eq!(Ledger { dropped_tasks: 3, ..Ledger::default() }.forced(), None);
    }

    #[test]
    fn missing_names_unpolled_listener() {
        let (counters, _fd) = Counters::create().unwrap();
        counters.set_stage(StartupStage::Running);
        assert!(!counters.polled(0, 2));
        let text = counters.missing(&["admin", "http"], false);
        assert_eq!(text, "listener `http` was never polled for accept");
        assert!(counters.polled(1, 2));
    }

    #[test]
    fn unsealed_file_is_rejected() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4096).unwrap();
        assert!(Counters::open(&file).is_err());
    }
}
