//! A client that has shut down its sending direction is answered, as `nc -N` expects.

#![allow(clippy::expect_used)]

use std::time::Duration;

use unbroken_tests::http::{Connection, Target};
use unbroken_tests::{Output, Report, Sandbox, Signal, eventually};

const SOON: Duration = Duration::from_secs(20);

const SLOW: &str = "GET /wait/500 HTTP/1.1\r\nHost: test\r\n\r\n";
const QUICK: &str = "GET / HTTP/1.1\r\nHost: test\r\n\r\n";

/// Opens a connection, sends `bytes` and shuts down the sending direction.
fn finished(target: &Target, bytes: &str) -> Connection {
    let mut connection = Connection::open(target).expect("a connection");
    connection.send(bytes).expect("a request");
    connection.finish().expect("half a close");
    connection
}

#[track_caller]
fn report(output: &Output) -> Report {
    serde_json::from_str(&output.stdout).expect("JSON")
}

/// Requests with and without a body, alone and pipelined, are answered over both kinds of sockets.
#[test]
fn requests_are_answered_after_half_close() {
    let mut sandbox = Sandbox::new("http");
    for addr in ["127.0.0.1:0".to_owned(), format!("unix:{}", sandbox.path("http").display())] {
        let target = sandbox.set("DAEMON_LISTEN_HTTP", addr).start().target("http");
        let sized = "POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\nhello";
        let chunked = "POST /echo HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n\
                       5\r\nhello\r\n0\r\n\r\n";
        let several = format!("{QUICK}{SLOW}{QUICK}");
        for (requests, count) in
            [(SLOW, 1), (QUICK, 1), (sized, 1), (chunked, 1), (several.as_str(), 3)]
        {
            let mut connection = finished(&target, requests);
            for number in 0..count {
                let response = connection.response();
                let response = response.unwrap_or_else(|e| panic!("{number} of {requests}: {e}"));
                assert_eq!(response.status, 200, "{number} of {requests}");
            }
            connection.closed().expect("the end");
        }
        let ledger = sandbox.stop().ledger().clone();
        ledger.assert_balanced();
        assert_eq!((ledger.requests, ledger.finished), (7, 5), "{ledger:?}");
    }
}

/// The request in flight at a restart, and those pipelined behind it, are answered by the old worker.
#[test]
fn requests_are_answered_after_half_close_during_a_restart() {
    let sandbox = Sandbox::new("http");
    let target = sandbox.start().target("http");
    let slow = "GET /slow HTTP/1.1\r\nHost: test\r\n\r\n";
    let mut one = finished(&target, slow);
    let mut several = finished(&target, &format!("{slow}{QUICK}{QUICK}"));
    eventually("in flight", SOON, || sandbox.status().serving().requests_in_flight == 2);
    let restart = sandbox.spawn(["restart", "--json"]);
    for connection in [&mut one, &mut several] {
        let response = connection.response().expect("a response");
        assert_eq!((response.status, response.number("generation")), (200, Some(1)));
    }
    for _ in 0..2 {
        assert_eq!(several.response().expect("a response").status, 200);
    }
    one.closed().expect("the end");
    several.closed().expect("the end");
    let report = report(&restart.wait(SOON).expect_code(0));
    let ledger = report.ledger();
    ledger.assert_balanced();
    assert_eq!((ledger.accepted, ledger.forced, ledger.lost), (2, 0, 0), "{report:?}");
    eventually("nothing is open", SOON, || sandbox.status().serving().connections == 0);
    sandbox.stop();
}

/// An idle connection ends when its client shuts down its sending direction, before, during or after a
/// handoff.
#[test]
fn idle_connections_end_after_half_close() {
    let sandbox = Sandbox::new("http");
    let target = sandbox.start().target("http");
    let open = || {
        let mut used = Connection::open(&target).expect("a connection");
        used.get("/").expect("a response");
        let silent = Connection::open(&target).expect("a connection");
        let mut halfway = Connection::open(&target).expect("a connection");
        halfway.send("GET / HTTP/1.1\r\nHos").expect("half a head");
        [used, silent, halfway]
    };
    let end = |connections: [Connection; 3]| {
        for mut connection in connections {
            let mut rest = Vec::new();
            std::io::Read::read_to_end(&mut connection, &mut rest).expect("the end");
        }
        eventually("nothing is open", SOON, || sandbox.status().serving().connections == 0);
    };
    let connections = open();
    connections.iter().for_each(|it| it.finish().expect("half a close"));
    end(connections);

    // The shutdown comes after the handoff.
    let connections = open();
    eventually("all are accepted", SOON, || sandbox.status().serving().connections == 3);
    assert_eq!(sandbox.restart().ledger().handed_off, 3);
    connections.iter().for_each(|it| it.finish().expect("half a close"));
    end(connections);

    // The shutdown comes while the worker is stopped, which then learns of it and of the restart at once.
    let connections = open();
    eventually("all are accepted", SOON, || sandbox.status().serving().connections == 3);
    let worker = sandbox.worker();
    worker.signal(Signal::STOP);
    connections.iter().for_each(|it| it.finish().expect("half a close"));
    let restart = sandbox.spawn(["restart", "--json"]);
    eventually("another generation", SOON, || sandbox.status().workers.len() == 2);
    worker.signal(Signal::CONT);
    report(&restart.wait(SOON).expect_code(0)).ledger().assert_balanced();
    end(connections);
    sandbox.stop().ledger().assert_balanced();
}
