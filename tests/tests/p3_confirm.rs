//! P3: a binary that goes bad just after it was ready cannot take the service down either.

#![allow(clippy::expect_used)]

use std::fs;
use std::time::{Duration, Instant};

use unbroken_tests::load::Outcome;
use unbroken_tests::{Bed, Load, Report, eventually};

const SOON: Duration = Duration::from_secs(20);

/// A bed whose program proves itself as the file says that is read at each restart.
fn bed(window: &str) -> Bed {
    let mut bed = Bed::new("probation");
    bed.set("DAEMON_CONFIRM_WINDOW", window);
    bed.set("DAEMON_CONFIG", bed.path("app.toml").display().to_string());
    becomes(&bed, "good");
    bed
}

fn becomes(bed: &Bed, mode: &str) {
    fs::write(bed.path("app.toml"), format!("[app]\nmode = {mode:?}\n")).expect("a file");
}

/// Restarts under load into a program that turns out bad within the window, and looks at what came of
/// it.
#[track_caller]
fn undone(mode: &str, window: &str, reasons: &[&str]) -> Report {
    let bed = bed(window);
    undone_in(&bed, mode, reasons)
}

#[track_caller]
fn undone_in(bed: &Bed, mode: &str, reasons: &[&str]) -> Report {
    let before = bed.start();
    let target = before.target("http");
    let kept = Load::on(target.clone()).keep_alive(16).rate(500.0).start();
    let new = Load::on(target).new_connections(8).rate(500.0).start();
    new.wait_for(100);
    becomes(bed, mode);
    let report = bed.restart_aborts();
    let reason = report.reason.clone().expect("a reason");
    for wanted in reasons {
        assert!(reason.contains(wanted), "`{wanted}` not in `{reason}`");
    }
    new.wait_for(100);
    let now = bed.status();
    assert_eq!(now.generation, before.generation, "{now:?}");
    assert_eq!(now.serving().pid, before.serving().pid, "the old worker goes on");
    assert_eq!((now.pid, now.workers.len()), (before.pid, 1), "{now:?}");

    // Nothing failed but what the new one had accepted and took down with it.
    let (kept, new) = (kept.stop(), new.stop());
    kept.assert_nothing_failed();
    let ledger = report.ledger();
    ledger.assert_balanced();
    let refused = new.count(Outcome::ConnectRefused) + new.count(Outcome::ConnectTimeout);
    assert_eq!(refused, 0, "{new}");
    assert!(new.failed() <= ledger.lost, "{ledger:?}\n{new}");

    // The next one is good, and says so.
    becomes(bed, "check passes");
    let next = bed.restart();
    assert_eq!(next.result, "ok");
    bed.stop();
    report
}

#[test]
fn crashes() {
    undone("crashes", "60s", &["generation 2 was killed by SIGABRT before it was confirmed"]);
}

#[test]
fn says_that_it_is_unhealthy() {
    let report = undone("sick", "60s", &["generation 2 is unhealthy: the database is gone"]);
    assert!(report.ledger().accepted > 0, "it served for a while: {report:?}");
}

#[test]
fn says_so_before_it_is_ready() {
    let bed = bed("2s");
    bed.start();
    becomes(&bed, "sick at start");
    let report = bed.restart_aborts();
    assert!(report.reason.expect("a reason").contains("generation 2 is unhealthy"));
    bed.stop();
}

#[test]
fn its_check_fails() {
    undone("check fails", "60s", &["its confirm check failed: it answers 500"]);
}

#[test]
fn its_check_panics() {
    undone("check panics", "60s", &["its confirm check failed: it panicked"]);
}

#[test]
fn its_check_takes_too_long() {
    undone("check hangs", "1s", &["confirm check of generation 2 did not pass within 1 s"]);
}

#[test]
fn hangs() {
    let mut bed = bed("60s");
    bed.set("DAEMON_WATCHDOG", "500ms");
    undone_in(&bed, "hangs", &["generation 2 has not responded to its watchdog for 0.5 s"]);
}

/// Confirmed by the program itself: nobody waits for the rest of the window.
#[test]
fn confirms_ahead_of_time() {
    let bed = bed("60s");
    bed.start();
    becomes(&bed, "check passes");
    let begun = Instant::now();
    bed.restart();
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    bed.stop();
}

/// Until it is confirmed the old worker is there, with its idle connections, and accepts nothing.
#[test]
fn the_old_one_waits_in_the_wings() {
    let bed = bed("3s");
    let target = bed.start().target("http");
    let mut idle = unbroken_tests::http::Connection::open(&target).expect("a connection");
    idle.get("/").expect("a response");
    let restart = bed.spawn(["restart", "--json"]);
    let state = |generation| {
        let status = bed.status();
        let worker = status.workers.iter().find(|worker| worker.generation == generation);
        worker.map(|worker| (worker.state.clone(), worker.connections))
    };
    eventually("it is quiesced", SOON, || state(1) == Some(("paused".into(), 1)));
    let begun = Instant::now();
    assert_eq!(bed.get("/").expect("a response").number("generation"), Some(2));
    assert_eq!(idle.get("/").expect("a response").number("generation"), Some(1));
    let output = restart.wait(SOON).expect_code(0);
    assert!(begun.elapsed() > Duration::from_secs(1), "{:?}", begun.elapsed());
    let report: Report = serde_json::from_str(&output.stdout).expect("a report");
    assert_eq!(report.ledger().handed_off, 1, "{report:?}");
    assert_eq!(idle.get("/").expect("a response").number("generation"), Some(2));
    bed.stop();
}

