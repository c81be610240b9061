//! Random restarts and faults under load: only connections of killed processes may fail, and neither memory
//! nor descriptors of the supervisor may grow.
//!
//! `cargo bench -p unbroken-tests --bench soak [-- --seconds 60] [--seed 1] [--json]`. The seed determines
//! the order of the faults, and is printed, so a run can be repeated. The environment sets `RATE` (500
//! requests per second on kept connections) and `NEW` (200, each on a new one).

#![allow(clippy::expect_used)]

mod faults;
mod table;

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use unbroken::failpoint::VARIABLE;
use unbroken_tests::accepted::{Accepted, Explained};
use unbroken_tests::figures::knob;
use unbroken_tests::load::{Ledger, Running};
use unbroken_tests::{Load, Sandbox, eventually};

use faults::{Fault, Faults};
use table::{Figures, Sample};

const PATIENCE: Duration = Duration::from_secs(40);

/// The time between two samples of the supervisor's memory and descriptors.
const SAMPLE: Duration = Duration::from_secs(5);

/// The growth of the supervisor's memory that is allowed, in bytes. It grows at first, because the supervisor
/// remembers the last restarts.
const GROWTH: u64 = 1024 * 1024;

fn main() -> ExitCode {
    let seconds = option("--seconds").unwrap_or(60);
    let fresh = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_secs());
    let seed = option("--seed").unwrap_or_else(fresh);
    eprintln!("cargo bench -p unbroken-tests --bench soak -- --seconds {seconds} --seed {seed}");

    let mut sandbox = Sandbox::new("http");
    // No failpoint is armed. With the variable the fixtures record the connections that they accept.
    let armed = sandbox.path("failpoint");
    sandbox.set(VARIABLE, armed.display().to_string());
    for (name, value) in [
        ("CONFIRM_WINDOW", "100ms"),
        ("READY_TIMEOUT", "1s"),
        ("DRAIN_TIMEOUT", "5s"),
        ("KILL_TIMEOUT", "1s"),
        ("BACKOFF_MIN", "10ms"),
        // The many kills must not reach the start limit.
        ("START_LIMIT_BURST", "1000000"),
    ] {
        sandbox.set(&format!("DAEMON_{name}"), value);
    }
    let target = sandbox.start().target("http");
    sandbox.deploy("http-v2");
    sandbox.restart();

    let load = || Load::on(target.clone()).paths(["/", "/wait/20"]).timeout(PATIENCE);
    let loads = [
        load().keep_alive(24).rate(knob("RATE", 500.0)).start(),
        load().new_connections(16).rate(knob("NEW", 200.0)).start(),
    ];
    loads.iter().for_each(|load| load.wait_for(50));

    let mut faults = Faults::new(seed);
    let mut samples = vec![sample(&sandbox, &loads, &faults, Instant::now())];
    let (began, mut looked) = (Instant::now(), Instant::now());
    while began.elapsed() < Duration::from_secs(seconds) {
        faults.next(&sandbox, &loads);
        eventually("it serves, and is done", PATIENCE, || {
            let status = sandbox.status();
            status.workers.len() == 1 && status.workers[0].state == "serving"
        });
        loads.iter().for_each(|load| load.wait_for(20));
        if looked.elapsed() >= SAMPLE {
            looked = Instant::now();
            samples.push(sample(&sandbox, &loads, &faults, began));
        }
    }
    samples.push(sample(&sandbox, &loads, &faults, began));
    let ledgers = loads.map(Running::stop);
    let explained = ledgers.each_ref().map(|it| Accepted::read(&armed).explain(it, &faults.killed));
    sandbox.stop();

    let wrong = failures(&ledgers, &explained, &faults.killed, &samples);
    let figures = Figures { seed, seconds, ledgers, explained, samples, done: faults.done };
    if std::env::args().any(|argument| argument == "--json") {
        println!("{:#}", figures.json());
    } else {
        figures.print();
    }
    wrong.iter().for_each(|wrong| eprintln!("{wrong}"));
    ExitCode::from(u8::from(!wrong.is_empty()))
}

/// Returns everything that is wrong with the results.
fn failures(
    ledgers: &[Ledger; 2],
    explained: &[Explained; 2],
    killed: &BTreeSet<u32>,
    samples: &[Sample],
) -> Vec<String> {
    let mut wrong: Vec<String> = explained.iter().flat_map(|it| it.wrong.clone()).collect();
    for (ledger, explained) in ledgers.iter().zip(explained) {
        if explained.refused > 0 {
            wrong.push(format!("{} found nobody who listened\n{ledger}", explained.refused));
        }
    }
    // A process that is killed right after accept(2) has not recorded the connection.
    let unaccepted: u64 = explained.iter().map(|it| it.unaccepted).sum();
    if unaccepted > killed.len() as u64 {
        wrong.push(format!("{unaccepted} failed that nobody had accepted"));
    }
    if let [first, .., last] = samples {
        let grown = last.descriptors > first.descriptors + table::LISTENER;
        if grown {
            wrong.push(format!("descriptors: {} became {}", first.descriptors, last.descriptors));
        }
        if last.memory > first.memory + GROWTH {
            wrong.push(format!("memory: {} bytes became {}", first.memory, last.memory));
        }
    }
    wrong
}

fn sample(sandbox: &Sandbox, loads: &[Running; 2], faults: &Faults, began: Instant) -> Sample {
    // The pages of a freshly copied program count as private and dirty until they are written to disk,
    // unless another process has them mapped (proc_pid_smaps(5)).
    let synced = std::process::Command::new("sync").status().expect("sync(1)");
    assert!(synced.success());
    let supervisor = sandbox.supervisor();
    Sample {
        at: began.elapsed(),
        requests: loads.iter().map(|load| load.progress().finished()).sum(),
        failed: loads.iter().map(|load| load.progress().failed()).sum(),
        restarts: faults.restarts(),
        faults: faults.done.iter().filter(|fault| **fault != Fault::Restart).count(),
        memory: supervisor.private_memory().unwrap_or_default(),
        descriptors: supervisor.descriptors().len(),
        of_worker: sandbox.worker().descriptors().len(),
    }
}

fn option(name: &str) -> Option<u64> {
    let value = std::env::args().skip_while(|argument| argument != name).nth(1)?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} {value} is not a number")))
}
