use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::timeout;

use super::exchange::{Channel, End, Idle, Lost};
use super::ledger::Thinned;
use super::pace::{Pace, Timer};
use super::{Failure, Ledger, Load, Outcome, Progress, Sample};
use crate::http::Response;

/// The pause after a connection that could not be established. Without it a closed loop against an address
/// at which no process listens would spin.
const BREATH: Duration = Duration::from_millis(1);

/// The time that a connection may stay open after its last response, before it counts as never closed.
const LINGER: Duration = Duration::from_secs(10);

pub(super) async fn run(
    load: Load,
    progress: Arc<Progress>,
    stopped: watch::Receiver<bool>,
) -> Ledger {
    let pace = Arc::new(Pace::new(load.requests, load.duration, load.rate));
    let opened = Arc::new(AtomicU64::new(0));
    let requests = load.paths.iter().map(|path| request(path, load.keep_alive)).collect();
    let requests: Arc<[Vec<u8>]> = requests;
    let load = Arc::new(load);
    let mut workers = Vec::new();
    for _ in 0..load.connections {
        let worker = Worker {
            load: Arc::clone(&load),
            requests: Arc::clone(&requests),
            progress: Arc::clone(&progress),
            pace: Arc::clone(&pace),
            opened: Arc::clone(&opened),
            stopped: stopped.clone(),
            timer: Timer::new().expect("a timer"),
            ledger: Ledger::new(pace.start),
            samples: Thinned::new(),
            channel: None,
        };
        workers.push(tokio::spawn(worker.run()));
    }
    let mut ledger = Ledger::new(pace.start);
    for worker in workers {
        ledger.merge(worker.await.expect("the load's worker does not panic"));
    }
    ledger
}

fn request(path: &str, keep_alive: bool) -> Vec<u8> {
    let close = if keep_alive { "" } else { "Connection: close\r\n" };
    format!("GET {path} HTTP/1.1\r\nHost: test\r\n{close}\r\n").into_bytes()
}

/// A client with at most one connection at a time.
struct Worker {
    load: Arc<Load>,
    requests: Arc<[Vec<u8>]>,
    progress: Arc<Progress>,
    pace: Arc<Pace>,
    opened: Arc<AtomicU64>,
    stopped: watch::Receiver<bool>,
    timer: Timer,
    ledger: Ledger,
    samples: Thinned,
    channel: Option<Channel>,
}

impl Worker {
    async fn run(mut self) -> Ledger {
        while !*self.stopped.borrow() {
            let Some((index, due)) = self.pace.deal() else { break };
            if let Some(due) = due
                && !self.sleep_until(due).await
            {
                break;
            }
            self.one(index, due.unwrap_or_else(Instant::now)).await;
            self.ledger.elapsed = self.pace.start.elapsed();
            if !self.load.pause.is_zero()
                && due.is_none()
                && !self.sleep_until(Instant::now() + self.load.pause).await
            {
                break;
            }
        }
        self.drop_channel();
        self.ledger.samples = self.samples.into_samples();
        self.ledger
    }

    /// Returns `false` if the load was stopped first.
    async fn sleep_until(&mut self, due: Instant) -> bool {
        tokio::select! {
            biased;
            stopped = self.stopped.wait_for(|stopped| *stopped) => { drop(stopped); false }
            slept = self.timer.sleep_until(due) => { slept.expect("a timer"); true }
        }
    }

    async fn one(&mut self, index: u64, started: Instant) {
        self.progress.begin();
        let at = started.saturating_duration_since(self.pace.start);
        let patience = self.load.timeout;
        let result = match timeout(patience, self.attempt(index)).await {
            Ok(result) => result,
            Err(_) => {
                Err(Lost { outcome: Outcome::Timeout, detail: format!("{patience:?} passed") })
            }
        };
        let latency = started.elapsed();
        let timed_out = matches!(&result, Err(lost) if lost.outcome == Outcome::Timeout);
        if result.is_ok() || timed_out {
            self.ledger.record(latency);
        }
        if self.load.samples {
            let ok = matches!(&result, Ok(response) if response.status < 400);
            self.samples.push(Sample { at, latency, ok });
        }
        match result {
            Ok(response) => {
                let now = self.pace.start.elapsed();
                let generation = self.ledger.note(&response, now);
                let ok = response.status < 400;
                if ok {
                    self.ledger.tally(Outcome::Ok);
                } else {
                    let detail = format!("status {}: {}", response.status, response.text());
                    self.fail(at, Lost { outcome: Outcome::BadStatus, detail });
                }
                self.progress.end(ok, generation);
                self.settle(&response).await;
            }
            Err(lost) => {
                let connected = self.channel.is_some();
                self.fail(at, lost);
                self.drop_channel();
                self.progress.end(false, None);
                if !connected {
                    tokio::time::sleep(BREATH).await;
                }
            }
        }
    }

    fn fail(&mut self, at: Duration, lost: Lost) {
        let requests = self.channel.as_ref().map_or(0, |channel| channel.requests);
        let Lost { outcome, detail } = lost;
        let detail = format!("{detail} (request {requests} of the connection)");
        let local = self.channel.as_ref().and_then(Channel::local);
        self.ledger.fail(Failure { at, outcome, detail, local });
    }

    async fn attempt(&mut self, index: u64) -> Result<Response, Lost> {
        match self.channel.as_ref().map(Channel::idle) {
            Some(Idle::Closed) => {
                self.ledger.idle_closed += 1;
                self.drop_channel();
            }
            Some(Idle::Unsolicited) => {
                self.ledger.unsolicited += 1;
                self.drop_channel();
            }
            Some(Idle::Usable) | None => {}
        }
        if self.channel.is_none() {
            let number = self.opened.fetch_add(1, Ordering::Relaxed);
            let patience = self.load.connect_timeout;
            self.channel = Some(Channel::open(&self.load.target, number, patience).await?);
            self.ledger.connections += 1;
            self.progress.opened();
        }
        let request = &self.requests[(index % self.requests.len() as u64) as usize];
        match &mut self.channel {
            Some(channel) => channel.exchange(request).await,
            None => unreachable!("opened above"),
        }
    }

    /// Keeps the connection after a response, or waits for its end, as the response requires.
    async fn settle(&mut self, response: &Response) {
        if self.load.keep_alive && response.keep_alive {
            return;
        }
        if self.load.keep_alive {
            self.ledger.told_to_close += 1;
        }
        if let Some(channel) = &mut self.channel {
            match channel.linger(LINGER).await {
                End::Closed => {}
                End::Reset => self.ledger.reset_after_response += 1,
                End::Never => self.ledger.never_closed += 1,
                End::Unsolicited => self.ledger.unsolicited += 1,
            }
        }
        self.drop_channel();
    }

    fn drop_channel(&mut self) {
        if self.channel.take().is_some() {
            self.progress.closed();
        }
    }
}
