//! Workers that run out of descriptors: they serve their connections, accept again when descriptors are free,
//! and hand off as many connections as the next worker has room for.

#![allow(clippy::expect_used)]

use std::time::{Duration, Instant};

use unbroken_tests::http::{Connection, Target};
use unbroken_tests::{Child, Process, Sandbox, eventually};

const SOON: Duration = Duration::from_secs(20);

/// The limit of open descriptors for the daemon and its workers.
const LIMIT: usize = 64;

/// Starts a daemon whose processes may have [`LIMIT`] descriptors each.
fn sandbox(fixture: &str, listener: &str, drain_timeout: &str) -> (Sandbox, Target) {
    let mut sandbox = Sandbox::new(fixture);
    sandbox.set("DAEMON_DRAIN_TIMEOUT", drain_timeout);
    let image = sandbox.image();
    let script = format!("ulimit -n {LIMIT}; exec \"$1\" start");
    let arguments = ["-c".as_ref(), script.as_ref(), "sh".as_ref(), image.as_os_str()];
    Child::spawn(&mut sandbox.command_of("sh", arguments)).wait(SOON).expect_code(0);
    let target = sandbox.target(listener);
    (sandbox, target)
}

/// Opens idle connections, with one response each, until the worker has no free descriptor.
fn fill(target: &Target, worker: &Process) -> Vec<Connection> {
    let mut idle = Vec::new();
    while worker.descriptors().len() < LIMIT {
        let mut connection = Connection::open(target).expect("a connection");
        connection.get("/").expect("a response");
        idle.push(connection);
    }
    idle
}

/// Connections for which the worker has no descriptor wait in the accept queue, and are served as others end.
#[test]
fn accepting_pauses_without_descriptors() {
    let (sandbox, target) = sandbox("http", "http", "5s");
    let worker = sandbox.worker();
    let mut served = fill(&target, &worker);
    let mut waiting: Vec<_> = (0..100)
        .map(|_| {
            let mut connection = Connection::open(&target).expect("a place in the queue");
            connection.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n").expect("a request");
            connection
        })
        .collect();
    // Accepted connections are served, and the others are neither served nor closed.
    for connection in &mut served {
        assert_eq!(connection.get("/").expect("a response").status, 200);
    }
    assert!(waiting.iter().all(Connection::is_quiet));
    assert_eq!(sandbox.status().serving().connections, served.len() as u64);
    drop(served);
    for connection in &mut waiting {
        assert_eq!(connection.response().expect("a response").status, 200);
        connection.finish().expect("an end");
    }
    assert!(worker.is_alive());
    let ledger = sandbox.stop().ledger().clone();
    ledger.assert_balanced();
    assert_eq!((ledger.forced, ledger.lost), (0, 0), "{ledger:?}");
}

/// The same holds for a program with its own accept loop, and for one without async.
#[test]
fn own_accept_loops_pause_without_descriptors() {
    for fixture in ["echo", "sync"] {
        let (sandbox, target) = sandbox(fixture, "echo", "1s");
        let worker = sandbox.worker();
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
        sandbox.restart().ledger().assert_balanced();
        sandbox.stop();
    }
}

/// A worker without a free descriptor hands off its connections.
#[test]
fn exhausted_worker_hands_off_its_connections() {
    let (sandbox, target) = sandbox("http", "http", "2s");
    let mut idle = fill(&target, &sandbox.worker());
    let begun = Instant::now();
    let report = sandbox.restart();
    let ledger = report.ledger();
    ledger.assert_balanced();
    assert!(begun.elapsed() < Duration::from_secs(5), "{report:?}");
    assert_eq!((ledger.accepted, ledger.lost), (idle.len() as u64, 0), "{ledger:?}");
    // The new worker has the same limit, and needs a descriptor for the handoff channel.
    assert!(ledger.handed_off + 3 >= ledger.accepted, "{ledger:?}");
    let answered = idle.iter_mut().filter_map(|it| it.get("/").ok());
    let passed = answered.filter(|response| response.number("generation") == Some(2)).count();
    assert_eq!(passed as u64, ledger.handed_off);
    drop(idle);
    sandbox.stop();
}

/// A new worker with room for some of the connections takes those. The others stay with the old worker, which
/// closes them with `Connection: close`.
#[test]
fn smaller_worker_takes_what_it_can() {
    let (sandbox, target) = sandbox("http", "http", "10s");
    let old = sandbox.worker();
    let mut idle = fill(&target, &old);
    // Lower the limit for the next worker.
    let supervisor = sandbox.supervisor().pid().to_string();
    let arguments = ["--pid", &supervisor, "--nofile=48"];
    Child::spawn(&mut sandbox.command_of("prlimit", arguments)).wait(SOON).expect_code(0);
    // These wait in the accept queue for the new worker.
    let mut queued: Vec<_> = (0..20)
        .map(|_| {
            let mut connection = Connection::open(&target).expect("a place in the queue");
            connection.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n").expect("a request");
            connection
        })
        .collect();
    let begun = Instant::now();
    let restart = sandbox.spawn(["restart", "--json"]);
    // Connections that stayed get their last response from the old worker, with `Connection: close`.
    let (mut passed, mut closed) = (0, 0);
    for connection in &mut idle {
        loop {
            let response = connection.get("/").expect("a response");
            match (response.number("generation"), response.keep_alive) {
                (Some(2), true) => break passed += 1,
                (Some(1), false) => {
                    connection.closed().expect("an end");
                    connection.finish().expect("an end");
                    break closed += 1;
                }
                // The handoff has not been refused yet.
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
    assert_eq!((ledger.handed_off, ledger.closed), (passed, closed), "{ledger:?}");
    assert_eq!((ledger.forced, ledger.lost), (0, 0), "{ledger:?}");
    assert!(passed > 0 && closed > 0, "{ledger:?}");
    // Connections in the queue are served as the others end.
    drop(idle);
    for connection in &mut queued {
        let response = connection.response().expect("a response");
        assert_eq!((response.status, response.number("generation")), (200, Some(2)));
    }
    drop(queued);
    sandbox.get("/").expect("a response");
    sandbox.stop();
}

/// A worker without a free descriptor reopens its log.
#[test]
fn exhausted_worker_reopens_its_log() {
    let (sandbox, target) = sandbox("http", "http", "1s");
    let worker = sandbox.worker();
    let mut idle = fill(&target, &worker);
    std::fs::rename(sandbox.log_file(), sandbox.path("old.log")).expect("a rotated log");
    sandbox.supervisor().signal(unbroken_tests::Signal::USR1);
    eventually("the log is there again", SOON, || sandbox.log_file().exists());
    eventually("the worker writes to it", SOON, || {
        idle[0].get("/log/hello").expect("a response");
        sandbox.log().contains("hello")
    });
    drop(idle);
    sandbox.stop();
}
