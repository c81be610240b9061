//! Solo daemons: one process, no supervisor.

#![allow(clippy::expect_used)]

use std::time::Duration;

use unbroken_tests::{Load, Sandbox, eventually};

const SOON: Duration = Duration::from_secs(20);

#[test]
fn solo_daemon_starts_and_stops() {
    let sandbox = Sandbox::new("solo-http");
    let status = sandbox.start();
    assert_eq!((status.mode.as_str(), status.state.as_str()), ("solo", "running"));
    let response = sandbox.get("/").expect("a response");
    assert_eq!(response.number("pid"), Some(u64::from(status.pid)));
    assert_eq!(sandbox.processes().len(), 1);
    sandbox.stop();
    sandbox.verb(["status"]).expect_code(3);
}

#[test]
fn restart_names_the_missing_key() {
    let sandbox = Sandbox::new("solo-http");
    let pid = sandbox.start().pid;
    let output = sandbox.verb(["restart"]);
    assert_ne!(output.code(), 0, "{output}");
    output.expect_text("graceful_restart");
    assert_eq!(sandbox.status().pid, pid);
    sandbox.stop();
}

#[test]
fn supervisor_keys_are_refused() {
    let sandbox = Sandbox::new("solo-http");
    let output = sandbox.verb(["start", "--set", "backoff_min=1s"]).expect_code(78);
    output.expect_text("backoff_min").expect_text("graceful_restart");
    sandbox.assert_nothing_left();
}

#[test]
fn stop_drains() {
    let sandbox = Sandbox::new("solo-http");
    let target = sandbox.start().target("http");
    let load = Load::on(target).new_connections(3).paths(["/slow"]).requests(3).start();
    eventually("in flight", SOON, || sandbox.status().serving().requests_in_flight == 3);
    let report = sandbox.stop();
    report.ledger().assert_balanced();
    assert_eq!(report.ledger().accepted, 3);
    load.join().assert_nothing_failed();
}

#[test]
fn deadline_forces_open_requests() {
    let mut sandbox = Sandbox::new("solo-http");
    sandbox.set("DAEMON_DRAIN_TIMEOUT", "500ms");
    let target = sandbox.start().target("http");
    let load = Load::on(target).new_connections(3).paths(["/slow"]).requests(3).start();
    eventually("in flight", SOON, || sandbox.status().serving().requests_in_flight == 3);
    let report = sandbox.stop();
    report.ledger().assert_balanced();
    assert_eq!(report.ledger().forced, 3, "{report:?}");
    assert_eq!(load.join().failed(), 3);
}

#[test]
fn crash_ends_the_daemon() {
    let sandbox = Sandbox::new("solo-http");
    let daemon = sandbox.foreground();
    let _ = sandbox.get("/exit/9");
    daemon.wait(SOON).expect_code(9);
    sandbox.verb(["status"]).expect_code(1);
    sandbox.start();
    sandbox.stop();
}

#[test]
fn second_start_is_refused() {
    let sandbox = Sandbox::new("solo-http");
    let pid = sandbox.start().pid;
    sandbox
        .verb(["start"])
        .expect_code(1)
        .expect_text("already running")
        .expect_text(&pid.to_string());
    sandbox.stop();
}

#[test]
fn killed_daemon_can_be_started_again() {
    let sandbox = Sandbox::new("solo-http");
    sandbox.start();
    sandbox.kill_all();
    sandbox.verb(["status"]).expect_code(1);
    sandbox.start();
    sandbox.stop();
}

/// After `stop` new connections are refused while the rest drains.
#[test]
fn new_connections_are_refused_after_a_stop() {
    let sandbox = Sandbox::new("solo-http");
    let target = sandbox.start().target("http");
    let slow = Load::on(target.clone()).new_connections(1).paths(["/slow"]).requests(1).start();
    eventually("in flight", SOON, || sandbox.status().serving().requests_in_flight == 1);
    let stop = sandbox.spawn(["stop"]);
    eventually("refused", Duration::from_secs(2), || !target.accepts());
    slow.join().assert_nothing_failed();
    stop.wait(SOON).expect_code(0);
    sandbox.assert_nothing_left();
}

/// A sync `main` without a `Daemon` argument ends at SIGTERM as PID 1. The kernel does not deliver signals
/// without a handler to that process.
#[test]
fn plain_main_as_pid_1_ends_at_term() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    let mut sandbox = Sandbox::new("sync-plain");
    sandbox.unset("DAEMON_LOG");
    let image = sandbox.image();
    let arguments = ["--pid", "--fork", "--kill-child", "--mount-proc"].map(AsRef::as_ref);
    let arguments = arguments.into_iter().chain([image.as_os_str(), "run".as_ref()]);
    let daemon = unbroken_tests::Child::spawn(&mut sandbox.command_of("unshare", arguments));
    daemon.wait_for_stderr("serves", SOON);
    daemon.process().children()[0].signal(unbroken_tests::Signal::TERM);
    assert!(daemon.process().wait_gone(Duration::from_secs(5)), "{}", daemon.stderr());
}
