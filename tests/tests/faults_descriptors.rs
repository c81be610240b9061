//! Workers that run out of descriptors: they serve what they have, accept again when they can, and pass
//! on what the next one has room for.

#![allow(clippy::expect_used)]

use std::time::{Duration, Instant};

use unbroken_tests::http::{Connection, Target};
use unbroken_tests::{Bed, Child, Process, eventually};

const SOON: Duration = Duration::from_secs(20);

/// The limit of the daemon and its workers.
const LIMIT: usize = 64;

/// A daemon whose processes have [`LIMIT`] descriptors each.
fn bed(fixture: &str, listener: &str, drain_timeout: &str) -> (Bed, Target) {
    let mut bed = Bed::new(fixture);
    bed.set("DAEMON_DRAIN_TIMEOUT", drain_timeout);
    let image = bed.image();
    let script = format!("ulimit -n {LIMIT}; exec \"$1\" start");
    let arguments = ["-c".as_ref(), script.as_ref(), "sh".as_ref(), image.as_os_str()];
    Child::spawn(&mut bed.command_of("sh", arguments)).wait(SOON).expect_code(0);
    let target = bed.target(listener);
    (bed, target)
}

/// Idle connections that have been answered once, until the worker has no descriptor left.
fn fill(target: &Target, worker: &Process) -> Vec<Connection> {
    let mut idle = Vec::new();
    while worker.descriptors().len() < LIMIT {
        let mut connection = Connection::open(target).expect("a connection");
        connection.get("/").expect("a response");
        idle.push(connection);
    }
    idle
}

/// More connections than descriptors: those that are not accepted wait, and are served as others end.
#[test]
fn accepting_rests_and_is_resumed() {
    let (bed, target) = bed("http", "http", "5s");
    let worker = bed.worker();
    let mut served = fill(&target, &worker);
    let mut waiting: Vec<_> = (0..100)
        .map(|_| {
            let mut connection = Connection::open(&target).expect("a place in the queue");
            connection.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n").expect("a request");
            connection
        })
        .collect();
    // Who is served goes on to be served, and who is not is not turned away.
    for connection in &mut served {
        assert_eq!(connection.get("/").expect("a response").status, 200);
    }
    assert!(waiting.iter().all(Connection::is_quiet));
    assert_eq!(bed.status().serving().connections, served.len() as u64);
    drop(served);
    for connection in &mut waiting {
        assert_eq!(connection.response().expect("a response").status, 200);
        connection.finish().expect("an end");
    }
    assert!(worker.is_alive());
    let ledger = bed.stop().ledger().clone();
    ledger.assert_balanced();
    assert_eq!((ledger.forced, ledger.lost), (0, 0), "{ledger:?}");
}

/// The same for a program that accepts by itself, and one without async.
#[test]
fn programs_that_accept_by_themselves() {
    for fixture in ["echo", "sync"] {
        let (bed, target) = bed(fixture, "echo", "1s");
        let worker = bed.worker();
        let mut connections: Vec<_> =
            (0..100).map(|_| Connection::open(&target).expect("a place in the queue")).collect();
        eventually("none is left", SOON, || worker.descriptors().len() >= LIMIT - 1);
        for connection in &mut connections {
            connection.send("a\n").expect("a line");
            let mut line = [0; 4];
            std::io::Read::read_exact(connection, &mut line).expect("its echo");
            assert_eq!(&line, b"1 a\n");
            connection.finish().expect("an end");
        }
        assert!(worker.is_alive());
        bed.restart().ledger().assert_balanced();
        bed.stop();
    }
}

/// A worker without a descriptor left passes its connections all the same.
#[test]
fn an_exhausted_worker_passes_its_connections() {
    let (bed, target) = bed("http", "http", "2s");
    let mut idle = fill(&target, &bed.worker());
    let begun = Instant::now();
    let report = bed.restart();
    let ledger = report.ledger();
    ledger.assert_balanced();
    assert!(begun.elapsed() < Duration::from_secs(5), "{report:?}");
    assert_eq!((ledger.accepted, ledger.lost), (idle.len() as u64, 0), "{ledger:?}");
    // Its successor is no larger, and has the channel as well.
    assert!(ledger.handed_off + 3 >= ledger.accepted, "{ledger:?}");
    let answered = idle.iter_mut().filter_map(|it| it.get("/").ok());
    let passed = answered.filter(|response| response.number("generation") == Some(2)).count();
    assert_eq!(passed as u64, ledger.handed_off);
    drop(idle);
    bed.stop();
}

/// The next worker has no room for all of them: what it cannot take stays, and is ended by the rules.
#[test]
fn an_exhausted_successor_takes_what_it_can() {
    let (bed, target) = bed("http", "http", "10s");
    let old = bed.worker();
    let mut idle = fill(&target, &old);
    // The next worker is smaller, whatever it takes first.
    let supervisor = bed.supervisor().pid().to_string();
    let arguments = ["--pid", &supervisor, "--nofile=48"];
    Child::spawn(&mut bed.command_of("prlimit", arguments)).wait(SOON).expect_code(0);
    // These wait in the queue, for it to accept them.
    let mut queued: Vec<_> = (0..20)
        .map(|_| {
            let mut connection = Connection::open(&target).expect("a place in the queue");
            connection.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n").expect("a request");
            connection
        })
        .collect();
    let begun = Instant::now();
    let restart = bed.spawn(["restart", "--json"]);
    // Those that stayed are answered where they are, and told to go.
    let (mut passed, mut told) = (0, 0);
    for connection in &mut idle {
        loop {
            let response = connection.get("/").expect("a response");
            match (response.number("generation"), response.keep_alive) {
                (Some(2), true) => break passed += 1,
                (Some(1), false) => {
                    connection.closed().expect("an end");
                    connection.finish().expect("an end");
                    break told += 1;
                }
                // Not yet refused.
                (Some(1), true) => {}
                other => panic!("{other:?}"),
            }
        }
    }
    let output = restart.wait(SOON).expect_code(0);
    assert!(begun.elapsed() < Duration::from_secs(8), "{output}");
    let report: unbroken_tests::Report = serde_json::from_str(&output.stdout).expect("a report");
    let ledger = report.ledger();
    ledger.assert_balanced();
    assert_eq!((ledger.handed_off, ledger.closed), (passed, told), "{ledger:?}");
    assert_eq!((ledger.forced, ledger.lost), (0, 0), "{ledger:?}");
    assert!(passed > 0 && told > 0, "{ledger:?}");
    // What it has no room for now is served as the others end.
    drop(idle);
    for connection in &mut queued {
        let response = connection.response().expect("a response");
        assert_eq!((response.status, response.number("generation")), (200, Some(2)));
    }
    drop(queued);
    bed.get("/").expect("a response");
    bed.stop();
}

/// The log is opened again by a worker that has no descriptor left.
#[test]
fn an_exhausted_worker_opens_its_log_again() {
    let (bed, target) = bed("http", "http", "1s");
    let worker = bed.worker();
    let mut idle = fill(&target, &worker);
    std::fs::rename(bed.log_file(), bed.path("old.log")).expect("a rotated log");
    bed.supervisor().signal(unbroken_tests::Signal::USR1);
    eventually("the log is there again", SOON, || bed.log_file().exists());
    eventually("the worker writes to it", SOON, || {
        idle[0].get("/log/hello").expect("a response");
        bed.log().contains("hello")
    });
    drop(idle);
    bed.stop();
}
