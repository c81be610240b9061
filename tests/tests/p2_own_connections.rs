//! P2 for other protocols than HTTP: a program hands off its own connections with their state.

#![allow(clippy::expect_used)]

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::time::{Duration, Instant};

use unbroken_tests::http::Connection;
use unbroken_tests::{Process, Report, Sandbox, eventually};

const SOON: Duration = Duration::from_secs(20);

fn sandbox() -> Sandbox {
    let mut sandbox = Sandbox::new("hands-off");
    sandbox.set("DAEMON_APP__HOLD", sandbox.path("hold").display().to_string());
    sandbox
}

/// Sends a line. Returns the generation that answers and the number of lines counted on the connection.
#[track_caller]
fn say(connection: &mut Connection) -> (u64, u64) {
    connection.send("x\n").expect("a line");
    let answer = hear(connection);
    let number = |name: &str| {
        let value = answer.split_whitespace().find_map(|word| word.strip_prefix(name));
        value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("{answer:?}"))
    };
    (number("generation="), number("count="))
}

/// Reads a line, byte by byte so nothing is read ahead.
#[track_caller]
fn hear(connection: &mut Connection) -> String {
    let mut line = String::new();
    BufReader::with_capacity(1, connection.by_ref()).read_line(&mut line).expect("a line");
    line
}

fn report(output: &unbroken_tests::Output) -> Report {
    serde_json::from_str(&output.stdout).expect("a report")
}

#[test]
fn own_connections_keep_their_state() {
    let sandbox = sandbox();
    let target = sandbox.start().target("count");
    let mut connections: Vec<_> =
        (0..200).map(|_| Connection::open(&target).expect("a connection")).collect();
    for restart in 0..5 {
        for connection in &mut connections {
            assert_eq!(say(connection), (restart + 1, restart + 1));
        }
        let report = sandbox.restart();
        let ledger = report.ledger();
        ledger.assert_balanced();
        assert_eq!(ledger.accepted + ledger.received, 200, "{report:?}");
        assert_eq!(ledger.handed_off, 200, "{report:?}");
    }
    for connection in &mut connections {
        assert_eq!(say(connection), (6, 6));
    }
    assert_eq!(sandbox.status().serving().connections, 200);
    drop(connections);
    sandbox.stop();
}

#[test]
fn own_unix_connections_keep_their_state() {
    let mut sandbox = sandbox();
    sandbox.set("DAEMON_LISTEN_COUNT", format!("unix:{}", sandbox.path("count.sock").display()));
    let target = sandbox.start().target("count");
    let mut connection = Connection::open(&target).expect("a connection");
    for round in 1..=3 {
        assert_eq!(say(&mut connection), (round, round));
        sandbox.restart();
    }
    sandbox.stop();
}

/// A connection that is not accepted returns to the program with the reason. The fixture sends a farewell and
/// closes it.
#[test]
fn refused_connection_returns_with_the_reason() {
    let refused = |sandbox: &Sandbox, reason: &str| {
        let target = sandbox.start().target("count");
        let mut connection = Connection::open(&target).expect("a connection");
        say(&mut connection);
        let restart = sandbox.spawn(["restart", "--json"]);
        let farewell = hear(&mut connection);
        assert!(farewell.starts_with("bye: ") && farewell.contains(reason), "{farewell}");
        connection.closed().expect("an end");
        let report = report(&restart.wait(SOON).expect_code(0));
        report.ledger().assert_balanced();
        assert_eq!((report.ledger().handed_off, report.ledger().closed), (0, 1), "{report:?}");
        sandbox.stop();
    };
    let mut other_version = sandbox();
    other_version.set("DAEMON_APP__VERSION", "2");
    refused(&other_version, "did not accept it");

    let mut too_much = sandbox();
    too_much.set("DAEMON_APP__PADDING", "70000");
    refused(&too_much, "70008 bytes");

    let mut off = sandbox();
    off.set("DAEMON_HANDOFF", "false");
    refused(&off, "`handoff` is off");
}

/// If the new program has no handler for the name, the connection returns to the old one.
#[test]
fn connection_returns_if_the_new_program_has_no_handler() {
    let sandbox = sandbox();
    let target = sandbox.start().target("count");
    let mut connection = Connection::open(&target).expect("a connection");
    say(&mut connection);
    sandbox.deploy("echo");
    let restart = sandbox.spawn(["restart", "--json"]);
    assert!(hear(&mut connection).starts_with("bye: "));
    connection.closed().expect("an end");
    restart.wait(SOON);
    sandbox.stop();
}

/// At a stop the handoff is refused at once, because no worker serves afterwards.
#[test]
fn handoff_is_refused_at_a_stop() {
    let sandbox = sandbox();
    let target = sandbox.start().target("count");
    let mut connection = Connection::open(&target).expect("a connection");
    say(&mut connection);
    let begun = Instant::now();
    let stop = sandbox.spawn(["stop", "--json"]);
    let farewell = hear(&mut connection);
    assert!(farewell.contains("no generation follows this worker"), "{farewell}");
    let report = report(&stop.wait(SOON).expect_code(0));
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    report.ledger().assert_balanced();
    assert_eq!(report.ledger().closed, 1, "{report:?}");
    sandbox.assert_nothing_left();
}

/// If the new worker is killed before it has accepted any offer, its replacement gets all connections.
#[test]
fn offers_that_were_not_accepted_are_not_lost() {
    let sandbox = sandbox();
    let target = sandbox.start().target("count");
    let mut connections: Vec<_> =
        (0..100).map(|_| Connection::open(&target).expect("a connection")).collect();
    for connection in &mut connections {
        assert_eq!(say(connection), (1, 1));
    }
    fs::write(sandbox.path("hold"), "").expect("a file");
    let restart = sandbox.spawn(["restart", "--json"]);
    let holds = || {
        let log = sandbox.verb(["status", "--json"]).stdout;
        log.contains("holding").then(|| sandbox.status().serving().pid)
    };
    eventually("the new worker holds them", SOON, || holds().is_some());
    let holder = Process::open(holds().expect("a worker")).expect("a worker");
    fs::remove_file(sandbox.path("hold")).expect("a file");
    holder.kill();
    let report = report(&restart.wait(SOON).expect_code(0));
    report.ledger().assert_balanced();
    assert_eq!((report.ledger().handed_off, report.ledger().lost), (100, 0), "{report:?}");
    for connection in &mut connections {
        assert_eq!(say(connection), (2, 2));
    }
    sandbox.stop();
}

/// If the new worker neither accepts nor refuses an offer, the connection is cut at the drain deadline.
#[test]
fn unanswered_offer_is_forced_at_the_deadline() {
    let mut sandbox = sandbox();
    sandbox.set("DAEMON_DRAIN_TIMEOUT", "1s");
    let target = sandbox.start().target("count");
    let mut connection = Connection::open(&target).expect("a connection");
    say(&mut connection);
    fs::write(sandbox.path("hold"), "").expect("a file");
    let report = sandbox.restart();
    report.ledger().assert_balanced();
    assert_eq!(report.ledger().forced, 1, "{report:?}");
    assert!(report.to_drained_ms.expect("a duration") < 4000.0, "{report:?}");
    sandbox.stop();
}
