//! P1: nothing is dropped at a stop either. Established connections are answered, later ones are refused.

#![allow(clippy::expect_used)]

use std::io::Read;
use std::time::Duration;

use unbroken_tests::http::{Connection, Target};
use unbroken_tests::load::{Ledger, Outcome};
use unbroken_tests::{Load, Sandbox, Signal, eventually};

const SOON: Duration = Duration::from_secs(20);

/// The number of clients in the accept queue when the daemon is stopped.
const QUEUED: usize = 30;

fn queued(target: &Target, say: &str) -> Vec<Connection> {
    let connect = || {
        let mut connection = Connection::open(target).expect("a place in the queue");
        connection.send(say).expect("room for a request");
        connection
    };
    (0..QUEUED).map(|_| connect()).collect()
}

const REQUEST: &str = "GET / HTTP/1.1\r\nHost: test\r\n\r\n";

#[track_caller]
fn assert_answered(waiting: Vec<Connection>) {
    for mut connection in waiting {
        assert_eq!(connection.response().expect("a response").status, 200);
    }
}

/// Stops a daemon whose worker, stopped by a signal, has clients in its accept queue.
#[track_caller]
fn stops_with_a_queue(sandbox: &Sandbox) {
    let target = sandbox.start().target("http");
    let worker = sandbox.worker();
    worker.signal(Signal::STOP);
    let waiting = queued(&target, REQUEST);
    let stop = sandbox.spawn(["stop", "--json"]);
    eventually("it stops", SOON, || sandbox.status().state == "stopping");
    worker.signal(Signal::CONT);
    assert_answered(waiting);
    let output = stop.wait(SOON).expect_code(0);
    let report: unbroken_tests::Report = serde_json::from_str(&output.stdout).expect("a report");
    report.ledger().assert_balanced();
    assert_eq!(report.ledger().accepted, QUEUED as u64, "{report:?}");
    assert_eq!((report.ledger().forced, report.ledger().lost), (0, 0), "{report:?}");
    sandbox.assert_nothing_left();
}

#[test]
fn queued_clients_are_answered() {
    stops_with_a_queue(&Sandbox::new("http"));
}

#[test]
fn queued_clients_of_a_unix_socket_are_answered() {
    let mut sandbox = Sandbox::new("http");
    sandbox.set("DAEMON_LISTEN_HTTP", format!("unix:{}", sandbox.path("http.sock").display()));
    stops_with_a_queue(&sandbox);
}

/// In the confirm window two workers have the listener, and one of them accepts.
#[test]
fn queued_clients_are_answered_in_the_confirm_window() {
    let mut sandbox = Sandbox::new("http");
    sandbox.set("DAEMON_CONFIRM_WINDOW", "60s");
    let target = sandbox.start().target("http");
    let restart = sandbox.spawn(["restart"]);
    eventually("the new one serves", SOON, || sandbox.status().generation == Some(2));
    let worker = sandbox.worker();
    worker.signal(Signal::STOP);
    let waiting = queued(&target, REQUEST);
    let stop = sandbox.spawn(["stop"]);
    eventually("it stops", SOON, || sandbox.status().state == "stopping");
    worker.signal(Signal::CONT);
    assert_answered(waiting);
    stop.wait(SOON).expect_code(0);
    restart.wait(SOON).expect_code(1);
    sandbox.assert_nothing_left();
}

/// A solo process, stopped by a signal, gets SIGTERM before it can accept again.
#[test]
fn queued_clients_of_a_solo_daemon_are_answered() {
    let sandbox = Sandbox::new("solo-http");
    let target = sandbox.start().target("http");
    let process = sandbox.supervisor();
    process.signal(Signal::STOP);
    let waiting = queued(&target, REQUEST);
    process.signal(Signal::TERM);
    process.signal(Signal::CONT);
    assert_answered(waiting);
    sandbox.wait_empty(SOON);
    sandbox.assert_nothing_left();
}

#[test]
fn queued_clients_of_a_sync_program_are_answered() {
    let sandbox = Sandbox::new("sync");
    let target = sandbox.start().target("echo");
    let worker = sandbox.worker();
    worker.signal(Signal::STOP);
    let waiting = queued(&target, "hello\n");
    let stop = sandbox.spawn(["stop"]);
    eventually("it stops", SOON, || sandbox.status().state == "stopping");
    worker.signal(Signal::CONT);
    for mut connection in waiting {
        let mut echo = [0; 8];
        connection.read_exact(&mut echo).expect("an echo");
        assert_eq!(&echo, b"1 hello\n");
    }
    stop.wait(SOON).expect_code(0);
    sandbox.assert_nothing_left();
}

/// Asserts that clients were answered until they were refused, and that no request failed otherwise.
#[track_caller]
fn assert_answered_or_refused(ledger: &Ledger) {
    assert_eq!(ledger.failed(), ledger.count(Outcome::ConnectRefused), "{ledger}");
    assert!(ledger.count(Outcome::Ok) > 0 && ledger.failed() > 0, "{ledger}");
}

/// Stops the daemon repeatedly while clients connect: none is reset.
#[test]
fn no_client_is_reset_at_a_stop() {
    for round in 0..12 {
        let sandbox = Sandbox::new(if round % 4 == 3 { "solo-http" } else { "http" });
        let target = sandbox.start().target("http");
        // A client that connects while the daemon keeps new connections out sends its SYN again after a
        // second, and is refused then, unless a busy machine delays the end of the daemon.
        let load = || Load::on(target.clone()).new_connections(6).connect_timeout(SOON * 3).start();
        let loads: Vec<_> = (0..2).map(|_| load()).collect();
        loads.iter().for_each(|load| load.wait_for(20));
        let report = sandbox.stop();
        report.ledger().assert_balanced();
        assert_eq!((report.ledger().forced, report.ledger().lost), (0, 0), "{report:?}");
        for load in loads {
            // The first refusal comes after the last answer.
            eventually("refused", SOON, || load.progress().failed() > 0);
            assert_answered_or_refused(&load.stop());
        }
    }
}
