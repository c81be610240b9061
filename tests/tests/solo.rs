//! Solo daemons: one process, no supervisor.

#![allow(clippy::expect_used)]

use std::time::Duration;

use unbroken_tests::{Bed, Load, eventually};

const SOON: Duration = Duration::from_secs(20);

#[test]
fn solo_daemon_starts_and_stops() {
    let bed = Bed::new("solo-http");
    let status = bed.start();
    assert_eq!((status.mode.as_str(), status.state.as_str()), ("solo", "running"));
    let response = bed.get("/").expect("a response");
    assert_eq!(response.number("pid"), Some(u64::from(status.pid)));
    assert_eq!(bed.processes().len(), 1);
    bed.stop();
    bed.verb(["status"]).expect_code(3);
}

#[test]
fn restart_names_the_missing_key() {
    let bed = Bed::new("solo-http");
    let pid = bed.start().pid;
    let output = bed.verb(["restart"]);
    assert_ne!(output.code(), 0, "{output}");
    output.expect_text("graceful_restart");
    assert_eq!(bed.status().pid, pid);
    bed.stop();
}

#[test]
fn supervisor_keys_are_refused() {
    let bed = Bed::new("solo-http");
    let output = bed.verb(["start", "--set", "backoff_min=1s"]).expect_code(78);
    output.expect_text("backoff_min").expect_text("graceful_restart");
    bed.assert_nothing_left();
}

#[test]
fn stop_drains() {
    let bed = Bed::new("solo-http");
    let target = bed.start().target("http");
    let load = Load::on(target).new_connections(3).paths(["/slow"]).requests(3).start();
    eventually("in flight", SOON, || bed.status().serving().requests_in_flight == 3);
    let report = bed.stop();
    report.ledger().assert_balanced();
    assert_eq!(report.ledger().accepted, 3);
    load.join().assert_nothing_failed();
}

#[test]
fn deadline_forces_open_requests() {
    let mut bed = Bed::new("solo-http");
    bed.set("DAEMON_DRAIN_TIMEOUT", "500ms");
    let target = bed.start().target("http");
    let load = Load::on(target).new_connections(3).paths(["/slow"]).requests(3).start();
    eventually("in flight", SOON, || bed.status().serving().requests_in_flight == 3);
    let report = bed.stop();
    report.ledger().assert_balanced();
    assert_eq!(report.ledger().forced, 3, "{report:?}");
    assert_eq!(load.join().failed(), 3);
}

#[test]
fn crash_ends_the_daemon() {
    let bed = Bed::new("solo-http");
    let daemon = bed.foreground();
    let _ = bed.get("/exit/9");
    daemon.wait(SOON).expect_code(9);
    bed.verb(["status"]).expect_code(1);
    bed.start();
    bed.stop();
}

#[test]
fn second_start_is_refused() {
    let bed = Bed::new("solo-http");
    let pid = bed.start().pid;
    bed.verb(["start"]).expect_code(1).expect_text("already running").expect_text(&pid.to_string());
    bed.stop();
}

#[test]
fn killed_daemon_can_be_started_again() {
    let bed = Bed::new("solo-http");
    bed.start();
    bed.kill_all();
    bed.verb(["status"]).expect_code(1);
    bed.start();
    bed.stop();
}

/// After `stop` new connections are refused while the rest drains.
#[test]
fn new_connections_are_refused_after_a_stop() {
    let bed = Bed::new("solo-http");
    let target = bed.start().target("http");
    let slow = Load::on(target.clone()).new_connections(1).paths(["/slow"]).requests(1).start();
    eventually("in flight", SOON, || bed.status().serving().requests_in_flight == 1);
    let stop = bed.spawn(["stop"]);
    eventually("refused", Duration::from_secs(2), || !target.accepts());
    slow.join().assert_nothing_failed();
    stop.wait(SOON).expect_code(0);
    bed.assert_nothing_left();
}

/// A sync `main` without a `Daemon` argument ends at SIGTERM as PID 1. The kernel does not deliver signals
/// without a handler to that process.
#[test]
fn plain_main_as_pid_1_ends_at_term() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    let mut bed = Bed::new("sync-plain");
    bed.unset("DAEMON_LOG");
    let image = bed.image();
    let arguments = ["--pid", "--fork", "--kill-child", "--mount-proc"].map(AsRef::as_ref);
    let arguments = arguments.into_iter().chain([image.as_os_str(), "run".as_ref()]);
    let daemon = unbroken_tests::Child::spawn(&mut bed.command_of("unshare", arguments));
    daemon.wait_for_stderr("serves", SOON);
    daemon.process().children()[0].signal(unbroken_tests::Signal::TERM);
    assert!(daemon.process().wait_gone(Duration::from_secs(5)), "{}", daemon.stderr());
}
