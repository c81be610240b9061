use std::fmt;
use std::time::Duration;

use serde_json::Value;

/// The result of a restart or a stop: the ledger of the generation that drained, and how long it took.
#[derive(Debug, Clone)]
pub struct DrainReport {
    json: Value,
}

impl DrainReport {
    pub(crate) fn new(json: Value) -> Self {
        DrainReport { json }
    }

    /// The generation that a restart started.
    #[must_use]
    pub fn generation(&self) -> Option<u64> {
        self.json["generation"].as_u64()
    }

    /// The ledger of the generation that drained.
    #[must_use]
    pub fn ledger(&self) -> Ledger {
        Ledger::of(&self.json["ledger"])
    }

    /// The time from the request to the end of the drain. That of a restart includes the confirm window,
    /// after which the old generation begins to drain.
    #[must_use]
    pub fn elapsed(&self) -> Option<Duration> {
        self.json["to_drained_ms"].as_f64().map(|ms| Duration::from_secs_f64(ms / 1000.0))
    }

    /// Workers that did not end as they should.
    #[must_use]
    pub fn warnings(&self) -> Vec<&str> {
        let warnings = self.json["warnings"].as_array().into_iter().flatten();
        warnings.filter_map(Value::as_str).collect()
    }

    /// All that the verb reported, with the fields that the book describes.
    #[must_use]
    pub fn json(&self) -> &Value {
        &self.json
    }

    /// Asserts that the old generation ended in this time and by itself: the drain deadline cut neither a
    /// connection nor `main` nor a task, and none was lost with a killed process.
    ///
    /// # Panics
    ///
    /// If it did not.
    #[track_caller]
    pub fn assert_drained_within(&self, limit: Duration) -> &Self {
        let Ledger { forced, lost, forced_main, forced_tasks, .. } = self.ledger();
        assert!(
            self.json["ledger"].is_object(),
            "the ledger is missing, so the drain cannot be judged: {self}"
        );
        assert!(
            [forced, lost, forced_main, forced_tasks] == [0; 4],
            "the drain did not end by itself; handle `Daemon::draining`: {self}"
        );
        let elapsed = self.elapsed();
        assert!(
            elapsed.is_some_and(|elapsed| elapsed <= limit),
            "the drain took longer than {limit:?}: {self}"
        );
        self
    }
}

impl fmt::Display for DrainReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.elapsed() {
            Some(elapsed) => write!(f, "drained after {elapsed:.1?}: {}", self.ledger())?,
            None => write!(f, "not drained: {}", self.ledger())?,
        }
        self.warnings().iter().try_for_each(|warning| write!(f, "; {warning}"))
    }
}

/// The ledger: what became of the connections of a generation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Ledger {
    /// Connections accepted.
    pub accepted: u64,
    /// Connections received from the generation before.
    pub received: u64,
    /// Connections that ended by themselves.
    pub finished: u64,
    /// Connections handed off to the next generation.
    pub handed_off: u64,
    /// Connections closed after the peer was notified.
    pub closed: u64,
    /// Connections cut at the drain deadline.
    pub forced: u64,
    /// Connections lost with a killed process.
    pub lost: u64,
    /// Connections still open.
    pub open: u64,
    /// Requests answered.
    pub requests: u64,
    /// Workers whose `main` was cut at the drain deadline.
    pub forced_main: u64,
    /// Tasks of `Daemon::spawn` that were cut at the drain deadline.
    pub forced_tasks: u64,
    /// Tasks of `tokio::spawn` that still ran at the end.
    pub dropped_tasks: u64,
}

impl Ledger {
    fn of(json: &Value) -> Self {
        let count = |key: &str| json[key].as_u64().unwrap_or_default();
        Ledger {
            accepted: count("accepted"),
            received: count("received"),
            finished: count("finished"),
            handed_off: count("handed_off"),
            closed: count("closed"),
            forced: count("forced"),
            lost: count("lost"),
            open: count("open"),
            requests: count("requests"),
            forced_main: count("forced_main"),
            forced_tasks: count("forced_tasks"),
            dropped_tasks: count("dropped_tasks"),
        }
    }
}

impl fmt::Display for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Ledger { finished, handed_off, closed, forced, lost, requests, .. } = self;
        write!(f, "{} connections: {finished} finished, ", self.accepted + self.received)?;
        write!(f, "{handed_off} handed off, {closed} closed, {forced} forced, {lost} lost; ")?;
        write!(f, "{requests} requests; forced: main {}, ", self.forced_main)?;
        write!(f, "tasks {}", self.forced_tasks)
    }
}
