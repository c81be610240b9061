//! P2: a connection has one owner at any time, whoever dies while it is handed off.

#![allow(clippy::expect_used)]

use std::io::{BufRead, BufReader, Read};
use std::time::Duration;

use unbroken::failpoint::VARIABLE;
use unbroken_tests::http::Connection;
use unbroken_tests::{Bed, Process, Report, Signal, eventually};

const SOON: Duration = Duration::from_secs(30);

const CONNECTIONS: usize = 64;

/// How many of them the new worker has taken when it is killed.
const TAKEN: usize = 4;

/// The new worker has answered for some connections, has others unread, and is killed before the old one
/// has read an answer. What it had taken is gone with it; everything else goes on, and nothing is both.
#[test]
fn a_successor_that_has_answered_for_some_is_killed() {
    let mut bed = Bed::new("passes");
    bed.set("DAEMON_APP__HOLD", bed.path("hold").display().to_string());
    bed.set("DAEMON_DRAIN_TIMEOUT", "60s");
    // The old worker stops itself while answers are on their way to it. The new one gets no further than
    // to those that it is to take.
    let (sent, received) = ("worker.after-pass@1#8=stop", "worker.passed-received@2");
    bed.set(VARIABLE, format!("{sent};{received}#{}=delay(5s)", TAKEN + 1));
    let target = bed.start().target("count");
    let mut connections: Vec<_> =
        (0..CONNECTIONS).map(|_| Connection::open(&target).expect("a connection")).collect();
    for connection in &mut connections {
        connection.send("x\n").expect("a line");
        assert_eq!(hear(connection), "generation=1 count=1\n");
    }
    let old = bed.worker();
    let restart = bed.spawn(["restart", "--json"]);
    eventually("the old worker is stopped", SOON, || old.state() == Some('T'));
    let new = Process::open(bed.status().serving().pid).expect("the new worker");
    assert_ne!(new.pid(), old.pid());
    for connection in &mut connections {
        connection.send("x\n").expect("a line");
    }
    eventually("some are taken", SOON, || answered(&connections).len() == TAKEN);
    let taken = answered(&connections);
    new.signal(Signal::KILL);
    assert!(new.wait_gone(SOON));
    old.signal(Signal::CONT);

    for (index, connection) in connections.iter_mut().enumerate() {
        // What a worker read of those it had taken was answered by it, and by nobody else.
        assert_eq!(hear(connection), "generation=2 count=2\n", "connection {index}");
        let mut more = String::new();
        if taken.contains(&index) {
            let ended = connection.read_to_string(&mut more);
            assert!(ended.is_err() || more.is_empty(), "connection {index} has two: {more}");
        } else {
            connection.send("x\n").expect("a line");
            assert_eq!(hear(connection), "generation=2 count=3\n", "connection {index}");
        }
    }
    let output = restart.wait(SOON).expect_code(0);
    let report: Report = serde_json::from_str(&output.stdout).expect("a report");
    let account = report.account();
    account.assert_balanced();
    assert_eq!((account.passed, account.lost), (CONNECTIONS as u64, 0), "{report:?}");
    assert_eq!(bed.status().serving().connections, (CONNECTIONS - TAKEN) as u64);
    bed.stop();
}

/// Those that have something to read.
fn answered(connections: &[Connection]) -> Vec<usize> {
    let all = connections.iter().enumerate();
    all.filter(|(_, connection)| !connection.is_quiet()).map(|(index, _)| index).collect()
}

/// A line, read byte by byte so that nothing is read ahead.
#[track_caller]
fn hear(connection: &mut Connection) -> String {
    let mut line = String::new();
    BufReader::with_capacity(1, connection.by_ref()).read_line(&mut line).expect("a line");
    line
}
