//! A client that puts a server under load and records the outcome of every request.
//!
//! No request is retried: each ends in exactly one [`Outcome`]. Before the client writes a request to a kept
//! connection, it checks whether the server has closed that connection. If so, it opens a new one, as any
//! correct client does, and counts that in [`Ledger::idle_closed`].
//!
//! `worker` runs the clients, one connection at a time each; `pace` says when each request is due; `exchange`
//! sends a request and classifies the failure; `progress` shows the running load to the test; `ledger` has
//! the results.

mod exchange;
mod ledger;
mod pace;
mod progress;
mod worker;

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub use ledger::{Failure, Ledger, Outcome, Sample, Seen};
pub use progress::Progress;

use crate::http::Target;

/// The settings of a load. By default it is a closed loop with a new connection for each request.
#[derive(Debug, Clone)]
pub struct Load {
    target: Target,
    connections: usize,
    keep_alive: bool,
    rate: Option<f64>,
    pause: Duration,
    requests: Option<u64>,
    duration: Option<Duration>,
    paths: Vec<String>,
    timeout: Duration,
    connect_timeout: Duration,
    samples: bool,
    threads: usize,
}

impl Load {
    /// Creates a load of one connection at a time, each for one request to `/`, without an end.
    pub fn on(target: impl Into<Target>) -> Self {
        Self {
            target: target.into(),
            connections: 1,
            keep_alive: false,
            rate: None,
            pause: Duration::ZERO,
            requests: None,
            duration: None,
            paths: vec!["/".into()],
            timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(5),
            samples: false,
            threads: 1,
        }
    }

    /// Uses at most this many connections at a time, each kept for many requests.
    pub fn keep_alive(self, connections: usize) -> Self {
        Self { connections, keep_alive: true, ..self }
    }

    /// Uses at most this many connections at a time, each for one request.
    pub fn new_connections(self, connections: usize) -> Self {
        Self { connections, keep_alive: false, ..self }
    }

    /// Makes the load an open loop: this many requests per second, whether or not the server keeps up.
    /// Latency counts from the moment at which a request was due, so a stall delays all requests behind it.
    pub fn rate(self, per_second: f64) -> Self {
        Self { rate: Some(per_second), ..self }
    }

    /// Sets the time that each connection of a closed loop waits after a response.
    pub fn pause(self, pause: Duration) -> Self {
        Self { pause, ..self }
    }

    /// Ends the load after this many requests.
    pub fn requests(self, requests: u64) -> Self {
        Self { requests: Some(requests), ..self }
    }

    /// Ends the load after this time.
    pub fn duration(self, duration: Duration) -> Self {
        Self { duration: Some(duration), ..self }
    }

    /// Sets the paths to request, in turn.
    pub fn paths<P: Into<String>>(self, paths: impl IntoIterator<Item = P>) -> Self {
        let paths: Vec<String> = paths.into_iter().map(Into::into).collect();
        assert!(!paths.is_empty(), "a load needs a path");
        Self { paths, ..self }
    }

    /// Sets the time a request may take, including its connection.
    pub fn timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// Sets the time that establishing a connection may take.
    pub fn connect_timeout(self, connect_timeout: Duration) -> Self {
        Self { connect_timeout, ..self }
    }

    /// Keeps a thinned series of requests with their times and latencies, for plots.
    pub fn samples(self) -> Self {
        Self { samples: true, ..self }
    }

    /// Sets the number of threads of the client.
    pub fn threads(self, threads: usize) -> Self {
        Self { threads, ..self }
    }

    /// Starts the load on threads of its own.
    pub fn start(self) -> Running {
        let progress = Arc::new(Progress::default());
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let shared = Arc::clone(&progress);
        let thread = std::thread::Builder::new()
            .name("load".into())
            .spawn(move || {
                let runtime = tokio::runtime::Builder::new_multi_thread()
                    .worker_threads(self.threads)
                    .enable_all()
                    .build()
                    .expect("a runtime for the load");
                runtime.block_on(worker::run(self, shared, stopped))
            })
            .expect("a thread for the load");
        Running { progress, stop, thread: Some(thread) }
    }

    /// Runs the load to its end.
    ///
    /// # Panics
    ///
    /// If the load has neither a number of requests nor a duration.
    pub fn run(self) -> Ledger {
        assert!(self.requests.is_some() || self.duration.is_some(), "this load has no end");
        self.start().join()
    }
}

/// A load that runs. Dropping it stops the load.
#[derive(Debug)]
pub struct Running {
    progress: Arc<Progress>,
    stop: tokio::sync::watch::Sender<bool>,
    thread: Option<JoinHandle<Ledger>>,
}

impl Running {
    /// The counters of the load so far.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Waits until this many more requests have ended, with any outcome.
    ///
    /// # Panics
    ///
    /// If that takes longer than a minute.
    pub fn wait_for(&self, more: u64) {
        let until = self.progress.finished() + more;
        self.wait(&format!("{more} more requests"), |progress| progress.finished() >= until);
    }

    /// Waits until a response from this generation or a newer one has arrived.
    ///
    /// # Panics
    ///
    /// If that takes longer than a minute.
    pub fn wait_for_generation(&self, generation: u64) {
        self.wait(&format!("generation {generation}"), |progress| {
            progress.newest_generation() >= generation
        });
    }

    fn wait(&self, what: &str, done: impl Fn(&Progress) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(60);
        assert!(self.progress.wait(deadline, done), "no {what} in a minute: {:?}", self.progress);
    }

    /// Starts no more requests, waits for those in flight, and returns the results.
    pub fn stop(self) -> Ledger {
        let _ = self.stop.send(true);
        self.join()
    }

    /// Waits for the end of a load that has one, and returns the results.
    pub fn join(mut self) -> Ledger {
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(ledger)) => ledger,
            Some(Err(panic)) => std::panic::resume_unwind(panic),
            None => unreachable!("joined only once"),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.stop.send(true);
    }
}

#[cfg(test)]
mod tests;
