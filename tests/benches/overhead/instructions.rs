//! Instructions per request, which do not depend on the load of the machine. Callgrind counts them; the
//! difference between many requests and few excludes the start.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use unbroken_tests::{Load, Sandbox, Signal};

use super::server::Server;

const FEW: u64 = 500;
const MANY: u64 = 5500;

/// Counts for the bare application and the daemon. The daemon is a solo one: the same code serves its
/// connections, and valgrind does not support the system calls with which a supervisor waits.
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

/// Counts all instructions of all processes of a server that answers this many requests.
fn count(start: fn(&[&str]) -> Server, requests: u64) -> f64 {
    let server = start(&[
        "valgrind",
        "--tool=callgrind",
        "--trace-children=yes",
        "--callgrind-out-file=callgrind.%p",
    ]);
    let load = Load::on(server.target.clone()).keep_alive(1).requests(requests);
    load.timeout(Duration::from_secs(60)).run().assert_nothing_failed();
    let Server { sandbox, child, .. } = server;
    child.process().signal(Signal::TERM);
    child.wait(Duration::from_secs(60));
    total(&sandbox)
}

fn total(sandbox: &Sandbox) -> f64 {
    let entries = fs::read_dir(sandbox.dir()).expect("the sandbox's directory").flatten();
    let counted =
        entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("callgrind."));
    let texts = counted.filter_map(|entry| fs::read(entry.path()).ok());
    let totals = texts.filter_map(|text| {
        let text = String::from_utf8_lossy(&text);
        let line = text.lines().find_map(|line| line.strip_prefix("totals: ")).map(str::to_owned);
        line?.trim().parse::<f64>().ok()
    });
    let total = totals.sum();
    assert!(total > 0.0, "callgrind wrote no totals in {:?}", sandbox.dir());
    total
}
