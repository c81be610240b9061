//! The latency of new connections while their number grows: connections are opened one after the other, each
//! is answered once and kept, compared with the same application under `#[tokio::main]`.
//!
//! `cargo bench -p unbroken-tests --bench ramp [-- --json]`. The environment sets `CONNECTIONS` (3000) and
//! `ROUNDS` (10). Each round starts a new process of each server.

#![allow(clippy::expect_used)]

#[path = "peers/machine.rs"]
mod machine;
#[path = "overhead/server.rs"]
#[allow(dead_code, reason = "the other benchmark uses the rest")]
mod server;

use std::time::Instant;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;
use unbroken_tests::figures::{knob, quantile};
use unbroken_tests::http::Connection;

use self::machine::Machine;
use self::server::Server;

/// The quantiles of each round.
const QUANTILES: [(&str, f64); 4] = [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0)];

fn main() {
    let limit = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: limit, maximum: limit }).expect("a limit");
    let (connections, rounds) = (knob("CONNECTIONS", 3000), knob("ROUNDS", 10));
    // Grow the descriptor table of this process first, or the client would wait for that.
    let last = i32::try_from(connections).expect("a number of connections") + 1000;
    drop(rustix::io::fcntl_dupfd_cloexec(std::io::stdout(), last).expect("so many descriptors"));
    let mut figures = [vec![], vec![]];
    for round in 0..rounds {
        // The servers take turns at being the first.
        for which in [round % 2, 1 - round % 2] {
            let start: fn(&[&str]) -> Server =
                if which == 0 { Server::bare } else { Server::daemon };
            figures[which].push(ramp(&start(&[]), connections));
        }
    }
    let rows = QUANTILES.iter().enumerate().map(|(index, (name, _))| {
        let of = |which: usize| figures[which].iter().map(|round| round[index]).collect::<Vec<_>>();
        let (bare, daemon) = (of(0), of(1));
        // A disturbance of a round affects both servers.
        let ratios =
            daemon.iter().zip(&bare).map(|(daemon, bare)| daemon / bare).collect::<Vec<_>>();
        (*name, quantile(&bare, 0.5), quantile(&daemon, 0.5), quantile(&ratios, 0.5))
    });
    let machine = Machine::this();
    if std::env::args().any(|argument| argument == "--json") {
        let rows: serde_json::Map<_, _> = rows
            .map(|(name, bare, daemon, ratio)| {
                let row = json!({ "bare_ms": bare, "daemon_ms": daemon, "ratio": ratio });
                (name.to_owned(), row)
            })
            .collect();
        println!(
            "{:#}",
            json!({
                "kernel": machine.kernel, "cpu": machine.cpu, "cpus": machine.cpus,
                "date": machine.date, "connections": connections, "rounds": rounds,
                "new_connection": rows,
            })
        );
        return;
    }
    println!(
        "{machine}\n\n{connections} connections, one after the other; medians of {rounds} rounds"
    );
    println!("{:<6} {:>10} {:>10} {:>7}", "ms", "bare", "daemon", "ratio");
    for (name, bare, daemon, ratio) in rows {
        println!("{name:<6} {bare:>10.3} {daemon:>10.3} {ratio:>7.2}");
    }
}

/// Returns the quantiles of the time from connect to the first response, in milliseconds.
fn ramp(server: &Server, connections: usize) -> [f64; 4] {
    let mut kept = Vec::with_capacity(connections);
    let mut times = Vec::with_capacity(connections);
    for _ in 0..connections {
        let begun = Instant::now();
        let mut connection = Connection::open(&server.target).expect("a connection");
        let response = connection.get("/").expect("a response");
        times.push(begun.elapsed().as_secs_f64() * 1000.0);
        assert_eq!(response.status, 200);
        kept.push(connection);
    }
    QUANTILES.map(|(_, share)| quantile(&times, share))
}
