//! The overhead of a daemon while it serves: the same application under `#[tokio::main]` with
//! `axum::serve`, and under `#[daemon]` with `Daemon::serve`.
//!
//! `cargo bench -p unbroken-tests --bench overhead [-- [--json] [--no-build]]`. The environment sets the
//! number of `ROUNDS` (25). In each round both servers are measured in turn for `ROUND_MS` (500), with 1 and
//! with 64 connections.

#![allow(clippy::expect_used, clippy::unwrap_used)]

mod build;
mod instructions;
#[path = "../peers/machine.rs"]
mod machine;
mod server;
mod throughput;

use serde_json::json;

use self::build::Build;
use self::machine::Machine;
use self::throughput::Comparison;

/// The goal for the throughput, as a share of the bare application's.
const GOAL: f64 = 0.98;

fn main() {
    let has = |flag: &str| std::env::args().any(|argument| argument == flag);
    let comparisons = [1, 64].map(throughput::compare);
    let instructions = instructions::per_request();
    let builds = if has("--no-build") { Err("--no-build".into()) } else { build::compare() };
    if has("--json") {
        let machine = Machine::this();
        let throughput: Vec<_> = comparisons.iter().map(Comparison::json).collect();
        let instructions =
            instructions.map(|[bare, daemon]| json!({"bare": bare, "daemon": daemon}));
        let builds =
            builds.map(|[bare, daemon]| json!({"bare": bare.json(), "daemon": daemon.json()}));
        println!(
            "{:#}",
            json!({
                "kernel": machine.kernel, "cpu": machine.cpu, "cpus": machine.cpus,
                "date": machine.date, "throughput": throughput,
                "instructions_per_request": instructions.unwrap_or_else(|it| json!({"missing": it})),
                "build": builds.unwrap_or_else(|it| json!({"missing": it})),
            })
        );
        return;
    }
    println!("{}\n", Machine::this());
    comparisons.iter().for_each(Comparison::print);
    match instructions {
        Ok([bare, daemon]) => {
            let more = daemon / bare;
            println!(
                "instructions per request    bare {bare:>8.0}  daemon {daemon:>8.0}  {more:.3}"
            );
        }
        Err(reason) => println!("instructions per request    missing: {reason}"),
    }
    match builds {
        Ok(builds) => {
            for (name, Build { packages, seconds, bytes }) in ["bare", "daemon"].iter().zip(builds)
            {
                let mib = bytes as f64 / 1024.0 / 1024.0;
                println!(
                    "release build, {name:<12} {packages} packages, {seconds:.1} s, {mib:.1} MiB stripped"
                );
            }
        }
        Err(reason) => println!("release build               missing: {reason}"),
    }
}
