//! P5: a crashed worker is respawned with known-good code.

#![allow(clippy::expect_used)]

use std::time::{Duration, Instant};

use unbroken_tests::http::Connection;
use unbroken_tests::{Bad, Load, Process, Sandbox, Signal, eventually};

const SOON: Duration = Duration::from_secs(20);

/// Waits until a worker other than `old` serves, and returns it.
#[track_caller]
fn respawned(sandbox: &Sandbox, old: &Process) -> Process {
    let mut new = None;
    eventually("another worker serves", SOON, || {
        let status = sandbox.status();
        let serves = |worker: &&unbroken_tests::report::Worker| {
            worker.state == "serving" && worker.pid != old.pid()
        };
        new = status.workers.iter().find(serves).and_then(|worker| Process::open(worker.pid));
        new.is_some()
    });
    new.expect("a worker")
}

/// Asserts that a worker is respawned from the image of its generation after `spoil` has changed the file on
/// disk.
fn respawns_the_same(spoil: impl FnOnce(&Sandbox)) {
    let sandbox = Sandbox::new("http");
    let status = sandbox.start();
    let old = sandbox.worker();
    spoil(&sandbox);
    old.kill();
    let new = respawned(&sandbox, &old);
    let response = sandbox.get("/").expect("a response");
    assert_eq!(response.number("version"), Some(1));
    assert_eq!(response.number("generation"), status.generation);
    assert_eq!(response.number("pid"), Some(u64::from(new.pid())));
    assert_eq!(sandbox.status().pid, status.pid);
    sandbox.stop();
}

#[test]
fn respawn_ignores_a_newer_binary_on_disk() {
    respawns_the_same(|sandbox| sandbox.deploy("http-v2"));
}

#[test]
fn respawn_ignores_a_bad_file_on_disk() {
    respawns_the_same(|sandbox| sandbox.deploy_bad(Bad::WrongArchitecture));
}

#[test]
fn respawn_ignores_a_script_on_disk() {
    respawns_the_same(|sandbox| sandbox.deploy_bad(Bad::Script));
}

#[test]
fn respawn_works_with_nothing_on_disk() {
    respawns_the_same(|sandbox| sandbox.deploy_bad(Bad::Missing));
}

/// After a restart a worker is respawned from the image of the new generation.
#[test]
fn respawn_runs_the_image_of_the_last_restart() {
    let sandbox = Sandbox::new("http");
    sandbox.start();
    sandbox.deploy("http-v2");
    sandbox.restart();
    let old = sandbox.worker();
    sandbox.deploy("fails-at-start");
    old.kill();
    respawned(&sandbox, &old);
    assert_eq!(sandbox.get("/").expect("a response").number("version"), Some(2));
    sandbox.stop();
}

/// A respawned worker has the settings of its generation: no file is read.
#[test]
fn respawn_reads_no_configuration_file() {
    let mut sandbox = Sandbox::new("http");
    let file = sandbox.path("app.toml");
    std::fs::write(&file, "drain_timeout = \"5s\"\n").expect("a file");
    sandbox.set("DAEMON_CONFIG", file.display().to_string());
    sandbox.start();
    let old = sandbox.worker();
    std::fs::write(&file, "nonsense\n").expect("a file");
    old.kill();
    respawned(&sandbox, &old);
    sandbox.stop();
}

/// Connections in the accept queue of a killed worker are served by the next one.
#[test]
fn queued_connections_survive_a_crash() {
    let sandbox = Sandbox::new("http");
    let target = sandbox.start().target("http");
    let old = sandbox.worker();
    old.signal(Signal::STOP);
    let load = Load::on(target).new_connections(20).requests(20).start();
    let all = |progress: &unbroken_tests::load::Progress| progress.connections() == 20;
    assert!(load.progress().wait(Instant::now() + SOON, all));
    old.kill();
    load.join().assert_nothing_failed();
    sandbox.stop();
}

/// The pause before a respawn doubles with each crash.
#[test]
fn respawns_back_off() {
    let mut sandbox = Sandbox::new("http");
    sandbox.set("DAEMON_BACKOFF_MIN", "300ms");
    sandbox.start();
    let mut took = Vec::new();
    for _ in 0..3 {
        let old = sandbox.worker();
        let begun = Instant::now();
        old.kill();
        respawned(&sandbox, &old);
        took.push(begun.elapsed());
    }
    let least = [300, 600, 1200].map(Duration::from_millis);
    assert!(took.iter().zip(least).all(|(took, least)| *took >= least), "{took:?}");
    sandbox.stop();
}

/// A worker that crashes repeatedly ends the daemon at the start limit, with the worker's exit code.
#[test]
fn start_limit_ends_the_daemon() {
    let mut sandbox = Sandbox::new("http");
    sandbox.set("DAEMON_BACKOFF_MIN", "10ms").set("DAEMON_START_LIMIT_BURST", "3");
    let daemon = sandbox.foreground();
    let target = sandbox.target("http");
    let supervisor = sandbox.supervisor();
    let deadline = Instant::now() + SOON;
    while supervisor.is_alive() && Instant::now() < deadline {
        // The connection waits in the accept queue while there is no worker, and is refused once the daemon
        // has ended.
        let Ok(mut connection) = Connection::open(&target) else { continue };
        connection.patience(Duration::from_secs(2)).expect("a timeout");
        let _ = connection.get("/exit/7");
    }
    daemon.wait(SOON).expect_code(7);
    assert!(sandbox.log().contains("start limit"), "{}", sandbox.log());
    sandbox.assert_nothing_left();
}

