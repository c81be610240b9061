//! The cost of restarts for the clients: the same load without restarts, then with restarts that alternate
//! between two binaries.
//!
//! `cargo bench -p unbroken-tests --bench restarts [-- --json]`. The environment sets `RESTARTS` (100),
//! `REQUESTS` (1000000, in the phase with restarts), `RATE` (8000 requests per second on kept
//! connections), `NEW` (400 per second, each on a new one) and `CONNECTIONS` (64).

#![allow(clippy::expect_used)]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use unbroken_tests::figures::{knob, quantile};
use unbroken_tests::http::{Connection, Target};
use unbroken_tests::load::{Ledger, Running};
use unbroken_tests::{Load, Sandbox};

const PATIENCE: Duration = Duration::from_secs(60);

/// The number of starts of the bare application, and of restarts without load.
const STARTS: usize = 20;

fn main() -> ExitCode {
    let as_json = std::env::args().any(|argument| argument == "--json");
    let knobs = Knobs {
        restarts: knob("RESTARTS", 100),
        requests: knob("REQUESTS", 1_000_000),
        rate: knob("RATE", 8000),
        new: knob("NEW", 400),
        connections: knob("CONNECTIONS", 64),
    };
    let bare = bare();
    let sandbox = Sandbox::new("http");
    let target = sandbox.start().target("http");

    // Restarts without load, to compare with the start of the bare application.
    let mut calm_commits = Vec::new();
    for restart in 0..STARTS {
        sandbox.deploy(if restart % 2 == 0 { "http-v2" } else { "http" });
        calm_commits.extend(sandbox.restart().to_commit_ms);
    }

    let load = knobs.start(&target);
    load.iter().for_each(|load| load.wait_for(1));
    while requests(&load) < knobs.requests / 5 {
        load[0].wait_for(100);
    }
    let quiet = load.map(Running::stop);

    let memory = private_memory(&sandbox);
    let load = knobs.start(&target);
    let (mut commits, mut drains) = (Vec::new(), Vec::new());
    for restart in 0..knobs.restarts {
        while requests(&load) < restart * knobs.requests / knobs.restarts {
            load[0].wait_for(100);
        }
        sandbox.deploy(if restart % 2 == 0 { "http-v2" } else { "http" });
        let report = sandbox.restart();
        commits.extend(report.to_commit_ms);
        drains.extend(report.to_drained_ms);
        report.ledger().assert_balanced();
    }
    while requests(&load) < knobs.requests {
        load[0].wait_for(100);
    }
    let restarted = load.map(Running::stop);
    let memory = [memory, private_memory(&sandbox)];
    sandbox.stop();

    let failed: u64 = quiet.iter().chain(&restarted).map(Ledger::failed).sum();
    if failed > 0 {
        quiet.iter().chain(&restarted).for_each(|ledger| eprintln!("{ledger}"));
    }
    let figures = Figures { knobs, bare, quiet, restarted, calm_commits, commits, drains, memory };
    if as_json {
        println!("{:#}", figures.json());
    } else {
        figures.print();
    }
    ExitCode::from(u8::from(failed > 0))
}

struct Knobs {
    restarts: u64,
    requests: u64,
    rate: u64,
    new: u64,
    connections: u64,
}

impl Knobs {
    /// Starts a load on kept connections, and one on new connections.
    fn start(&self, target: &Target) -> [Running; 2] {
        let load = || Load::on(target.clone());
        [
            load().keep_alive(self.connections as usize).rate(self.rate as f64).start(),
            load().new_connections(self.connections as usize).rate(self.new as f64).start(),
        ]
    }
}

struct Figures {
    knobs: Knobs,
    bare: Vec<f64>,
    quiet: [Ledger; 2],
    restarted: [Ledger; 2],
    calm_commits: Vec<f64>,
    commits: Vec<f64>,
    drains: Vec<f64>,
    memory: [u64; 2],
}