/// Nothing is dropped with a window as long as it is by default.
#[test]
fn nothing_is_dropped() {
    let bed = bed("2s");
    let target = bed.start().target("http");
    let kept = Load::on(target.clone()).keep_alive(32).start();
    let new = Load::on(target).new_connections(8).start();
    for _ in 0..3 {
        new.wait_for(100);
        let begun = Instant::now();
        bed.restart().ledger().assert_balanced();
        assert!(begun.elapsed() >= Duration::from_secs(2), "{:?}", begun.elapsed());
    }
    let kept = kept.stop();
    kept.assert_nothing_failed();
    assert_eq!((kept.connections, kept.told_to_close), (32, 0), "{kept}");
    new.stop().assert_nothing_failed();
    bed.stop();
}

/// Both are gone: the old generation is started again from its own image.
#[test]
fn the_old_one_is_respawned_if_it_has_died() {
    let bed = bed("60s");
    bed.start();
    becomes(&bed, "good");
    let restart = bed.spawn(["restart", "--json"]);
    let quiesced = || {
        let workers = bed.status().workers;
        workers.iter().find(|worker| worker.state == "paused").map(|worker| worker.pid)
    };
    eventually("it is quiesced", SOON, || quiesced().is_some());
    let old = quiesced().and_then(unbroken_tests::Process::open).expect("a worker");
    let new = bed.worker();
    old.kill();
    new.kill();
    restart.wait(SOON).expect_code(1);
    eventually("somebody serves", SOON, || bed.get("/").is_ok());
    assert_eq!(bed.get("/").expect("a response").number("generation"), Some(1));
    bed.stop();
}

/// A confirmed worker whose runtime is blocked is replaced, and the log says what it was doing.
#[test]
fn a_watchdog_replaces_who_hangs() {
    let mut bed = bed("0s");
    bed.set("DAEMON_WATCHDOG", "500ms");
    let target = bed.start().target("http");
    let old = bed.worker();
    let mut blocked = unbroken_tests::http::Connection::open(&target).expect("a connection");
    blocked.send("GET /block HTTP/1.1\r\nHost: test\r\n\r\n").expect("a request");
    assert!(old.wait_gone(SOON), "it is killed");
    eventually("another one serves", SOON, || {
        bed.try_status().is_some_and(|status| {
            status.workers.iter().any(|worker| worker.state == "serving" && worker.pid != old.pid())
        })
    });
    let response = bed.get("/").expect("a response");
    assert_eq!(response.number("generation"), Some(1), "of the same generation");
    let log = bed.log();
    assert!(log.contains("has not responded to its watchdog for 0.5 s"), "{log}");
    let hint = format!("process {}, thread", old.pid());
    assert!(log.contains(&hint), "{log}");
    bed.stop();
}

/// A program of which there must be one: connections wait while the old one ends and the new begins.
#[test]
fn exclusive_generations() {
    let mut bed = bed("1s");
    bed.set("DAEMON_EXCLUSIVE", "true");
    bed.set("DAEMON_APP__STORE", bed.path("store").display().to_string());
    let target = bed.start().target("http");
    let load = Load::on(target).new_connections(8).rate(300.0).start();
    for _ in 0..3 {
        load.wait_for(50);
        let report = bed.restart();
        report.ledger().assert_balanced();
    }
    // One that fails at its start, and one that does later: the old image begins again.
    for (mode, reason) in [("fails", "no such table"), ("check fails", "it answers 500")] {
        becomes(&bed, mode);
        let report = bed.restart_aborts();
        let said = format!("{:?} {:?}", report.reason, report.output);
        assert!(said.contains(reason), "{report:?}");
        becomes(&bed, "good");
        load.wait_for(50);
        assert_eq!(bed.get("/").expect("a response").number("generation"), Some(4));
    }
    let ledger = load.stop();
    // What the second one had accepted went down with it.
    assert_eq!(ledger.count(Outcome::ConnectRefused), 0, "{ledger}");
    bed.stop();
}

/// Without `exclusive` such a program cannot be restarted, and goes on.
#[test]
fn an_owner_that_is_not_exclusive() {
    let mut bed = bed("1s");
    bed.set("DAEMON_APP__STORE", bed.path("store").display().to_string());
    bed.start();
    let report = bed.restart_aborts();
    assert!(report.output.join("\n").contains("the store has an owner"), "{report:?}");
    assert_eq!(bed.get("/").expect("a response").number("generation"), Some(1));
    bed.stop();
}
