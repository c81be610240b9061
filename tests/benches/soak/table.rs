//! The figures of a soak, as text and as JSON.

use std::time::Duration;

use serde_json::{Value, json};
use unbroken_tests::accepted::Explained;
use unbroken_tests::load::Ledger;

use crate::faults::Fault;

/// The additional descriptors of the supervisor that one more listener may leave, because the previous
/// generation, which had it, is kept.
pub(crate) const LISTENER: usize = 1;

/// The state of the daemon and the loads at one time.
pub(crate) struct Sample {
    pub(crate) at: Duration,
    pub(crate) requests: u64,
    pub(crate) failed: u64,
    pub(crate) restarts: usize,
    pub(crate) faults: usize,
    /// `Private_Dirty` of the supervisor, in bytes.
    pub(crate) memory: u64,
    /// Open descriptors of the supervisor.
    pub(crate) descriptors: usize,
    pub(crate) of_worker: usize,
}

pub(crate) struct Figures {
    pub(crate) seed: u64,
    pub(crate) seconds: u64,
    pub(crate) ledgers: [Ledger; 2],
    pub(crate) explained: [Explained; 2],
    pub(crate) samples: Vec<Sample>,
    pub(crate) done: Vec<Fault>,
}

impl Figures {
    fn counts(&self) -> Vec<(Fault, usize)> {
        let count = |fault: Fault| self.done.iter().filter(|done| **done == fault).count();
        Fault::ALL.into_iter().map(|fault| (fault, count(fault))).collect()
    }

    fn rows(&self) -> [(&'static str, &Ledger, &Explained); 2] {
        [
            ("kept", &self.ledgers[0], &self.explained[0]),
            ("new", &self.ledgers[1], &self.explained[1]),
        ]
    }

    pub(crate) fn print(&self) {
        println!("{} seconds with seed {}", self.seconds, self.seed);
        println!(
            "{:>8} {:>9} {:>7} {:>9} {:>7} {:>11} {:>11} {:>10}",
            "s", "requests", "failed", "restarts", "faults", "memory KiB", "supervisor", "worker"
        );
        for it in &self.samples {
            println!(
                "{:>8.1} {:>9} {:>7} {:>9} {:>7} {:>11} {:>8} fds {:>6} fds",
                it.at.as_secs_f64(),
                it.requests,
                it.failed,
                it.restarts,
                it.faults,
                it.memory / 1024,
                it.descriptors,
                it.of_worker
            );
        }
        let counts = self.counts();
        let counts: Vec<_> =
            counts.iter().map(|(fault, count)| format!("{count} {fault:?}")).collect();
        println!("{}", counts.join(", "));
        for (name, ledger, explained) in self.rows() {
            println!(
                "{name:<5} {} requests, {} failed: {} with a killed process, {} accepted by nobody; \
                 p99 {:.1} ms, max {:.1} ms",
                ledger.total(),
                ledger.failed(),
                explained.lost,
                explained.unaccepted,
                ledger.quantile(0.99).as_secs_f64() * 1000.0,
                ledger.max().as_secs_f64() * 1000.0
            );
        }
    }

    pub(crate) fn json(&self) -> Value {
        let loads = self.rows().map(|(name, ledger, explained)| {
            json!({
                "load": name, "requests": ledger.total(), "failed": ledger.failed(),
                "lost_with_a_killed_process": explained.lost,
                "accepted_by_nobody": explained.unaccepted, "refused": explained.refused,
                "wrong": explained.wrong,
                "p99_ms": ledger.quantile(0.99).as_secs_f64() * 1000.0,
                "max_ms": ledger.max().as_secs_f64() * 1000.0,
            })
        });
        let samples: Vec<Value> = self
            .samples
            .iter()
            .map(|it| {
                json!({
                    "at_s": it.at.as_secs_f64(), "requests": it.requests, "failed": it.failed,
                    "restarts": it.restarts, "faults": it.faults,
                    "supervisor_private_bytes": it.memory,
                    "supervisor_descriptors": it.descriptors, "worker_descriptors": it.of_worker,
                })
            })
            .collect();
        let counts: serde_json::Map<String, Value> = self
            .counts()
            .into_iter()
            .map(|(fault, count)| (format!("{fault:?}"), count.into()))
            .collect();
        json!({
            "seed": self.seed, "seconds": self.seconds, "faults": counts, "loads": loads,
            "samples": samples,
        })
    }
}