impl Figures {
    fn rows(&self) -> [(&'static str, &Ledger); 4] {
        [
            ("kept, left alone", &self.quiet[0]),
            ("kept, restarts", &self.restarted[0]),
            ("new, left alone", &self.quiet[1]),
            ("new, restarts", &self.restarted[1]),
        ]
    }

    fn ratio(&self) -> f64 {
        quantile(&self.calm_commits, 0.5) / quantile(&self.bare, 0.5)
    }

    fn print(&self) {
        println!(
            "{} restarts, {} + {} requests per second, {} connections each",
            self.knobs.restarts, self.knobs.rate, self.knobs.new, self.knobs.connections
        );
        println!(
            "{:<17} {:>9} {:>6} {:>9} {:>9} {:>9} {:>9} {:>7} {:>7}",
            "ms", "requests", "failed", "p50", "p99", "p99.9", "max", "told", "idle"
        );
        for (name, ledger) in self.rows() {
            let [p50, p99, p999, max] = latency(ledger);
            println!(
                "{name:<17} {:>9} {:>6} {p50:>9.3} {p99:>9.3} {p999:>9.3} {max:>9.3} {:>7} {:>7}",
                ledger.total(),
                ledger.failed(),
                ledger.told_to_close,
                ledger.idle_closed
            );
        }
        for (name, times) in [
            ("under load: to commit", &self.commits),
            ("under load: to drained", &self.drains),
            ("idle: to commit", &self.calm_commits),
            ("idle: bare exec to response", &self.bare),
        ] {
            let (p50, p99, max) =
                (quantile(times, 0.5), quantile(times, 0.99), quantile(times, 1.0));
            println!("{name:<30} p50 {p50:.1} ms  p99 {p99:.1} ms  max {max:.1} ms");
        }
        println!("{:<30} {:.2}", "idle: commit / bare, p50", self.ratio());
        println!(
            "{:<30} {} KiB, then {} KiB",
            "supervisor's private memory",
            self.memory[0] / 1024,
            self.memory[1] / 1024
        );
    }

    fn json(&self) -> Value {
        let phases: serde_json::Map<String, Value> = self
            .rows()
            .into_iter()
            .map(|(name, ledger)| {
                let [p50, p99, p999, max] = latency(ledger);
                let phase = json!({
                    "requests": ledger.total(), "failed": ledger.failed(),
                    "connections": ledger.connections, "told_to_close": ledger.told_to_close,
                    "idle_closed": ledger.idle_closed, "generations": ledger.generations().len(),
                    "p50_ms": p50, "p99_ms": p99, "p999_ms": p999, "max_ms": max,
                });
                (name.to_owned(), phase)
            })
            .collect();
        let times = |times: &[f64]| {
            json!({
                "p50_ms": quantile(times, 0.5), "p99_ms": quantile(times, 0.99),
                "max_ms": quantile(times, 1.0),
            })
        };
        json!({
            "restarts": self.knobs.restarts, "phases": phases,
            "to_commit": times(&self.commits), "to_drained": times(&self.drains),
            "idle_to_commit": times(&self.calm_commits),
            "bare_start": times(&self.bare), "commit_to_bare": self.ratio(),
            "supervisor_private_bytes": self.memory,
        })
    }
}

/// The private memory of the supervisor. The pages of a freshly copied program count as private and dirty
/// until they are written to disk, unless another process has them mapped (proc_pid_smaps(5)), so this
/// runs sync(1) first.
fn private_memory(sandbox: &Sandbox) -> u64 {
    let synced = std::process::Command::new("sync").status().expect("sync(1)");
    assert!(synced.success());
    sandbox.supervisor().private_memory().unwrap_or_default()
}

/// The times from exec to the first response of the application under `#[tokio::main]`, in milliseconds.
fn bare() -> Vec<f64> {
    let sandbox = Sandbox::new("bare-http");
    let start = || {
        let begun = Instant::now();
        let child = sandbox.spawn([""; 0]);
        child.wait_for_stdout("\n", PATIENCE);
        let target: Target = child.stdout().trim().parse().expect("an address");
        let response = Connection::open(&target).and_then(|mut it| it.get("/"));
        let took = begun.elapsed();
        assert_eq!(response.expect("a response").status, 200);
        child.process().kill();
        took.as_secs_f64() * 1000.0
    };
    (0..STARTS).map(|_| start()).collect()
}

fn requests(load: &[Running]) -> u64 {
    load.iter().map(|load| load.progress().finished()).sum()
}

fn latency(ledger: &Ledger) -> [f64; 4] {
    let quantiles = [0.5, 0.99, 0.999].map(|quantile| ledger.quantile(quantile));
    let [p50, p99, p999] = quantiles.map(|latency| latency.as_secs_f64() * 1000.0);
    [p50, p99, p999, ledger.max().as_secs_f64() * 1000.0]
}
