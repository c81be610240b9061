//! P3: a binary that fails just after it was ready, in the confirm window, cannot take the service down.

#![allow(clippy::expect_used)]

use std::fs;
use std::time::{Duration, Instant};

use unbroken_tests::load::Outcome;
use unbroken_tests::{Load, Report, Sandbox, eventually};

const SOON: Duration = Duration::from_secs(20);

/// Creates a sandbox with the fixture `confirm-modes`, which reads its behaviour from a file at each start.
fn sandbox(window: &str) -> Sandbox {
    let mut sandbox = Sandbox::new("confirm-modes");
    sandbox.set("DAEMON_CONFIRM_WINDOW", window);
    sandbox.set("DAEMON_CONFIG", sandbox.path("app.toml").display().to_string());
    becomes(&sandbox, "good");
    sandbox
}

fn becomes(sandbox: &Sandbox, mode: &str) {
    fs::write(sandbox.path("app.toml"), format!("[app]\nmode = {mode:?}\n")).expect("a file");
}

/// Restarts under load to a program that fails in the confirm window, and checks that the restart is aborted
/// with `reasons`.
#[track_caller]
fn aborts(mode: &str, window: &str, reasons: &[&str]) -> Report {
    let sandbox = sandbox(window);
    aborts_in(&sandbox, mode, reasons)
}

#[track_caller]
fn aborts_in(sandbox: &Sandbox, mode: &str, reasons: &[&str]) -> Report {
    let before = sandbox.start();
    let target = before.target("http");
    let kept = Load::on(target.clone()).keep_alive(16).rate(500.0).start();
    let new = Load::on(target).new_connections(8).rate(500.0).start();
    new.wait_for(100);
    becomes(sandbox, mode);
    let report = sandbox.restart_aborts();
    let reason = report.reason.clone().expect("a reason");
    for wanted in reasons {
        assert!(reason.contains(wanted), "`{wanted}` not in `{reason}`");
    }
    new.wait_for(100);
    let now = sandbox.status();
    assert_eq!(now.generation, before.generation, "{now:?}");
    assert_eq!(now.serving().pid, before.serving().pid, "the old worker goes on");
    assert_eq!((now.pid, now.workers.len()), (before.pid, 1), "{now:?}");

    // Only requests on connections that the new worker had accepted have failed.
    let (kept, new) = (kept.stop(), new.stop());
    kept.assert_nothing_failed();
    let ledger = report.ledger();
    ledger.assert_balanced();
    let refused = new.count(Outcome::ConnectRefused) + new.count(Outcome::ConnectTimeout);
    assert_eq!(refused, 0, "{new}");
    assert!(new.failed() <= ledger.lost, "{ledger:?}\n{new}");

    // The next restart, to a program whose check passes, is confirmed.
    becomes(sandbox, "check passes");
    let next = sandbox.restart();
    assert_eq!(next.result, "ok");
    sandbox.stop();
    report
}

#[test]
fn crash_in_the_window_aborts() {
    aborts("crashes", "60s", &["generation 2 was killed by SIGABRT before it was confirmed"]);
}

#[test]
fn unhealthy_in_the_window_aborts() {
    let report = aborts("sick", "60s", &["generation 2 is unhealthy: the database is gone"]);
    assert!(report.ledger().accepted > 0, "it served for a while: {report:?}");
}

#[test]
fn unhealthy_before_ready_aborts() {
    let sandbox = sandbox("2s");
    sandbox.start();
    becomes(&sandbox, "sick at start");
    let report = sandbox.restart_aborts();
    assert!(report.reason.expect("a reason").contains("generation 2 is unhealthy"));
    sandbox.stop();
}

#[test]
fn failed_confirm_check_aborts() {
    aborts("check fails", "60s", &["its confirm check failed: it answers 500"]);
}

#[test]
fn panicking_confirm_check_aborts() {
    aborts("check panics", "60s", &["its confirm check failed: it panicked"]);
}

#[test]
fn slow_confirm_check_aborts() {
    aborts("check hangs", "1s", &["confirm check of generation 2 did not pass within 1 s"]);
}

#[test]
fn hang_in_the_window_aborts() {
    let mut sandbox = sandbox("60s");
    sandbox.set("DAEMON_WATCHDOG", "500ms");
    aborts_in(&sandbox, "hangs", &["generation 2 has not responded to its watchdog for 0.5 s"]);
}

/// A program that confirms itself ends the window early.
#[test]
fn program_confirms_early() {
    let sandbox = sandbox("60s");
    sandbox.start();
    becomes(&sandbox, "check passes");
    let begun = Instant::now();
    sandbox.restart();
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    sandbox.stop();
}

/// In the confirm window the old worker is paused: it keeps its idle connections and accepts no new ones.
#[test]
fn old_worker_is_paused_in_the_window() {
    let sandbox = sandbox("3s");
    let target = sandbox.start().target("http");
    let mut idle = unbroken_tests::http::Connection::open(&target).expect("a connection");
    idle.get("/").expect("a response");
    let restart = sandbox.spawn(["restart", "--json"]);
    let state = |generation| {
        let status = sandbox.status();
        let worker = status.workers.iter().find(|worker| worker.generation == generation);
        worker.map(|worker| (worker.state.clone(), worker.connections))
    };
    eventually("it is quiesced", SOON, || state(1) == Some(("paused".into(), 1)));
    let begun = Instant::now();
    assert_eq!(sandbox.get("/").expect("a response").number("generation"), Some(2));
    assert_eq!(idle.get("/").expect("a response").number("generation"), Some(1));
    let output = restart.wait(SOON).expect_code(0);
    assert!(begun.elapsed() > Duration::from_secs(1), "{:?}", begun.elapsed());
    let report: Report = serde_json::from_str(&output.stdout).expect("a report");
    assert_eq!(report.ledger().handed_off, 1, "{report:?}");
    assert_eq!(idle.get("/").expect("a response").number("generation"), Some(2));
    sandbox.stop();
}

