//! P5: crashes heal with known-good code.

#![allow(clippy::expect_used)]

use std::time::{Duration, Instant};

use unbroken_tests::http::Connection;
use unbroken_tests::{Bad, Bed, Load, Process, Signal, eventually};

const SOON: Duration = Duration::from_secs(20);

/// Waits until another worker than this one serves.
#[track_caller]
fn respawned(bed: &Bed, old: &Process) -> Process {
    let mut new = None;
    eventually("another worker serves", SOON, || {
        let status = bed.status();
        let serves = |worker: &&unbroken_tests::report::Worker| {
            worker.state == "serving" && worker.pid != old.pid()
        };
        new = status.workers.iter().find(serves).and_then(|worker| Process::open(worker.pid));
        new.is_some()
    });
    new.expect("a worker")
}

/// Whatever lies on disk meanwhile: the respawned worker is of the image its generation ran.
fn respawns_the_same(spoil: impl FnOnce(&Bed)) {
    let bed = Bed::new("http");
    let status = bed.start();
    let old = bed.worker();
    spoil(&bed);
    old.kill();
    let new = respawned(&bed, &old);
    let response = bed.get("/").expect("a response");
    assert_eq!(response.number("version"), Some(1));
    assert_eq!(response.number("generation"), status.generation);
    assert_eq!(response.number("pid"), Some(u64::from(new.pid())));
    assert_eq!(bed.status().pid, status.pid);
    bed.stop();
}

#[test]
fn with_a_newer_binary_on_disk() {
    respawns_the_same(|bed| bed.deploy("http-v2"));
}

#[test]
fn with_a_bad_file_on_disk() {
    respawns_the_same(|bed| bed.deploy_bad(Bad::WrongArchitecture));
}

#[test]
fn with_a_script_on_disk() {
    respawns_the_same(|bed| bed.deploy_bad(Bad::Script));
}

#[test]
fn with_nothing_on_disk() {
    respawns_the_same(|bed| bed.deploy_bad(Bad::Missing));
}

/// After a restart it is the new generation's image.
#[test]
fn after_a_restart() {
    let bed = Bed::new("http");
    bed.start();
    bed.deploy("http-v2");
    bed.restart();
    let old = bed.worker();
    bed.deploy("fails-at-start");
    old.kill();
    respawned(&bed, &old);
    assert_eq!(bed.get("/").expect("a response").number("version"), Some(2));
    bed.stop();
}

/// Its settings are its generation's, too: a respawn reads no file.
#[test]
fn reads_no_file() {
    let mut bed = Bed::new("http");
    let file = bed.path("app.toml");
    std::fs::write(&file, "drain_timeout = \"5s\"\n").expect("a file");
    bed.set("DAEMON_CONFIG", file.display().to_string());
    bed.start();
    let old = bed.worker();
    std::fs::write(&file, "nonsense\n").expect("a file");
    old.kill();
    respawned(&bed, &old);
    bed.stop();
}

/// Connections in the kernel's queue are served by the next worker.
#[test]
fn queued_connections_survive() {
    let bed = Bed::new("http");
    let target = bed.start().target("http");
    let old = bed.worker();
    old.signal(Signal::STOP);
    let load = Load::on(target).new_connections(20).requests(20).start();
    let all = |progress: &unbroken_tests::load::Progress| progress.connections() == 20;
    assert!(load.progress().wait(Instant::now() + SOON, all));
    old.kill();
    load.join().assert_nothing_failed();
    bed.stop();
}

/// Each crash waits longer for its respawn than the one before.
#[test]
fn backs_off() {
    let mut bed = Bed::new("http");
    bed.set("DAEMON_BACKOFF_MIN", "300ms");
    bed.start();
    let mut took = Vec::new();
    for _ in 0..3 {
        let old = bed.worker();
        let begun = Instant::now();
        old.kill();
        respawned(&bed, &old);
        took.push(begun.elapsed());
    }
    let least = [300, 600, 1200].map(Duration::from_millis);
    assert!(took.iter().zip(least).all(|(took, least)| *took >= least), "{took:?}");
    bed.stop();
}

/// A worker that crashes again and again takes the daemon down, with its own exit code.
#[test]
fn start_limit() {
    let mut bed = Bed::new("http");
    bed.set("DAEMON_BACKOFF_MIN", "10ms").set("DAEMON_START_LIMIT_BURST", "3");
    let daemon = bed.foreground();
    let target = bed.target("http");
    let supervisor = bed.supervisor();
    let deadline = Instant::now() + SOON;
    while supervisor.is_alive() && Instant::now() < deadline {
        // Queued while no worker is there; refused once the daemon is gone.
        let Ok(mut connection) = Connection::open(&target) else { continue };
        connection.patience(Duration::from_secs(2)).expect("a timeout");
        let _ = connection.get("/exit/7");
    }
    daemon.wait(SOON).expect_code(7);
    assert!(bed.log().contains("start limit"), "{}", bed.log());
    bed.assert_nothing_left();
}

