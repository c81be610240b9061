//! Requests per second, and the processor time of a request.

use std::time::Duration;

use serde_json::{Value, json};
use unbroken_tests::Load;
use unbroken_tests::figures::{knob, quantile};

use super::GOAL;
use super::server::Server;

/// The results of all rounds. `rates` and `cpu` are medians.
pub(crate) struct Comparison {
    connections: usize,
    /// Requests per second: bare, daemon.
    rates: [f64; 2],
    /// Microseconds of processor time per request: bare, daemon.
    cpu: [f64; 2],
    /// The daemon's rate divided by the bare one's in each round. A disturbance of a round affects both.
    ratios: Vec<f64>,
}

pub(crate) fn compare(connections: usize) -> Comparison {
    let (rounds, length) = (knob("ROUNDS", 25), Duration::from_millis(knob("ROUND_MS", 500)));
    let servers = [Server::bare(&[]), Server::daemon(&[])];
    let measure = |server: &Server| {
        let before = server.cpu_time();
        let ledger = Load::on(server.target.clone()).keep_alive(connections).duration(length).run();
        let cpu = server.cpu_time() - before;
        ledger.assert_nothing_failed();
        let requests = ledger.total() as f64;
        (requests / ledger.elapsed.as_secs_f64(), cpu.as_secs_f64() * 1e6 / requests)
    };
    // Warm up.
    for server in &servers {
        measure(server);
    }
    let (mut rates, mut cpu) = ([vec![], vec![]], [vec![], vec![]]);
    for round in 0..rounds as usize {
        // The servers take turns at being the first.
        for which in [round % 2, 1 - round % 2] {
            let (rate, time) = measure(&servers[which]);
            rates[which].push(rate);
            cpu[which].push(time);
        }
    }
    let ratios = rates[1].iter().zip(&rates[0]).map(|(daemon, bare)| daemon / bare).collect();
    let median = |of: Vec<f64>| quantile(&of, 0.5);
    Comparison { connections, rates: rates.map(median), cpu: cpu.map(median), ratios }
}

impl Comparison {
    fn ratio(&self) -> f64 {
        quantile(&self.ratios, 0.5)
    }

    pub(crate) fn print(&self) {
        let Comparison { connections, rates: [bare, daemon], cpu, ratios } = self;
        let ratio = self.ratio();
        let goal = if ratio < GOAL { format!(", below the goal of {GOAL}") } else { String::new() };
        let least = ratios.iter().copied().fold(f64::INFINITY, f64::min);
        let most = ratios.iter().copied().fold(0.0, f64::max);
        println!(
            "{connections:>2} connections: requests/s  bare {bare:>8.0}  daemon {daemon:>8.0}  \
             {ratio:.3} ({least:.2} to {most:.2}){goal}"
        );
        println!(
            "                cpu µs/req  bare {:>8.2}  daemon {:>8.2}  {:.3}",
            cpu[0],
            cpu[1],
            cpu[1] / cpu[0]
        );
    }

    pub(crate) fn json(&self) -> Value {
        json!({
            "connections": self.connections, "bare_per_second": self.rates[0],
            "daemon_per_second": self.rates[1], "ratio": self.ratio(), "ratios": self.ratios,
            "bare_cpu_us": self.cpu[0], "daemon_cpu_us": self.cpu[1],
        })
    }
}
