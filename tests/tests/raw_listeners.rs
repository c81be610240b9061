//! Servers with an accept loop of their own, on raw listeners: they lose no request over restarts, accept only
//! when their generation goes, and resume after an aborted restart. Connections whose streams were taken out of
//! their wrapper stay in the ledger.

#![allow(clippy::expect_used)]

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::time::Duration;

use unbroken_tests::http::Connection;
use unbroken_tests::{Load, Process, Sandbox, eventually};

const SOON: Duration = Duration::from_secs(20);

const RESTARTS: u64 = 5;

/// Creates a sandbox with a fixture that reads its `mode` from a file at each start.
fn sandbox(fixture: &str, window: &str) -> Sandbox {
    let mut sandbox = Sandbox::new(fixture);
    sandbox.set("DAEMON_CONFIRM_WINDOW", window);
    sandbox.set("DAEMON_CONFIG", sandbox.path("app.toml").display().to_string());
    becomes(&sandbox, "good");
    sandbox
}

fn becomes(sandbox: &Sandbox, mode: &str) {
    fs::write(sandbox.path("app.toml"), format!("[app]\nmode = {mode:?}\n")).expect("a file");
}

fn shows(sandbox: &Sandbox, text: &str) -> bool {
    sandbox.verb(["status", "--json"]).stdout.contains(text)
}

/// Restarts under load, and then checks that no request failed.
#[track_caller]
fn nothing_is_lost(fixture: &str, window: &str) {
    let sandbox = sandbox(fixture, window);
    let target = sandbox.start().target("http");
    let kept = Load::on(target.clone()).keep_alive(16).rate(500.0).start();
    let new = Load::on(target).new_connections(8).start();
    for generation in 2..2 + RESTARTS {
        new.wait_for(100);
        let report = sandbox.restart();
        new.wait_for_generation(generation);
        // The connections are the server's own.
        assert_eq!(report.ledger().accepted, 0, "{report:?}");
        assert_eq!((report.ledger().forced_main, report.ledger().forced_tasks), (0, 0));
    }
    new.wait_for(100);
    kept.stop().assert_nothing_failed();
    let new = new.stop();
    new.assert_nothing_failed();
    assert_eq!(new.generations(), (1..=1 + RESTARTS).collect::<Vec<_>>());
    sandbox.stop();
}

#[test]
fn no_request_fails_over_restarts() {
    nothing_is_lost("raw", "0s");
}

#[test]
fn no_request_fails_over_restarts_with_a_confirm_window() {
    nothing_is_lost("raw", "500ms");
}

#[test]
fn no_request_fails_over_restarts_without_async() {
    nothing_is_lost("raw-sync", "0s");
}

#[test]
fn no_request_fails_over_restarts_with_a_confirm_window_without_async() {
    nothing_is_lost("raw-sync", "500ms");
}

/// A server on a raw listener accepts in the confirm window only if it is not paused; this one is.
#[test]
fn paused_server_leaves_new_connections_to_the_next_generation() {
    let sandbox = sandbox("raw", "60s");
    sandbox.start();
    let restart = sandbox.spawn(["restart", "--json"]);
    eventually("it is paused", SOON, || shows(&sandbox, "\"paused\""));
    for _ in 0..50 {
        assert_eq!(sandbox.get("/").expect("a response").number("generation"), Some(2));
    }
    drop(restart);
}

/// The next generation asks for its raw listener and does not become ready: it gets no connection, and the
/// reason names only the other listener.
#[test]
fn nothing_is_accepted_before_go() {
    let mut sandbox = sandbox("raw", "0s");
    sandbox.set("DAEMON_READY_TIMEOUT", "2s");
    let target = sandbox.start().target("http");
    let load = Load::on(target).new_connections(8).start();
    becomes(&sandbox, "hangs");
    let report = sandbox.restart_aborts();
    let reason = report.reason.expect("a reason");
    assert!(reason.contains("`lines`") && !reason.contains("`http`"), "{reason}");
    load.wait_for(100);
    let ledger = load.stop();
    ledger.assert_nothing_failed();
    assert_eq!(ledger.generations(), [1]);
    sandbox.stop();
}

/// `raw_listener` fails if the worker drains before its generation goes, and so `main` ends: here because the
/// supervisor is gone.
#[test]
fn drain_before_go_is_an_error() {
    let sandbox = sandbox("raw", "0s");
    becomes(&sandbox, "hangs");
    let start = sandbox.spawn(["start"]);
    let worker = || {
        let workers = sandbox.try_status()?.workers;
        let worker = Process::open(workers.first()?.pid)?;
        // It runs `main`: the runtime has threads.
        (worker.threads() > 2).then_some(worker)
    };
    eventually("it starts", SOON, || worker().is_some());
    let worker = worker().expect("a worker");
    sandbox.supervisor().kill();
    // Sooner than its drain deadline.
    assert!(worker.wait_gone(Duration::from_secs(5)), "`main` does not return\n{}", sandbox.log());
    let log = sandbox.log();
    assert!(log.contains("drains and accepts no connections on listener `http`"), "{log}");
    assert_ne!(start.wait(SOON).code(), 0);
}

