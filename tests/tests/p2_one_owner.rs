//! P2: a connection has one owner at any time, even if a worker dies during the handoff.

#![allow(clippy::expect_used)]

use std::io::{BufRead, BufReader, Read};
use std::time::Duration;

use unbroken::failpoint::VARIABLE;
use unbroken_tests::http::Connection;
use unbroken_tests::{Process, Report, Sandbox, Signal, eventually};

const SOON: Duration = Duration::from_secs(30);

/// The new worker has acknowledged some connections, has not read others, and is killed before the old one
/// has read an acknowledgement. Exactly the acknowledged connections are lost; all others continue.
#[test]
fn killed_worker_loses_exactly_what_it_acknowledged() {
    let sandbox = Sandbox::new("http");
    let ask = |connection: &mut Connection| {
        connection.get("/").ok().map(|response| response.number("generation").expect("a number"))
    };
    killed_with_some(sandbox, "http", 200, ask);
}

/// The same holds for connections that the program hands off itself.
#[test]
fn killed_worker_loses_exactly_the_own_connections_it_accepted() {
    let mut sandbox = Sandbox::new("hands-off");
    sandbox.set("DAEMON_APP__HOLD", sandbox.path("hold").display().to_string());
    let ask = |connection: &mut Connection| {
        connection.send("x\n").ok()?;
        let mut line = String::new();
        // A capacity of one byte reads nothing ahead.
        BufReader::with_capacity(1, connection.by_ref()).read_line(&mut line).ok()?;
        let generation = line.split_whitespace().next()?.strip_prefix("generation=")?;
        Some(generation.parse().expect("a number"))
    };
    killed_with_some(sandbox, "count", 64, ask);
}

/// Kills the new worker in the middle of a handoff. `ask` returns the generation that answers on a
/// connection, or `None` if the connection has ended.
fn killed_with_some(
    mut sandbox: Sandbox,
    listener: &str,
    count: usize,
    ask: impl Fn(&mut Connection) -> Option<u64>,
) {
    sandbox.set("DAEMON_DRAIN_TIMEOUT", "60s");
    sandbox.set("DAEMON_BACKOFF_MIN", "10ms");
    // The new worker waits a second before its first message, until the old one has sent its second and has
    // stopped. Then it acknowledges the first message, and stops.
    sandbox.set(
        VARIABLE,
        "worker.handoff-received@2#1=delay(1s);worker.after-handoff@1#2=stop;\
         worker.handoff-answered@2#1=stop",
    );
    let target = sandbox.start().target(listener);
    let mut connections: Vec<_> =
        (0..count).map(|_| Connection::open(&target).expect("a connection")).collect();
    for connection in &mut connections {
        assert_eq!(ask(connection), Some(1));
    }
    let old = sandbox.worker();
    let restart = sandbox.spawn(["restart", "--json"]);
    eventually("the old worker is stopped", SOON, || old.state() == Some('T'));
    let new = Process::open(sandbox.status().serving().pid).expect("the new worker");
    assert_ne!(new.pid(), old.pid());
    eventually("the new worker has answered", SOON, || new.state() == Some('T'));
    new.signal(Signal::KILL);
    assert!(new.wait_gone(SOON));
    old.signal(Signal::CONT);
    // The respawned worker stops at the same step.
    let next = || {
        let workers = sandbox.status().workers;
        workers.iter().find(|it| it.generation == 2).and_then(|it| Process::open(it.pid))
    };
    eventually("the next worker has answered", SOON, || {
        next().is_some_and(|worker| worker.state() == Some('T'))
    });
    next().expect("a worker").signal(Signal::CONT);
    let output = restart.wait(SOON).expect_code(0);
    let report: Report = serde_json::from_str(&output.stdout).expect("a report");
    let ledger = report.ledger();
    ledger.assert_balanced();
    assert_eq!((ledger.handed_off, ledger.lost), (count as u64, 0), "{report:?}");

    let answered: Vec<_> = connections.iter_mut().map(&ask).collect();
    let gone = answered.iter().filter(|generation| generation.is_none()).count();
    assert!(answered.iter().all(|generation| matches!(generation, None | Some(2))), "{answered:?}");
    assert!(gone > 0 && gone < count, "{gone} went down with the new worker");
    assert_eq!(sandbox.status().serving().connections, (count - gone) as u64, "{gone} are gone");
    sandbox.stop();
}
