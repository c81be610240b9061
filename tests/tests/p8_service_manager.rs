//! P8: the daemon notifies its service manager of its state (sd_notify(3)).

#![allow(clippy::expect_used)]

use std::cell::RefCell;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use unbroken_tests::{Bad, Process, Sandbox, Signal};

const SOON: Duration = Duration::from_secs(20);

/// A stand-in for the service manager: the notification socket and the notifications received.
struct FakeServiceManager {
    socket: UnixDatagram,
    received: RefCell<Vec<String>>,
}

impl FakeServiceManager {
    fn of(sandbox: &mut Sandbox) -> FakeServiceManager {
        let path = sandbox.path("notify");
        let socket = UnixDatagram::bind(&path).expect("a socket");
        socket.set_read_timeout(Some(SOON)).expect("a limit");
        sandbox.set("NOTIFY_SOCKET", path.display().to_string());
        FakeServiceManager { socket, received: RefCell::new(Vec::new()) }
    }

    /// Waits for a notification that contains `wanted`, and returns all up to it.
    #[track_caller]
    fn hears(&self, wanted: &str) -> Vec<String> {
        let mut heard = Vec::new();
        loop {
            let mut bytes = [0; 8192];
            let length = self.socket.recv(&mut bytes);
            let length = length.unwrap_or_else(|_| panic!("no {wanted} after {heard:#?}"));
            let text = String::from_utf8_lossy(&bytes[..length]).into_owned();
            self.received.borrow_mut().push(text.clone());
            heard.push(text);
            if heard.last().is_some_and(|text| text.contains(wanted)) {
                return heard;
            }
        }
    }

    fn hears_nothing(&self) {
        self.socket.set_nonblocking(true).expect("a flag");
        let message = self.socket.recv(&mut [0; 8192]);
        assert!(message.is_err(), "received: {:#?}", self.received);
        self.socket.set_nonblocking(false).expect("a flag");
    }
}

fn environment(pid: u32) -> Vec<String> {
    Process::open(pid).expect("a process").environment()
}

#[test]
fn supervised_daemon_notifies_of_its_state() {
    let mut sandbox = Sandbox::new("http");
    let manager = FakeServiceManager::of(&mut sandbox);
    let _child = sandbox.foreground();
    let ready = manager.hears("READY=1");
    assert!(ready.last().expect("it").contains("STATUS=generation 1 serves\n"), "{ready:#?}");
    let status = sandbox.status();
    let private = |line: &String| line.starts_with("NOTIFY_SOCKET=");
    assert!(!environment(status.serving().pid).iter().any(private));

    // A restart that succeeds and upgrades the supervisor.
    sandbox.deploy("http-v2");
    sandbox.restart();
    let reload = manager.hears("READY=1");
    assert!(reload[0].starts_with("RELOADING=1\nMONOTONIC_USEC="), "{reload:#?}");
    let ready = reload.iter().filter(|text| text.contains("READY=1")).count();
    assert_eq!(ready, 1, "{reload:#?}");
    assert!(reload.last().expect("it").contains("STATUS=generation 2 serves"), "{reload:#?}");

    // A restart that is aborted: the daemon reports READY=1 again, with the reason.
    sandbox.deploy_bad(Bad::Script);
    let reason = sandbox.restart_aborts().reason.expect("a reason");
    let aborted = manager.hears("READY=1");
    let expected = format!("STATUS=generation 2 serves; last restart: {reason}");
    assert!(aborted.iter().any(|text| text.contains("RELOADING=1")), "{aborted:#?}");
    assert!(aborted.last().expect("it").contains(&expected), "`{expected}`: {aborted:#?}");
    assert_eq!(sandbox.status().pid, status.pid);

    sandbox.stop();
    let end = manager.hears("STOPPING=1");
    assert!(end.last().expect("it").contains("EXTEND_TIMEOUT_USEC=12000000"), "{end:#?}");
}

#[test]
fn solo_daemon_notifies_of_its_state() {
    let mut sandbox = Sandbox::new("solo-http");
    let manager = FakeServiceManager::of(&mut sandbox);
    let _child = sandbox.foreground();
    manager.hears("READY=1");
    let status = sandbox.status();
    // The environment of user code differs from the one that the process was executed with.
    assert!(!sandbox.get("/").expect("a response").text().is_empty());
    Process::open(status.pid).expect("it").signal(Signal::TERM);
    manager.hears("STOPPING=1");
    sandbox.wait_empty(SOON);
}

/// The daemon starts although the queue of the notification socket is full. systemd does not read it while it
/// reloads, and all services share it.
#[test]
fn full_notification_queue_does_not_block() {
    for fixture in ["http", "solo-http"] {
        let mut sandbox = Sandbox::new(fixture);
        let manager = FakeServiceManager::of(&mut sandbox);
        let others = UnixDatagram::unbound().expect("a socket");
        others.set_nonblocking(true).expect("a flag");
        while others.send_to(b"of another service", sandbox.path("notify")).is_ok() {}
        let _child = sandbox.foreground();
        sandbox.get("/").expect("a response");
        manager.hears("READY=1");
        sandbox.stop();
    }
}

/// The supervisor notifies the service manager's watchdog, also after an upgrade.
#[test]
fn supervisor_notifies_the_watchdog() {
    let mut sandbox = Sandbox::new("http");
    let manager = FakeServiceManager::of(&mut sandbox);
    sandbox.set("WATCHDOG_USEC", "200000");
    let _child = sandbox.foreground();
    for _ in 0..5 {
        manager.hears("WATCHDOG=1");
    }
    sandbox.deploy("http-v2");
    sandbox.restart();
    for _ in 0..5 {
        manager.hears("WATCHDOG=1");
    }
    sandbox.stop();
}

/// A detached daemon sends no notifications, because the service manager does not wait for it.
#[test]
fn detached_daemon_is_silent() {
    let mut sandbox = Sandbox::new("http");
    let manager = FakeServiceManager::of(&mut sandbox);
    sandbox.start();
    sandbox.deploy("http-v2");
    sandbox.restart();
    sandbox.stop();
    manager.hears_nothing();
}
