use std::fmt;
use std::time::{Duration, Instant};

/// The most failures that a report keeps.
const MAX_FAILURES: usize = 10;

/// The results of a load: counts, latencies and the first failures.
#[derive(Debug, Clone)]
pub struct LoadReport {
    listener: String,
    start: Instant,
    /// In microseconds, of each request that has succeeded.
    latencies: Vec<u32>,
    failed: u64,
    failures: Vec<Failure>,
    pub(super) connections: u64,
    pub(super) reopened: u64,
}

/// A request that failed.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Failure {
    /// The time from the start of the load to the start of the request.
    pub at: Duration,
    /// The error.
    pub error: String,
}

impl LoadReport {
    pub(super) fn new(listener: &str) -> Self {
        LoadReport {
            listener: listener.to_owned(),
            start: Instant::now(),
            latencies: Vec::new(),
            failed: 0,
            failures: Vec::new(),
            connections: 0,
            reopened: 0,
        }
    }

    pub(super) fn succeeded(&mut self, latency: Duration) {
        self.latencies.push(u32::try_from(latency.as_micros()).unwrap_or(u32::MAX));
    }

    pub(super) fn fail(&mut self, begun: Instant, error: String) {
        self.failed += 1;
        if self.failures.len() < MAX_FAILURES {
            let at = begun.saturating_duration_since(self.start);
            self.failures.push(Failure { at, error });
        }
    }

    /// The number of requests made.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.latencies.len() as u64 + self.failed
    }

    /// The number of requests that failed.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.failed
    }

    /// The first failures, at most ten.
    #[must_use]
    pub fn failures(&self) -> &[Failure] {
        &self.failures
    }

    /// The number of connections opened.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.connections
    }

    /// The number of kept connections that the daemon closed between two requests. Clients opened new ones,
    /// and nothing was lost.
    #[must_use]
    pub fn reopened(&self) -> u64 {
        self.reopened
    }

    /// Returns the latency at a quantile of the requests that succeeded: 0.5 is the median, 1.0 the longest.
    #[must_use]
    pub fn latency(&self, quantile: f64) -> Duration {
        let mut sorted = self.latencies.clone();
        sorted.sort_unstable();
        let last = sorted.len().saturating_sub(1);
        let index = (quantile.clamp(0.0, 1.0) * last as f64).round() as usize;
        sorted.get(index).map_or(Duration::ZERO, |us| Duration::from_micros((*us).into()))
    }

    /// Asserts that every request has succeeded, and that there were any.
    ///
    /// # Panics
    ///
    /// If a request failed. The message has the first failures.
    #[track_caller]
    pub fn assert_nothing_lost(&self) -> &Self {
        assert!(self.requests() > 0, "the load made no request, which shows nothing");
        assert!(self.failed == 0, "{} of {} requests failed\n{self}", self.failed, self.requests());
        self
    }
}

impl fmt::Display for LoadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let LoadReport { listener, failed, connections, reopened, .. } = self;
        let quantiles = [0.5, 0.99, 1.0].map(|quantile| self.latency(quantile));
        let [median, most, longest] = quantiles;
        writeln!(f, "--- load on `{listener}`")?;
        writeln!(f, "{} requests, {failed} failed", self.requests())?;
        writeln!(f, "{connections} connections, {reopened} after the daemon closed an idle one")?;
        writeln!(f, "latency: p50 {median:.1?}, p99 {most:.1?}, longest {longest:.1?}")?;
        for Failure { at, error } in &self.failures {
            writeln!(f, "failed at {:.3} s: {error}", at.as_secs_f64())?;
        }
        f.write_str("---")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_latency() {
        let mut report = LoadReport::new("http");
        assert_eq!(report.latency(0.5), Duration::ZERO);
        (0..=100).rev().for_each(|ms| report.succeeded(Duration::from_millis(ms)));
        let latencies = [0.0, 0.5, 0.99, 1.0].map(|it| report.latency(it).as_millis());
        assert_eq!(latencies, [0, 50, 99, 100]);
    }

    #[test]
    fn first_failures_are_kept() {
        let mut report = LoadReport::new("http");
        (0..20).for_each(|number| report.fail(Instant::now(), format!("failure {number}")));
        assert_eq!((report.requests(), report.failures().len()), (20, MAX_FAILURES));
        assert!(report.to_string().contains("s: failure 0\n"), "{report}");
    }

    #[test]
    #[should_panic(expected = "made no request")]
    fn load_without_requests_shows_nothing() {
        LoadReport::new("http").assert_nothing_lost();
    }
}
