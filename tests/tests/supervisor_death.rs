//! If the supervisor is killed, its workers drain and end.

#![allow(clippy::expect_used)]

use std::time::Duration;

use unbroken_tests::http::Connection;
use unbroken_tests::{Load, Sandbox, eventually};

const SOON: Duration = Duration::from_secs(20);

/// The worker finishes its requests in flight, accepts no more, and ends.
#[test]
fn worker_drains() {
    let sandbox = Sandbox::new("http");
    let target = sandbox.start().target("http");
    let worker = sandbox.worker();
    let slow = Load::on(target.clone()).new_connections(3).paths(["/slow"]).requests(3).start();
    eventually("in flight", SOON, || sandbox.status().serving().requests_in_flight == 3);
    sandbox.supervisor().kill();
    eventually("nobody is let in", SOON, || !target.accepts());
    slow.join().assert_nothing_failed();
    assert!(worker.wait_gone(SOON));
    sandbox.verb(["status"]).expect_code(1);
    sandbox.start();
    sandbox.stop();
}

/// The worker ends at its drain deadline at the latest.
#[test]
fn worker_ends_at_its_deadline() {
    let mut sandbox = Sandbox::new("http");
    sandbox.set("DAEMON_DRAIN_TIMEOUT", "1s");
    let target = sandbox.start().target("http");
    let worker = sandbox.worker();
    let mut stream = Connection::open(&target).expect("a connection");
    stream.send("GET /stream HTTP/1.1\r\nHost: test\r\n\r\n").expect("a request");
    eventually("in flight", SOON, || sandbox.status().serving().requests_in_flight == 1);
    sandbox.supervisor().kill();
    assert!(worker.wait_gone(Duration::from_secs(5)));
}

#[test]
fn worker_that_ignores_the_drain_is_ended() {
    let sandbox = Sandbox::new("ignores-drain");
    sandbox.start();
    let worker = sandbox.worker();
    sandbox.supervisor().kill();
    assert!(worker.wait_gone(Duration::from_secs(8)));
}

/// The next start does not wait for the end of the old worker, and replaces its unix socket.
#[test]
fn daemon_can_be_started_again_at_once() {
    let mut sandbox = Sandbox::new("http");
    let path = sandbox.path("http.sock");
    sandbox.set("DAEMON_LISTEN_HTTP", format!("unix:{}", path.display()));
    let target = sandbox.start().target("http");
    let worker = sandbox.worker();
    let slow = Load::on(target.clone()).new_connections(1).paths(["/slow"]).requests(1).start();
    eventually("in flight", SOON, || sandbox.status().serving().requests_in_flight == 1);
    sandbox.supervisor().kill();
    eventually("nobody is let in", SOON, || !target.accepts());
    sandbox.start();
    assert!(worker.is_alive(), "it still has a request");
    assert_eq!(sandbox.get("/").expect("a response").number("generation"), Some(1));
    slow.join().assert_nothing_failed();
    assert!(worker.wait_gone(SOON));
    assert_eq!(sandbox.get("/").expect("a response").status, 200);
    sandbox.stop();
}

/// If the supervisor is killed during a restart, the workers of both generations end.
#[test]
fn both_generations_end() {
    let sandbox = Sandbox::new("http");
    sandbox.start();
    sandbox.deploy("hangs-at-start");
    let restart = sandbox.spawn(["restart"]);
    eventually("two workers", SOON, || sandbox.status().workers.len() == 2);
    sandbox.supervisor().kill();
    let output = restart.wait(SOON).expect_code(1);
    assert!(!output.text().is_empty());
    sandbox.wait_empty(SOON);
    sandbox.deploy("http");
    sandbox.start();
    sandbox.stop();
}
