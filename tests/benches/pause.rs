//! The pause of a restart: the latency of requests during restarts, and the time in which idle connections
//! are handed off.
//!
//! `cargo bench -p unbroken-tests --bench pause [-- --json]`. The environment sets `RESTARTS` (10), `RATE`
//! (2000 requests per second) on `CONNECTIONS` (64) kept connections, and `IDLE` (1000,5000,15000), the
//! numbers of idle connections. The handoff is timed from the commit to the end of the old worker, which has
//! nothing else to do.

#![allow(clippy::expect_used)]

#[path = "peers/machine.rs"]
mod machine;

use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;
use unbroken_tests::figures::{knob, quantile};
use unbroken_tests::http::Connection;
use unbroken_tests::load::Ledger;
use unbroken_tests::{Load, Sandbox};

use self::machine::Machine;

fn main() {
    let limit = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: limit, maximum: limit }).expect("a limit");
    let restarts = knob("RESTARTS", 10);
    let (rate, connections) = (knob("RATE", 2000), knob("CONNECTIONS", 64));
    let idle = std::env::var("IDLE").unwrap_or_else(|_| "1000,5000,15000".into());
    let idle = idle.split(',').map(|count| count.trim().parse::<usize>().expect("IDLE"));

    let (ledger, commands) = busy(connections, rate, restarts);
    ledger.assert_nothing_failed();
    let [p50, p99, p999] = [0.5, 0.99, 0.999].map(|quantile| ms(ledger.quantile(quantile)));
    let max = ms(ledger.max());
    let idle: Vec<_> = idle.map(|count| (count, idle_connections(count, restarts))).collect();

    let machine = Machine::this();
    if std::env::args().any(|argument| argument == "--json") {
        let idle: Vec<_> = idle
            .iter()
            .map(|(count, times)| {
                let (median, most) = (quantile(times, 0.5), quantile(times, 1.0));
                json!({ "connections": count, "p50_ms": median, "max_ms": most })
            })
            .collect();
        println!(
            "{:#}",
            json!({
                "kernel": machine.kernel, "cpu": machine.cpu, "cpus": machine.cpus,
                "date": machine.date, "restarts": restarts, "rate": rate,
                "connections": connections, "requests": ledger.total(), "failed": ledger.failed(),
                "p50_ms": p50, "p99_ms": p99, "p999_ms": p999, "max_ms": max,
                "command_p50_ms": quantile(&commands, 0.5),
                "command_max_ms": quantile(&commands, 1.0), "idle": idle,
            })
        );
        return;
    }
    println!("{machine}\n");
    println!(
        "{connections} kept connections, {rate} requests/s, {restarts} restarts: {} requests, {} failed",
        ledger.total(),
        ledger.failed()
    );
    println!("response      p50 {p50:.3} ms  p99 {p99:.3} ms  p99.9 {p999:.3} ms  max {max:.3} ms");
    let (median, most) = (quantile(&commands, 0.5), quantile(&commands, 1.0));
    println!("`restart`     p50 {median:.1} ms  max {most:.1} ms");
    for (count, times) in idle {
        let (median, most) = (quantile(&times, 0.5), quantile(&times, 1.0));
        println!("{count:>6} idle   p50 {median:.1} ms  max {most:.1} ms");
    }
}

/// Sends requests during restarts. Returns their ledger, and the time that each `restart` took in
/// milliseconds.
fn busy(connections: usize, rate: usize, restarts: usize) -> (Ledger, Vec<f64>) {
    let sandbox = Sandbox::new("http");
    let target = sandbox.start().target("http");
    let load = Load::on(target).keep_alive(connections).rate(rate as f64).start();
    let mut commands = Vec::new();
    for restart in 0..restarts {
        load.wait_for(rate as u64 / 2);
        sandbox.deploy(if restart % 2 == 0 { "http-v2" } else { "http" });
        let begun = Instant::now();
        sandbox.restart().ledger().assert_balanced();
        commands.push(ms(begun.elapsed()));
    }
    load.wait_for(rate as u64 / 2);
    let ledger = load.stop();
    sandbox.stop();
    (ledger, commands)
}

/// Returns the times in milliseconds in which this many idle connections are handed off.
fn idle_connections(count: usize, restarts: usize) -> Vec<f64> {
    let sandbox = Sandbox::new("http");
    let target = sandbox.start().target("http");
    let mut idle: Vec<_> = (0..count)
        .map(|_| {
            let mut connection = Connection::open(&target).expect("a connection");
            connection.get("/").expect("a response");
            connection
        })
        .collect();
    let mut times = Vec::new();
    for restart in 0..restarts {
        sandbox.deploy(if restart % 2 == 0 { "http-v2" } else { "http" });
        let report = sandbox.restart();
        assert_eq!(report.ledger().handed_off, count as u64, "{report:?}");
        times.extend(report.to_drained_ms.zip(report.to_commit_ms).map(|(end, begin)| end - begin));
    }
    for connection in &mut idle {
        assert_eq!(connection.get("/").expect("a response").status, 200);
    }
    drop(idle);
    sandbox.stop();
    times
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