/// SIGTERM to a worker is a wish to replace it, not a crash.
#[test]
fn a_terminated_worker_drains_and_is_replaced() {
    let mut bed = Bed::new("http");
    bed.set("DAEMON_START_LIMIT_BURST", "1");
    let target = bed.start().target("http");
    let load = Load::on(target.clone()).keep_alive(4).start();
    for _ in 0..3 {
        let old = bed.worker();
        let slow = Load::on(target.clone()).new_connections(2).paths(["/slow"]).requests(2).start();
        load.wait_for(100);
        eventually("slow requests", SOON, || bed.status().serving().requests_in_flight >= 2);
        old.signal(Signal::TERM);
        respawned(&bed, &old);
        slow.join().assert_nothing_failed();
        assert!(old.wait_gone(SOON));
    }
    load.stop().assert_nothing_failed();
    bed.stop();
}

/// Every way to crash is healed.
#[test]
fn from_inside() {
    let bed = Bed::new("http");
    let target = bed.start().target("http");
    for path in ["/abort", "/exit/1", "/exit/0"] {
        let old = bed.worker();
        let mut connection = Connection::open(&target).expect("a connection");
        connection.get(path).expect_err("the worker is gone");
        if path == "/exit/0" {
            break;
        }
        respawned(&bed, &old);
    }
    // An exit with success, unasked, is the end of the program.
    bed.wait_empty(SOON);
    bed.assert_nothing_left();
}

#[test]
fn never() {
    let mut bed = Bed::new("http");
    bed.set("DAEMON_RESTART", "no");
    let daemon = bed.foreground();
    bed.worker().kill();
    daemon.wait(SOON).expect_code(137);
    bed.assert_nothing_left();
}

#[test]
fn always() {
    let mut bed = Bed::new("http");
    bed.set("DAEMON_RESTART", "always");
    bed.start();
    let old = bed.worker();
    let _ = bed.get("/exit/0");
    respawned(&bed, &old);
    bed.stop();
}

/// A confirmed generation that crashes again and again: its predecessor's image is tried once, and
/// everybody is told.
#[test]
fn back_to_the_known_good_image() {
    let mut bed = Bed::new("http");
    bed.set("DAEMON_START_LIMIT_BURST", "1").set("DAEMON_BACKOFF_MIN", "10ms");
    bed.start();
    bed.deploy("http-v2");
    bed.restart();
    // What it goes back to is not on disk any more.
    bed.deploy("fails-at-start");
    let crash = |version: u64| {
        let old = bed.worker();
        assert_eq!(bed.get("/").expect("a response").number("version"), Some(version));
        // The connection ends with the worker.
        let _ = bed.get("/abort");
        old
    };
    respawned(&bed, &crash(2));
    respawned(&bed, &crash(2));
    let status = bed.status();
    assert_eq!(status.generation, Some(3));
    let note = status.note.expect("a note");
    assert!(
        note.contains("rolled back to the known-good image of generation 1, now generation 3"),
        "{note}"
    );
    assert!(bed.log().contains(&note), "{}", bed.log());
    let text = bed.verb(["status"]).expect_code(0).stdout;
    assert!(text.contains(&note), "{text}");

    // The next restart is told, also if it fails; when it is done, all is well.
    assert_eq!(bed.restart_aborts().note.as_deref(), Some(note.as_str()));
    assert_eq!(bed.get("/").expect("a response").number("version"), Some(1));
    bed.deploy("http-v2");
    assert_eq!(bed.restart().note.as_deref(), Some(note.as_str()));
    assert_eq!(bed.status().note, None);
    bed.stop();
}

/// Once, and not again.
#[test]
fn the_known_good_image_is_tried_once() {
    let mut bed = Bed::new("http");
    bed.set("DAEMON_START_LIMIT_BURST", "1").set("DAEMON_BACKOFF_MIN", "10ms");
    bed.start();
    bed.restart();
    for generation in [2, 3, 3] {
        let old = bed.worker();
        // The connection ends with the worker.
        let _ = bed.get("/abort");
        respawned(&bed, &old);
        assert_eq!(bed.status().generation, Some(generation));
    }
    let _ = bed.get("/abort");
    bed.wait_empty(SOON);
    assert!(bed.log().contains("over the start limit of 1"), "{}", bed.log());
    bed.assert_nothing_left();
}
