//! Instructions per request, which no noise of the machine changes: counted by callgrind, as the
//! difference between many requests and few.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use unbroken_tests::{Bed, Load, Signal};

use super::server::Server;

const FEW: u64 = 500;
const MANY: u64 = 5500;

/// Bare, and as a daemon: a solo one, as the connections of either are served by the same code, and
/// valgrind knows none of the calls that a supervisor waits with.
pub(crate) fn per_request() -> Result<[f64; 2], String> {
    let valgrind = Command::new("valgrind").arg("--version").stdout(Stdio::null()).status();
    if valgrind.is_err() {
        return Err("no valgrind".into());
    }
    Ok([per_request_of(Server::bare), per_request_of(Server::solo)])
}

fn per_request_of(start: fn(&[&str]) -> Server) -> f64 {
    let [few, many] = [FEW, MANY].map(|requests| count(start, requests));
    (many - few) / (MANY - FEW) as f64
}

/// All instructions of all processes of a server that answered so many requests.
fn count(start: fn(&[&str]) -> Server, requests: u64) -> f64 {
    let server = start(&[
        "valgrind",
        "--tool=callgrind",
        "--trace-children=yes",
        "--callgrind-out-file=callgrind.%p",
    ]);
    let load = Load::on(server.target.clone()).keep_alive(1).requests(requests);
    load.timeout(Duration::from_secs(60)).run().assert_nothing_failed();
    let Server { bed, child, .. } = server;
    child.process().signal(Signal::TERM);
    child.wait(Duration::from_secs(60));
    total(&bed)
}

fn total(bed: &Bed) -> f64 {
    let entries = fs::read_dir(bed.dir()).expect("the bed's directory").flatten();
    let counted =
        entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("callgrind."));
    let texts = counted.filter_map(|entry| fs::read(entry.path()).ok());
    let totals = texts.filter_map(|text| {
        let text = String::from_utf8_lossy(&text);
        let line = text.lines().find_map(|line| line.strip_prefix("totals: ")).map(str::to_owned);
        line?.trim().parse::<f64>().ok()
    });
    let total = totals.sum();
    assert!(total > 0.0, "callgrind wrote no totals in {:?}", bed.dir());
    total
}