/// If the new generation fails in the confirm window, the old one resumes.
#[track_caller]
fn aborted_restart_resumes(fixture: &str) {
    let sandbox = sandbox(fixture, "60s");
    let target = sandbox.start().target("http");
    for _ in 0..2 {
        // The fixture `raw` crashes in the confirm window.
        becomes(&sandbox, "crashes");
        sandbox.deploy("raw");
        let report = sandbox.restart_aborts();
        let reason = report.reason.expect("a reason");
        assert!(reason.contains("was killed by SIGABRT before it was confirmed"), "{reason}");
        eventually("it has resumed", SOON, || shows(&sandbox, "\"resumed\""));
        let load = Load::on(target.clone()).new_connections(4).requests(100).start().join();
        load.assert_nothing_failed();
        assert_eq!(load.generations(), [1]);
    }
    sandbox.stop();
}

#[test]
fn server_resumes_after_an_aborted_restart() {
    aborted_restart_resumes("raw");
}

#[test]
fn server_without_async_resumes_after_an_aborted_restart() {
    aborted_restart_resumes("raw-sync");
}

/// A solo daemon may accept from its start.
#[test]
fn solo_daemon_has_raw_listeners() {
    let mut sandbox = Sandbox::new("raw-solo");
    sandbox.set("DAEMON_LISTEN_HTTP", "localhost:0");
    let status = sandbox.start();
    for listener in &status.listeners {
        let target = listener.addr.parse().expect("an address");
        let response = Connection::open(&target).and_then(|mut it| it.get("/"));
        assert_eq!(response.expect("a response").number("generation"), Some(1));
    }
    let load = Load::on(status.target("http")).keep_alive(4).start();
    load.wait_for(100);
    drop(load);
    sandbox.stop();
}

/// Reads a line, byte by byte so nothing is read ahead.
fn hear(connection: &mut Connection) -> String {
    let mut line = String::new();
    BufReader::with_capacity(1, connection.by_ref()).read_line(&mut line).expect("a line");
    line
}

/// A connection is counted and drained by its guard, without its wrapper.
#[test]
fn guard_keeps_the_connection_in_the_ledger() {
    let sandbox = sandbox("raw", "0s");
    let target = sandbox.start().target("lines");
    let mut open: Vec<_> = (0..3).map(|_| Connection::open(&target).expect("it")).collect();
    let mut ended = Connection::open(&target).expect("a connection");
    for connection in open.iter_mut().chain([&mut ended]) {
        connection.send("x\n").expect("a line");
        assert_eq!(hear(connection), "x\n");
    }
    assert_eq!(sandbox.status().serving().connections, 4);
    drop(ended);
    eventually("it has ended", SOON, || sandbox.status().serving().connections == 3);
    let restart = sandbox.spawn(["restart", "--json"]);
    for connection in &mut open {
        assert_eq!(hear(connection), "bye\n");
        connection.closed().expect("an end");
    }
    let output = restart.wait(SOON).expect_code(0);
    let report: unbroken_tests::Report = serde_json::from_str(&output.stdout).expect("a report");
    let ledger = report.ledger();
    ledger.assert_balanced();
    assert_eq!((ledger.accepted, ledger.finished, ledger.closed), (4, 1, 3), "{report:?}");
    assert_eq!((ledger.forced, ledger.lost, ledger.dropped_tasks), (0, 0, 0), "{report:?}");
    sandbox.stop();
}

#[test]
fn guard_without_async_keeps_the_connection_in_the_ledger() {
    let sandbox = sandbox("raw-sync", "0s");
    let target = sandbox.start().target("lines");
    let mut connection = Connection::open(&target).expect("a connection");
    connection.send("x\n").expect("a line");
    assert_eq!(hear(&mut connection), "x\n");
    assert_eq!(sandbox.status().serving().connections, 1);
    let stop = sandbox.spawn(["stop", "--json"]);
    eventually("it drains", SOON, || {
        sandbox.try_status().is_some_and(|it| it.workers.iter().any(|it| it.state == "draining"))
    });
    connection.send("y\n").expect("a line");
    assert_eq!(hear(&mut connection), "y\n");
    drop(connection);
    let output = stop.wait(SOON).expect_code(0);
    let report: unbroken_tests::Report = serde_json::from_str(&output.stdout).expect("a report");
    report.ledger().assert_balanced();
    assert_eq!((report.ledger().accepted, report.ledger().closed), (1, 1), "{report:?}");
    sandbox.assert_nothing_left();
}
