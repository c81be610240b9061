//! P7: the ways in which `main` ends, and the reports of them.

#![allow(clippy::expect_used)]

use std::time::Duration;

use unbroken_tests::http::Connection;
use unbroken_tests::{Child, Report, Sandbox, Signal, Status, eventually};

const SOON: Duration = Duration::from_secs(20);

/// Creates a sandbox with the fixture `ends` in this mode.
fn sandbox(mode: &str) -> Sandbox {
    let mut sandbox = Sandbox::new("ends");
    sandbox.set("DAEMON_APP__MODE", mode);
    sandbox
}

#[track_caller]
fn open(status: &Status) -> Connection {
    Connection::open(&status.target("http")).expect("a connection")
}

/// The service is dropped with the future of `serve`. An actor that ends when the service drops its sender
/// therefore ends at a drain.
#[test]
fn service_is_dropped_with_its_future() {
    for mode in ["joined", "dropped"] {
        let sandbox = sandbox(mode);
        let status = sandbox.start();
        let mut idle = open(&status);
        idle.get("/").expect("a response");
        let report = sandbox.restart();
        report.ledger().assert_balanced();
        let log = sandbox.log();
        let at = |what: &str| log.find(what).unwrap_or_else(|| panic!("no `{what}`\n{log}"));
        assert!(at("the actor has ended") < at("generation 1 drained"), "{mode}\n{log}");
        let report = sandbox.stop();
        assert_eq!((report.ledger().forced, report.ledger().lost), (0, 0), "{report:?}");
        assert_eq!(
            sandbox.log().matches("the actor has ended").count(),
            2,
            "{mode}\n{}",
            sandbox.log()
        );
    }
}

/// A worker that ends does not report that its supervisor is gone, although its link closes a moment before
/// its process ends.
#[test]
fn ending_worker_does_not_report_a_lost_supervisor() {
    for (fixture, mode) in [("fails-at-start", "-"), ("ends", "fails"), ("ends", "returns")] {
        let mut sandbox = Sandbox::new(fixture);
        sandbox.set("DAEMON_APP__MODE", mode);
        sandbox.set("DAEMON_LOG_FORMAT", "text");
        sandbox.set("DAEMON_RESTART", "no");
        sandbox.set("UNBROKEN_FAILPOINTS", "worker.before-exit=delay(150ms)");
        if fixture == "ends" {
            let status = sandbox.start();
            // The response may be cut.
            let _ = open(&status).get("/end");
            sandbox.wait_empty(SOON);
        } else {
            sandbox.verb(["start"]).expect_code(1);
        }
        let log = sandbox.log();
        assert!(!log.contains("the supervisor is gone"), "{fixture} {mode}\n{log}");
        sandbox.assert_nothing_left();
    }
}

#[track_caller]
fn ask(connection: &mut Connection, path: &str) {
    let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n");
    connection.send(request).expect("a request");
}

#[track_caller]
fn report(output: &unbroken_tests::Output) -> Report {
    serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error}\n{output}"))
}

/// Ends `main` while a request is in flight, which is cut.
#[track_caller]
fn ends_while_serving(sandbox: &Sandbox) {
    let status = sandbox.start();
    let mut slow = open(&status);
    ask(&mut slow, "/stream");
    std::io::Read::read_exact(&mut slow, &mut [0; 64]).expect("the stream");
    // The response may be cut.
    let _ = open(&status).get("/end");
    let ended = std::io::copy(&mut slow, &mut std::io::sink());
    assert!(ended.is_ok() || ended.is_err_and(|error| error.raw_os_error() == Some(104)));
}

/// If `main` fails, the open connections are lost. The log, `status` and the report count them.
#[test]
fn connections_are_lost_when_main_fails() {
    for (mode, code) in [("fails", 1), ("panics", 101)] {
        let sandbox = sandbox(mode);
        ends_while_serving(&sandbox);
        eventually("it is respawned", SOON, || {
            sandbox.try_status().is_some_and(|it| it.workers.iter().any(|it| it.state == "serving"))
        });
        let status = sandbox.status();
        let ledger = status.ledger.clone().expect("the ledger of the generation");
        ledger.assert_balanced();
        assert!(ledger.lost >= 1, "{ledger:?}");
        let log = sandbox.log();
        let expected = format!("the worker of generation 1 exited with code {code}");
        assert!(log.contains(&expected), "{mode}\n{log}");
        let lost = "lost with a worker of generation 1 that exited with code";
        assert!(log.contains(lost), "{mode}\n{log}");
        let text = sandbox.verb(["status"]).expect_code(0).stdout;
        assert!(text.contains(&format!("{} lost", ledger.lost)), "{text}");
        let report = sandbox.stop();
        report.ledger().assert_balanced();
        assert_eq!((report.ledger().lost, report.ledger().forced), (ledger.lost, 0), "{report:?}");
    }
}

/// If the daemon ends with its worker, the log reports the lost connections.
#[test]
fn connections_lost_with_the_daemon_are_logged() {
    for (mode, restart) in [("returns", "on-failure"), ("fails", "no")] {
        let mut sandbox = sandbox(mode);
        sandbox.set("DAEMON_RESTART", restart);
        ends_while_serving(&sandbox);
        sandbox.wait_empty(SOON);
        let log = sandbox.log();
        assert!(log.contains("lost with a worker of generation 1 that exited"), "{mode}\n{log}");
        sandbox.assert_nothing_left();
    }
}

