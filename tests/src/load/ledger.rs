use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::http::Response;

/// The outcome of a request. Each request has exactly one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// A complete response with a status below 400.
    Ok,
    /// The connection was refused: no process listened.
    ConnectRefused,
    /// The connection was not established in time.
    ConnectTimeout,
    /// The connection failed for another reason.
    ConnectOther,
    /// The connection was reset before the first byte of a response.
    Reset,
    /// The connection ended before the first byte of a response.
    Closed,
    /// The connection ended, or was reset, within a response.
    Truncated,
    /// A complete response with another status.
    BadStatus,
    /// The bytes received are not an HTTP response.
    Malformed,
    /// The response was not complete in time.
    Timeout,
    /// Another error of the socket occurred.
    Io,
}

impl Outcome {
    /// All outcomes, in the order of their declaration: the discriminant is the index.
    pub const ALL: [Outcome; 11] = [
        Outcome::Ok,
        Outcome::ConnectRefused,
        Outcome::ConnectTimeout,
        Outcome::ConnectOther,
        Outcome::Reset,
        Outcome::Closed,
        Outcome::Truncated,
        Outcome::BadStatus,
        Outcome::Malformed,
        Outcome::Timeout,
        Outcome::Io,
    ];
}

/// The results of a load: every request by its outcome, and what became of the connections.
#[derive(Clone)]
pub struct Ledger {
    outcomes: [u64; Outcome::ALL.len()],
    /// The number of connections opened.
    pub connections: u64,
    /// The number of kept connections that the server closed while they were idle. The client noticed
    /// before it wrote a request, so nothing was lost.
    pub idle_closed: u64,
    /// The number of kept connections that the server ended by `Connection: close` in a response.
    pub told_to_close: u64,
    /// The number of kept connections on which the server sent bytes without a request.
    pub unsolicited: u64,
    /// The number of connections that were reset, instead of closed, after a complete last response.
    pub reset_after_response: u64,
    /// The number of connections that did not end in time after a complete last response.
    pub never_closed: u64,
    /// The processes that answered, in the order of their first response.
    pub seen: Vec<Seen>,
    /// The latencies in microseconds, from the start of a request (open loop: from when it was due) to
    /// its response or timeout.
    pub latency: Histogram<u64>,
    /// A thinned series of requests, if [`samples`](super::Load::samples) was set.
    pub samples: Vec<Sample>,
    /// The first failures of each of the load's clients, in order of time.
    pub failures: Vec<Failure>,
    /// The start of the load. All times in the ledger are relative to it.
    pub start: Instant,
    /// The time from the start of the load to the last response.
    pub elapsed: Duration,
}

/// A process that answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// The generation of the process.
    pub generation: u64,
    /// The PID of the process.
    pub pid: u64,
    /// The number of its responses.
    pub responses: u64,
    /// The time of its first response, from the start of the load.
    pub first: Duration,
    /// The time of its last response, from the start of the load.
    pub last: Duration,
}

/// One request in a series.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// The time at which it started (open loop: was due), from the start of the load.
    pub at: Duration,
    /// The time from start to end.
    pub latency: Duration,
    /// Whether the outcome was [`Outcome::Ok`].
    pub ok: bool,
}

/// One failed request, for the message of a failing test.
#[derive(Debug, Clone)]
pub struct Failure {
    /// The time at which it started, from the start of the load.
    pub at: Duration,
    /// The outcome.
    pub outcome: Outcome,
    /// The error, and the number of the request on its connection.
    pub detail: String,
    /// The client's own address, which is the peer's address for the server, if there was a connection.
    pub local: Option<SocketAddr>,
}

const SAMPLES: usize = 4096;
/// The most failures that each client keeps. Failures with a connection have the higher limit: a test may
/// look up each of them among the connections that the server accepted.
const FAILURES: usize = 5;
const CONNECTED_FAILURES: usize = 10_000;

impl Ledger {
    pub(super) fn new(start: Instant) -> Self {
        Self {
            outcomes: Default::default(),
            connections: 0,
            idle_closed: 0,
            told_to_close: 0,
            unsolicited: 0,
            reset_after_response: 0,
            never_closed: 0,
            seen: Vec::new(),
            latency: Histogram::new_with_bounds(1, 600_000_000, 3).expect("the bounds are valid"),
            samples: Vec::new(),
            failures: Vec::new(),
            start,
            elapsed: Duration::ZERO,
        }
    }

    /// Returns the number of requests with this outcome.
    pub fn count(&self, outcome: Outcome) -> u64 {
        self.outcomes[outcome as usize]
    }

    /// Returns the number of all requests.
    pub fn total(&self) -> u64 {
        self.outcomes.iter().sum()
    }

    /// Returns the number of requests with the outcome [`Outcome::Ok`].
    pub fn ok(&self) -> u64 {
        self.count(Outcome::Ok)
    }

    /// Returns the number of requests with any other outcome.
    pub fn failed(&self) -> u64 {
        self.total() - self.ok()
    }

    /// Returns the generations that answered, in the order of their first response.
    pub fn generations(&self) -> Vec<u64> {
        let mut generations: Vec<u64> = self.seen.iter().map(|seen| seen.generation).collect();
        generations.dedup();
        generations
    }

    /// Returns the number of responses from a generation.
    pub fn responses_of(&self, generation: u64) -> u64 {
        let of = self.seen.iter().filter(|seen| seen.generation == generation);
        of.map(|seen| seen.responses).sum()
    }

    /// Returns the latency at a quantile; 0.5 is the median.
    pub fn quantile(&self, quantile: f64) -> Duration {
        Duration::from_micros(self.latency.value_at_quantile(quantile))
    }