/// No request fails over restarts with a confirm window of the default length.
#[test]
fn no_request_fails_with_the_default_window() {
    let sandbox = sandbox("2s");
    let target = sandbox.start().target("http");
    let kept = Load::on(target.clone()).keep_alive(32).start();
    let new = Load::on(target).new_connections(8).start();
    for _ in 0..3 {
        new.wait_for(100);
        let begun = Instant::now();
        sandbox.restart().ledger().assert_balanced();
        assert!(begun.elapsed() >= Duration::from_secs(2), "{:?}", begun.elapsed());
    }
    let kept = kept.stop();
    kept.assert_nothing_failed();
    assert_eq!((kept.connections, kept.told_to_close), (32, 0), "{kept}");
    new.stop().assert_nothing_failed();
    sandbox.stop();
}

/// If both workers die in the confirm window, the old generation is respawned from its own image.
#[test]
fn old_generation_is_respawned_if_both_workers_die() {
    let sandbox = sandbox("60s");
    sandbox.start();
    becomes(&sandbox, "good");
    let restart = sandbox.spawn(["restart", "--json"]);
    let quiesced = || {
        let workers = sandbox.status().workers;
        workers.iter().find(|worker| worker.state == "paused").map(|worker| worker.pid)
    };
    eventually("it is quiesced", SOON, || quiesced().is_some());
    let old = quiesced().and_then(unbroken_tests::Process::open).expect("a worker");
    let new = sandbox.worker();
    old.kill();
    new.kill();
    restart.wait(SOON).expect_code(1);
    eventually("the daemon serves", SOON, || sandbox.get("/").is_ok());
    assert_eq!(sandbox.get("/").expect("a response").number("generation"), Some(1));
    sandbox.stop();
}

/// The watchdog replaces a confirmed worker whose runtime is blocked, and logs what its threads were doing.
#[test]
fn watchdog_replaces_a_blocked_worker() {
    let mut sandbox = sandbox("0s");
    sandbox.set("DAEMON_WATCHDOG", "500ms");
    let target = sandbox.start().target("http");
    let old = sandbox.worker();
    let mut blocked = unbroken_tests::http::Connection::open(&target).expect("a connection");
    blocked.send("GET /block HTTP/1.1\r\nHost: test\r\n\r\n").expect("a request");
    assert!(old.wait_gone(SOON), "it is killed");
    eventually("another one serves", SOON, || {
        sandbox.try_status().is_some_and(|status| {
            status.workers.iter().any(|worker| worker.state == "serving" && worker.pid != old.pid())
        })
    });
    let response = sandbox.get("/").expect("a response");
    assert_eq!(response.number("generation"), Some(1), "of the same generation");
    let log = sandbox.log();
    assert!(log.contains("has not responded to its watchdog for 0.5 s"), "{log}");
    let hint = format!("process {}, thread", old.pid());
    assert!(log.contains(&hint), "{log}");
    sandbox.stop();
}

/// With `exclusive` the old worker ends before the new one starts, and connections wait in the accept queue.
#[test]
fn exclusive_generations_do_not_overlap() {
    let mut sandbox = sandbox("1s");
    sandbox.set("DAEMON_EXCLUSIVE", "true");
    sandbox.set("DAEMON_APP__STORE", sandbox.path("store").display().to_string());
    let target = sandbox.start().target("http");
    let load = Load::on(target).new_connections(8).rate(300.0).start();
    for _ in 0..3 {
        load.wait_for(50);
        let report = sandbox.restart();
        report.ledger().assert_balanced();
    }
    // After a failure at the start, or in the confirm window, the old image is started again.
    for (mode, reason) in [("fails", "no such table"), ("check fails", "it answers 500")] {
        becomes(&sandbox, mode);
        let report = sandbox.restart_aborts();
        let text = format!("{:?} {:?}", report.reason, report.output);
        assert!(text.contains(reason), "{report:?}");
        becomes(&sandbox, "good");
        load.wait_for(50);
        assert_eq!(sandbox.get("/").expect("a response").number("generation"), Some(4));
    }
    let ledger = load.stop();
    // Connections that the failed worker had accepted are lost, and none is refused.
    assert_eq!(ledger.count(Outcome::ConnectRefused), 0, "{ledger}");
    sandbox.stop();
}

/// Without `exclusive` a restart of such a program is aborted, and the old worker continues.
#[test]
fn restart_without_exclusive_is_aborted() {
    let mut sandbox = sandbox("1s");
    sandbox.set("DAEMON_APP__STORE", sandbox.path("store").display().to_string());
    sandbox.start();
    let report = sandbox.restart_aborts();
    assert!(report.output.join("\n").contains("the store has an owner"), "{report:?}");
    assert_eq!(sandbox.get("/").expect("a response").number("generation"), Some(1));
    sandbox.stop();
}