/// If the old `main` ends in the confirm window, its open requests are finished, because the new worker
/// serves already. The log and the report mention it.
#[test]
fn requests_are_finished_when_the_old_main_ends_in_the_window() {
    let ended = "`main` of generation 1 returned while it was paused in the confirm window";
    for (mode, code) in [("fails", 1), ("panics", 101), ("returns", 0)] {
        let mut sandbox = sandbox(mode);
        sandbox.set("DAEMON_CONFIRM_WINDOW", "60s");
        let status = sandbox.start();
        let (mut slow, mut kept) = (open(&status), open(&status));
        kept.get("/").expect("a response");
        let restart = sandbox.spawn(["restart", "--json"]);
        eventually("the new one serves", SOON, || sandbox.status().generation == Some(2));
        let half = "POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\nhe";
        slow.send(half).expect("half a request");
        eventually("it is in flight", SOON, || {
            let old = sandbox.status().workers.into_iter().find(|worker| worker.generation == 1);
            old.expect("the old worker").requests_in_flight == 1
        });
        ask(&mut kept, "/end");
        eventually("main has ended", SOON, || sandbox.log().contains(ended));
        slow.send("llo").expect("the other half");
        assert_eq!(slow.response().expect("an answer of the old worker").status, 200);
        drop((slow, kept));
        let exited = format!("generation 1 exited with code {code} while draining");
        eventually("the old worker is gone", SOON, || sandbox.status().workers.len() == 1);
        let log = sandbox.log();
        assert_eq!(log.contains(&exited), code != 0, "{mode}\n{log}");
        // Stop, because the rest of the window is long.
        sandbox.verb(["stop", "--json"]).expect_code(0);
        let report = report(&restart.wait(SOON).expect_code(1));
        assert!(report.warnings.iter().any(|it| it.contains(ended)), "{report:?}");
        let warned = report.warnings.iter().any(|it| it.starts_with(&exited));
        assert_eq!(warned, code != 0, "{report:?}");
        sandbox.assert_nothing_left();
    }
}

/// If the old worker is killed in the confirm window, the restart succeeds and reports it.
#[test]
fn restart_reports_an_old_worker_killed_in_the_window() {
    let mut sandbox = sandbox("joined");
    sandbox.set("DAEMON_CONFIRM_WINDOW", "3s");
    let status = sandbox.start();
    let mut kept = open(&status);
    kept.get("/").expect("a response");
    let old = sandbox.worker();
    let restart = sandbox.spawn(["restart"]);
    eventually("the new one serves", SOON, || sandbox.status().generation == Some(2));
    old.kill();
    let output = restart.wait(SOON).expect_code(0);
    let expected = "generation 1 was killed by SIGKILL while it was paused in the confirm window";
    assert!(output.stdout.contains(expected) && output.stdout.contains("1 lost"), "{output}");
    let log = sandbox.log();
    assert!(log.contains(expected), "{log}");
    let text = sandbox.verb(["status"]).expect_code(0).stdout;
    assert!(text.contains(expected), "{text}");
    sandbox.stop();
}

/// The progress of a drain names what it waits for, and the log what was forced at the deadline.
#[test]
fn progress_names_what_a_drain_waits_for() {
    let held = "no connections, 1 task, `main` has not returned";
    for verb in ["restart", "stop"] {
        let mut sandbox = sandbox("stays");
        sandbox.set("DAEMON_DRAIN_TIMEOUT", "60s");
        let status = sandbox.start();
        open(&status).get("/keep").expect("a response");
        let script = format!("exec ./app {verb} --json 2> progress");
        let waits = Child::spawn(&mut sandbox.command_of("sh", ["-c", &script]));
        eventually("main stays", SOON, || sandbox.log().contains("main stays"));
        let progress = || std::fs::read_to_string(sandbox.path("progress")).unwrap_or_default();
        eventually("a line of progress", SOON, || progress().contains(&format!("s: {held}")));
        let status = sandbox.status();
        let old = status.workers.iter().find(|worker| worker.state == "draining");
        let old = old.unwrap_or_else(|| panic!("nobody drains: {status:?}"));
        assert_eq!((old.connections, old.tasks, old.main_ended), (0, 1, Some(false)), "{old:?}");
        let text = sandbox.verb(["status"]).expect_code(0).stdout;
        assert!(text.contains("in flight, 1 task, `main` has not returned"), "{text}");
        // SIGQUIT makes the deadline now.
        sandbox.supervisor().signal(Signal::QUIT);
        let ledger = report(&waits.wait(SOON).expect_code(0)).ledger().clone();
        ledger.assert_balanced();
        assert_eq!((ledger.forced_main, ledger.forced_tasks), (1, 1), "{ledger:?}");
        sandbox.wait_empty(SOON);
        let log = sandbox.log();
        let expected = format!("generation 1 was forced at its drain deadline: {held}");
        assert!(log.contains(&expected), "{log}");
        sandbox.assert_nothing_left();
    }
}

/// The ledger counts tasks of `tokio::spawn` that a handler left running.
#[test]
fn dropped_tasks_are_counted() {
    let sandbox = sandbox("joined");
    let status = sandbox.start();
    let mut kept = open(&status);
    for _ in 0..3 {
        kept.get("/leave").expect("a response");
    }
    let report = sandbox.restart();
    let ledger = report.ledger();
    ledger.assert_balanced();
    assert_eq!(
        (ledger.handed_off, ledger.dropped_tasks, ledger.forced_tasks),
        (1, 3, 0),
        "{ledger:?}"
    );
    let expected = "3 tasks of `tokio::spawn` dropped";
    assert!(sandbox.log().contains(expected), "{}", sandbox.log());
    // The daemon's own tasks, here for the connection that was handed off, are not counted.
    kept.get("/leave").expect("a response");
    drop(kept);
    let output = sandbox.verb(["stop"]).expect_code(0);
    assert!(output.stdout.contains("1 task of `tokio::spawn` dropped"), "{output}");
    sandbox.assert_nothing_left();
}