    /// Returns the longest latency.
    pub fn max(&self) -> Duration {
        Duration::from_micros(self.latency.max())
    }

    /// Returns how often the server ended a connection that the client would have kept, properly or not.
    pub fn ended_by_server(&self) -> u64 {
        let lost = [Outcome::Reset, Outcome::Closed, Outcome::Truncated];
        self.idle_closed
            + self.told_to_close
            + self.reset_after_response
            + lost.map(|outcome| self.count(outcome)).iter().sum::<u64>()
    }

    /// # Panics
    ///
    /// If any request failed, or none was made. The message has all results.
    pub fn assert_nothing_failed(&self) {
        assert!(self.failed() == 0 && self.ok() > 0, "requests failed\n{self}");
    }

    pub(super) fn tally(&mut self, outcome: Outcome) {
        self.outcomes[outcome as usize] += 1;
    }

    pub(super) fn fail(&mut self, failure: Failure) {
        self.tally(failure.outcome);
        let limit = if failure.local.is_some() { CONNECTED_FAILURES } else { FAILURES };
        if self.failures.len() < limit {
            self.failures.push(failure);
        }
    }

    pub(super) fn record(&mut self, latency: Duration) {
        self.latency.saturating_record(latency.as_micros() as u64);
    }

    /// Records the process that answered, and returns its generation.
    pub(super) fn note(&mut self, response: &Response, at: Duration) -> Option<u64> {
        let generation = response.number("generation")?;
        let pid = response.number("pid")?;
        let known = |seen: &&mut Seen| seen.pid == pid && seen.generation == generation;
        match self.seen.iter_mut().rev().find(known) {
            Some(seen) => {
                seen.responses += 1;
                seen.last = at;
            }
            None => {
                self.seen.push(Seen { generation, pid, responses: 1, first: at, last: at });
            }
        }
        Some(generation)
    }

    pub(super) fn merge(&mut self, other: Ledger) {
        for (mine, theirs) in self.outcomes.iter_mut().zip(other.outcomes) {
            *mine += theirs;
        }
        self.connections += other.connections;
        self.idle_closed += other.idle_closed;
        self.told_to_close += other.told_to_close;
        self.unsolicited += other.unsolicited;
        self.reset_after_response += other.reset_after_response;
        self.never_closed += other.never_closed;
        for theirs in other.seen {
            let known =
                |seen: &&mut Seen| seen.pid == theirs.pid && seen.generation == theirs.generation;
            match self.seen.iter_mut().find(known) {
                Some(mine) => {
                    mine.responses += theirs.responses;
                    mine.first = mine.first.min(theirs.first);
                    mine.last = mine.last.max(theirs.last);
                }
                None => self.seen.push(theirs),
            }
        }
        self.seen.sort_by_key(|seen| seen.first);
        self.latency.add(other.latency).expect("the bounds are the same");
        self.samples.extend(other.samples);
        self.samples.sort_by_key(|sample| sample.at);
        self.failures.extend(other.failures);
        self.failures.sort_by_key(|failure| failure.at);
        self.elapsed = self.elapsed.max(other.elapsed);
    }
}

/// Keeps every n-th sample. Whenever there are too many samples, n doubles and every second one is dropped.
#[derive(Debug)]
pub(super) struct Thinned {
    samples: Vec<Sample>,
    every: u64,
    seen: u64,
}

impl Thinned {
    pub(super) fn new() -> Self {
        Self { samples: Vec::new(), every: 1, seen: 0 }
    }

    pub(super) fn push(&mut self, sample: Sample) {
        if self.seen.is_multiple_of(self.every) {
            if self.samples.len() == SAMPLES {
                let mut index = 0;
                self.samples.retain(|_| {
                    index += 1;
                    index % 2 == 1
                });
                self.every *= 2;
            }
            if self.seen.is_multiple_of(self.every) {
                self.samples.push(sample);
            }
        }
        self.seen += 1;
    }

    pub(super) fn into_samples(self) -> Vec<Sample> {
        self.samples
    }
}

impl fmt::Display for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.elapsed.as_secs_f64();
        writeln!(f, "{} requests in {seconds:.1} s, {} failed", self.total(), self.failed())?;
        for outcome in Outcome::ALL {
            if self.count(outcome) > 0 {
                writeln!(f, "  {:>9} {outcome:?}", self.count(outcome))?;
            }
        }
        writeln!(
            f,
            "connections {} opened, {} told to close, {} closed while idle",
            self.connections, self.told_to_close, self.idle_closed
        )?;
        for (count, what) in [
            (self.unsolicited, "spoke unasked"),
            (self.reset_after_response, "reset after the response"),
            (self.never_closed, "never closed"),
        ] {
            if count > 0 {
                writeln!(f, "  {count:>9} {what}")?;
            }
        }
        writeln!(
            f,
            "latency p50 {:?} p99 {:?} p99.9 {:?} max {:?}",
            self.quantile(0.5),
            self.quantile(0.99),
            self.quantile(0.999),
            self.max()
        )?;
        for seen in &self.seen {
            writeln!(
                f,
                "generation {} pid {}: {} responses, {:.3} s to {:.3} s",
                seen.generation,
                seen.pid,
                seen.responses,
                seen.first.as_secs_f64(),
                seen.last.as_secs_f64()
            )?;
        }
        for failure in self.failures.iter().take(20) {
            let at = failure.at.as_secs_f64();
            writeln!(f, "at {at:.3} s {:?}: {}", failure.outcome, failure.detail)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
