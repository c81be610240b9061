//! The cost of upgrades of the supervisor: its pause, its memory and its descriptors.
//!
//! `cargo bench -p unbroken-tests --bench upgrades [-- --json]`. The environment sets `UPGRADES` (1000).
//! Fails if descriptors are leaked or an upgrade is missing.

#![allow(clippy::expect_used)]

use std::fs;
use std::os::unix::fs::symlink;
use std::process::ExitCode;

use serde_json::json;
use unbroken_tests::Sandbox;

/// The number of upgrades before the first figures are taken. Everything that is allocated once has been
/// allocated by then.
const SETTLED: usize = 10;

fn main() -> ExitCode {
    let as_json = std::env::args().any(|argument| argument == "--json");
    let upgrades = std::env::var("UPGRADES").map_or(1000, |n| n.parse().expect("a number"));
    let mut sandbox = Sandbox::empty();
    sandbox.set("DAEMON_BACKOFF_MIN", "100ms");
    for (name, fixture) in [("a", "http"), ("b", "http-v2")] {
        sandbox.deploy(fixture);
        fs::rename(sandbox.image(), sandbox.path(name)).expect("renamed");
    }
    point(&sandbox, 0);
    sandbox.start();
    let supervisor = sandbox.supervisor();
    let figures = || {
        let private = supervisor.private_memory().expect("its memory");
        let heap = supervisor.memory("Anonymous").expect("its memory");
        (private, heap, supervisor.descriptors().len())
    };
    let mut settled = figures();
    for upgrade in 1..=upgrades {
        point(&sandbox, upgrade);
        let report = sandbox.restart();
        assert_eq!(report.note, None, "{}", sandbox.log());
        if upgrade == SETTLED {
            settled = figures();
        }
    }
    let end = figures();
    let log = sandbox.log();
    let mut pauses: Vec<f64> = log
        .lines()
        .filter_map(|line| {
            line.split_once("its upgrade took ")?.1.strip_suffix(" ms")?.parse().ok()
        })
        .collect();
    sandbox.stop();
    pauses.sort_by(f64::total_cmp);
    let at = |q: f64| pauses[((pauses.len() - 1) as f64 * q) as usize];
    if as_json {
        println!(
            "{:#}",
            json!({
                "upgrades": pauses.len(),
                "pause_ms": { "p50": at(0.5), "p99": at(0.99), "max": at(1.0) },
                "private_bytes": [settled.0, end.0], "heap_bytes": [settled.1, end.1],
                "descriptors": [settled.2, end.2],
            })
        );
    } else {
        println!("{} upgrades of one supervisor", pauses.len());
        println!(
            "pause        p50 {:.1} ms  p99 {:.1} ms  max {:.1} ms",
            at(0.5),
            at(0.99),
            at(1.0)
        );
        println!("              after {SETTLED:>6}  {upgrades:>6}");
        println!("private KiB  {:>12}  {:>6}", settled.0 / 1024, end.0 / 1024);
        println!("heap KiB     {:>12}  {:>6}", settled.1 / 1024, end.1 / 1024);
        println!("descriptors  {:>12}  {:>6}", settled.2, end.2);
    }
    ExitCode::from(u8::from(end.2 != settled.2 || pauses.len() != upgrades))
}

/// Switches the symbolic link at the image's path to the other of two programs.
fn point(sandbox: &Sandbox, round: usize) {
    let next = sandbox.path("next");
    symlink(if round.is_multiple_of(2) { "a" } else { "b" }, &next).expect("a link");
    fs::rename(next, sandbox.image()).expect("renamed");
}
