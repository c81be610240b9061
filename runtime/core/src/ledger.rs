//! What became of connections.

use crate::Remaining;
use crate::json::{FromJson, ToJson};

/// The ledger: what became of the connections of one worker, or of several added up.
///
/// `accepted + received = finished + handed_off + closed + forced + lost + open`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ToJson, FromJson)]
#[json(default)]
pub struct Ledger {
    /// Connections accepted from a listener.
    pub accepted: u64,
    /// Connections handed off to this worker by older generations.
    pub received: u64,
    /// Connections that ended by themselves.
    pub finished: u64,
    /// Connections handed off to the next generation.
    pub handed_off: u64,
    /// Connections that ended after the peer was asked to close.
    pub closed: u64,
    /// Connections closed by force at the drain deadline.
    pub forced: u64,
    /// Connections that were open when the process died.
    pub lost: u64,
    /// Connections open now.
    pub open: u64,
    /// HTTP requests begun.
    pub requests: u64,
    /// HTTP requests begun and not ended.
    pub in_flight: u64,
    /// Workers whose `main` had not ended at the drain deadline.
    pub forced_main: u64,
    /// Tasks of `Daemon::spawn` that had not ended at the drain deadline.
    pub forced_tasks: u64,
    /// Tasks of `tokio::spawn` that were dropped with the runtime after the drain.
    pub dropped_tasks: u64,
}

impl Ledger {
    /// Returns what was forced at the drain deadline; `None` if nothing was.
    pub fn forced(&self) -> Option<Remaining> {
        let (connections, tasks) = (self.forced, self.forced_tasks);
        let main = self.forced_main > 0;
        (connections > 0 || tasks > 0 || main).then_some(Remaining {
            connections,
            tasks,
            main: Some(main),
        })
    }
}

/// Figures are what a worker wrote to its memory: none of them may be too much for its supervisor.
pub fn sum<const N: usize>(figures: [u64; N]) -> u64 {
    figures.into_iter().fold(0, u64::saturating_add)
}

impl std::iter::Sum for Ledger {
    fn sum<I: Iterator<Item = Ledger>>(ledgers: I) -> Ledger {
        ledgers.fold(Ledger::default(), |mut sum, ledger| {
            sum += ledger;
            sum
        })
    }
}

impl std::ops::AddAssign for Ledger {
    fn add_assign(&mut self, other: Ledger) {
        self.accepted = sum([self.accepted, other.accepted]);
        self.received = sum([self.received, other.received]);
        self.finished = sum([self.finished, other.finished]);
        self.handed_off = sum([self.handed_off, other.handed_off]);
        self.closed = sum([self.closed, other.closed]);
        self.forced = sum([self.forced, other.forced]);
        self.lost = sum([self.lost, other.lost]);
        self.open = sum([self.open, other.open]);
        self.requests = sum([self.requests, other.requests]);
        self.in_flight = sum([self.in_flight, other.in_flight]);
        self.forced_main = sum([self.forced_main, other.forced_main]);
        self.forced_tasks = sum([self.forced_tasks, other.forced_tasks]);
        self.dropped_tasks = sum([self.dropped_tasks, other.dropped_tasks]);
    }
}

impl std::fmt::Display for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} connections: {} finished, {} handed off, {} closed, {} forced, {} lost; {} requests",
            sum([self.accepted, self.received]),
            self.finished,
            self.handed_off,
            self.closed,
            self.forced,
            self.lost,
            self.requests
        )?;
        match self.forced_tasks {
            0 => {}
            1 => f.write_str("; 1 task forced")?,
            many => write!(f, "; {many} tasks forced")?,
        }
        if self.forced_main > 0 {
            f.write_str("; `main` forced")?;
        }
        match self.dropped_tasks {
            0 => Ok(()),
            1 => f.write_str("; 1 task of `tokio::spawn` dropped"),
            many => write!(f, "; {many} tasks of `tokio::spawn` dropped"),
        }
    }
}
