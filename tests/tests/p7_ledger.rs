//! P7: the ledger counts every connection, whatever happens to its worker.

#![allow(clippy::expect_used)]

use std::time::Duration;

use unbroken_tests::http::Connection;
use unbroken_tests::{Load, Report, Sandbox, eventually};

const SOON: Duration = Duration::from_secs(20);

/// The ledgers are balanced, and agree with the clients' counts, under load with restarts and killed workers.
#[test]
fn ledger_balances_under_load_and_kills() {
    const KILLS: u64 = 4;
    let mut sandbox = Sandbox::new("http");
    sandbox.set("DAEMON_BACKOFF_MIN", "10ms").set("DAEMON_START_LIMIT_BURST", "100");
    let target = sandbox.start().target("http");
    let kept = Load::on(target.clone()).keep_alive(32).start();
    let new = Load::on(target).new_connections(8).start();
    let mut accounts = Vec::new();
    for round in 0..2 * KILLS {
        kept.wait_for(200);
        new.wait_for(50);
        if round % 2 == 1 {
            let worker = sandbox.worker();
            worker.kill();
            // Wait until the respawned worker is in use, so the generation has the counters of two.
            eventually("another worker serves", SOON, || {
                let status = sandbox.status();
                status.workers.iter().any(|it| it.state == "serving" && it.pid != worker.pid())
            });
            kept.wait_for(200);
        }
        sandbox.deploy(if round % 2 == 0 { "http-v2" } else { "http" });
        let report = sandbox.restart();
        report.ledger().assert_balanced();
        assert_eq!(report.ledger().open, 0, "{report:?}");
        accounts.push(report.ledger().clone());
    }
    let (kept, new) = (kept.stop(), new.stop());
    let stop = sandbox.stop();
    stop.ledger().assert_balanced();
    assert_eq!(stop.ledger().open, 0, "{stop:?}");
    assert!(stop.to_drained_ms.is_some(), "{stop:?}");
    accounts.push(stop.ledger().clone());

    // Only generations with a killed worker have lost connections.
    for (round, ledger) in accounts.iter().enumerate() {
        assert_eq!(ledger.lost > 0, round % 2 == 1, "{round}: {ledger:?}");
    }
    // Each generation has received what the one before handed off.
    for pair in accounts.windows(2) {
        assert_eq!(pair[0].handed_off, pair[1].received, "{pair:?}");
    }
    let accepted: u64 = accounts.iter().map(|ledger| ledger.accepted).sum();
    // A worker that is killed during accept has counted that connection, which the next one may accept.
    let made = kept.connections + new.connections;
    assert!((made..=made + KILLS).contains(&accepted), "{accepted}: {kept}{new}");
}

/// `status` shows the last ten restarts, the latest first.
#[test]
fn ten_restarts_are_remembered() {
    let sandbox = Sandbox::new("http");
    let target = sandbox.start().target("http");
    let mut connection = Connection::open(&target).expect("a connection");
    for _ in 0..11 {
        connection.get("/").expect("a response");
        sandbox.restart();
    }
    sandbox.deploy("fails-at-start");
    sandbox.restart_aborts();
    let status = sandbox.status();
    let generations: Vec<_> = status.restarts.iter().map(|it| it.generation).collect();
    assert_eq!(generations, (4..=13).rev().collect::<Vec<_>>());
    let (aborted, done) = status.restarts.split_first().expect("restarts");
    assert_eq!((aborted.result.as_str(), &aborted.ledger), ("aborted", &None));
    for restart in done {
        let ledger = restart.ledger.as_ref().expect("an ledger");
        ledger.assert_balanced();
        assert_eq!((ledger.handed_off, ledger.requests), (1, 1), "{restart:?}");
        assert!(restart.to_commit_ms <= restart.to_drained_ms, "{restart:?}");
        assert!(restart.at > 0 && restart.to_drained_ms.is_some(), "{restart:?}");
    }
    assert_eq!(status.serving().ledger.received, 1);
    let text = sandbox.verb(["status"]).expect_code(0).stdout;
    let lines = text.lines().filter(|line| line.trim_start().starts_with("restart "));
    assert_eq!(lines.count(), 10, "{text}");
    sandbox.stop();
}

/// The text output of the verbs and the log show the ledger in one line.
#[test]
fn ledger_is_shown_in_one_line() {
    let sandbox = Sandbox::new("http");
    let target = sandbox.start().target("http");
    let mut connection = Connection::open(&target).expect("a connection");
    connection.get("/").expect("a response");
    let text = sandbox.verb(["restart"]).expect_code(0).stdout;
    let ledger = "1 connections: 0 finished, 1 handed off, 0 closed, 0 forced, 0 lost; 1 requests";
    assert!(text.contains(ledger) && text.lines().count() == 1, "{text}");
    assert!(sandbox.log().contains(ledger), "{}", sandbox.log());
    drop(connection);
    eventually("it is closed", SOON, || sandbox.status().serving().connections == 0);
    let printed = sandbox.verb(["stop"]).expect_code(0).stdout;
    let ledger = "1 connections: 1 finished, 0 handed off, 0 closed, 0 forced, 0 lost; 0 requests";
    assert!(printed.contains(ledger) && printed.lines().count() == 1, "{printed}");
}

/// A solo daemon has a balanced ledger too.
#[test]
fn solo_daemon_has_a_ledger() {
    let sandbox = Sandbox::new("solo-http");
    let target = sandbox.start().target("http");
    let load = Load::on(target).new_connections(4).requests(100).run();
    load.assert_nothing_failed();
    let report: Report = sandbox.stop();
    report.ledger().assert_balanced();
    assert_eq!(report.ledger().accepted, load.connections, "{report:?}");
    assert!(report.to_drained_ms.is_some(), "{report:?}");
}