/// A worker that gets SIGTERM drains and is replaced, and that does not count as a crash.
#[test]
fn terminated_worker_drains_and_is_replaced() {
    let mut sandbox = Sandbox::new("http");
    sandbox.set("DAEMON_START_LIMIT_BURST", "1");
    let target = sandbox.start().target("http");
    let load = Load::on(target.clone()).keep_alive(4).start();
    for _ in 0..3 {
        let old = sandbox.worker();
        let slow = Load::on(target.clone()).new_connections(2).paths(["/slow"]).requests(2).start();
        load.wait_for(100);
        eventually("slow requests", SOON, || sandbox.status().serving().requests_in_flight >= 2);
        old.signal(Signal::TERM);
        respawned(&sandbox, &old);
        slow.join().assert_nothing_failed();
        assert!(old.wait_gone(SOON));
    }
    load.stop().assert_nothing_failed();
    sandbox.stop();
}

/// A worker that aborts or exits with an error is respawned.
#[test]
fn worker_that_aborts_or_exits_is_respawned() {
    let sandbox = Sandbox::new("http");
    let target = sandbox.start().target("http");
    for path in ["/abort", "/exit/1", "/exit/0"] {
        let old = sandbox.worker();
        let mut connection = Connection::open(&target).expect("a connection");
        connection.get(path).expect_err("the worker is gone");
        if path == "/exit/0" {
            break;
        }
        respawned(&sandbox, &old);
    }
    // An exit with code 0 that the supervisor did not order stops the daemon.
    sandbox.wait_empty(SOON);
    sandbox.assert_nothing_left();
}

#[test]
fn restart_no_ends_with_the_worker() {
    let mut sandbox = Sandbox::new("http");
    sandbox.set("DAEMON_RESTART", "no");
    let daemon = sandbox.foreground();
    sandbox.worker().kill();
    daemon.wait(SOON).expect_code(137);
    sandbox.assert_nothing_left();
}

#[test]
fn restart_always_respawns_after_success() {
    let mut sandbox = Sandbox::new("http");
    sandbox.set("DAEMON_RESTART", "always");
    sandbox.start();
    let old = sandbox.worker();
    let _ = sandbox.get("/exit/0");
    respawned(&sandbox, &old);
    sandbox.stop();
}

/// If a confirmed generation crashes repeatedly, the daemon rolls back to the image of the one before.
/// `status`, the log and the next restart report it.
#[test]
fn crashing_generation_rolls_back() {
    let mut sandbox = Sandbox::new("http");
    sandbox.set("DAEMON_START_LIMIT_BURST", "1").set("DAEMON_BACKOFF_MIN", "10ms");
    sandbox.start();
    sandbox.deploy("http-v2");
    sandbox.restart();
    // The known-good image is no longer on disk.
    sandbox.deploy("fails-at-start");
    let crash = |version: u64| {
        let old = sandbox.worker();
        assert_eq!(sandbox.get("/").expect("a response").number("version"), Some(version));
        // The connection ends with the worker.
        let _ = sandbox.get("/abort");
        old
    };
    respawned(&sandbox, &crash(2));
    respawned(&sandbox, &crash(2));
    let status = sandbox.status();
    assert_eq!(status.generation, Some(3));
    let note = status.note.expect("a note");
    assert!(
        note.contains("rolled back to the known-good image of generation 1, now generation 3"),
        "{note}"
    );
    assert!(sandbox.log().contains(&note), "{}", sandbox.log());
    let text = sandbox.verb(["status"]).expect_code(0).stdout;
    assert!(text.contains(&note), "{text}");

    // The next restart reports the rollback, even if it fails. After a good restart there is no note.
    assert_eq!(sandbox.restart_aborts().note.as_deref(), Some(note.as_str()));
    assert_eq!(sandbox.get("/").expect("a response").number("version"), Some(1));
    sandbox.deploy("http-v2");
    assert_eq!(sandbox.restart().note.as_deref(), Some(note.as_str()));
    assert_eq!(sandbox.status().note, None);
    sandbox.stop();
}

/// The daemon rolls back once. If that generation reaches the start limit too, the daemon ends.
#[test]
fn rollback_happens_once() {
    let mut sandbox = Sandbox::new("http");
    sandbox.set("DAEMON_START_LIMIT_BURST", "1").set("DAEMON_BACKOFF_MIN", "10ms");
    sandbox.start();
    sandbox.restart();
    for generation in [2, 3, 3] {
        let old = sandbox.worker();
        // The connection ends with the worker.
        let _ = sandbox.get("/abort");
        respawned(&sandbox, &old);
        assert_eq!(sandbox.status().generation, Some(generation));
    }
    let _ = sandbox.get("/abort");
    sandbox.wait_empty(SOON);
    assert!(sandbox.log().contains("over the start limit of 1"), "{}", sandbox.log());
    sandbox.assert_nothing_left();
}
