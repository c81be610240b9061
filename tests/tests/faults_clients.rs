//! Faults at the control socket: whatever its clients do, the service continues and `status` answers.

#![allow(clippy::expect_used)]

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use unbroken_tests::load::Running;
use unbroken_tests::{Child, Control, Load, Process, Sandbox, Signal, eventually};

const SOON: Duration = Duration::from_secs(20);

/// The growth of the supervisor's memory that the tests allow.
const MEMORY: u64 = 4 * 1024 * 1024;

/// A daemon under load, and the resources of its supervisor before the faults.
struct Victim {
    sandbox: Sandbox,
    load: Running,
    supervisor: Process,
    descriptors: usize,
    memory: u64,
}

impl Victim {
    fn new() -> Victim {
        let sandbox = Sandbox::new("http");
        let target = sandbox.start().target("http");
        // After a restart the supervisor also keeps the previous image open.
        sandbox.restart();
        let load = Load::on(target).keep_alive(4).pause(Duration::from_millis(1)).start();
        load.wait_for(10);
        let supervisor = sandbox.supervisor();
        let descriptors = supervisor.descriptors_at_rest();
        let memory = supervisor.private_memory().expect("its memory");
        Victim { sandbox, load, supervisor, descriptors, memory }
    }

    fn client(&self) -> Control {
        client(&self.sandbox)
    }

    /// Asserts that the daemon answers and restarts, has lost no request, and holds no more than before.
    #[track_caller]
    fn assert_none_the_worse(self) {
        let Victim { sandbox, load, supervisor, descriptors, memory } = self;
        assert_eq!(sandbox.status().pid, supervisor.pid());
        eventually("all descriptors are closed", SOON, || {
            supervisor.descriptors().len() <= descriptors
        });
        let now = supervisor.private_memory().expect("its memory");
        assert!(now < memory + MEMORY, "{memory} bytes became {now}");
        let report = sandbox.restart();
        report.ledger().assert_balanced();
        load.wait_for_generation(3);
        load.stop().assert_nothing_failed();
        eventually("the old worker is forgotten", SOON, || {
            supervisor.descriptors().len() <= descriptors
        });
        sandbox.stop();
    }
}

/// Connects to the control socket. Tries again if the accept queue is full, as it is during a flood.
fn client(sandbox: &Sandbox) -> Control {
    let mut client = None;
    eventually("a connection", SOON, || {
        client = Control::open(&sandbox.socket()).ok();
        client.is_some()
    });
    client.expect("a connection")
}

/// Anything but a request is refused with the reason, and the client is closed.
#[test]
fn invalid_requests_are_refused() {
    let victim = Victim::new();
    let deep = "[".repeat(100_000);
    let status = r#"{"type":"status"}"#;
    let long = format!(r#"{{"type":"status","more":"{}"}}"#, "x".repeat(150_000));
    for (sent, answer) in [
        ("garbage", "cannot parse the request"),
        ("\0", "cannot parse the request"),
        (r#"{"type":"restart","wai"#, "cannot parse the request"),
        (r#"{"type":"restart","wait":7}"#, "cannot parse the request"),
        (r#"{"type":["status"]}"#, "cannot parse the request"),
        (r#"["status"]"#, "cannot parse the request"),
        ("null", "cannot parse the request"),
        (deep.as_str(), "cannot parse the request"),
        (long.as_str(), "larger than 128 KiB"),
        (r#"{"type":"dance","tempo":120}"#, "older than this command"),
        (r#"{"type":"status","mood":"calm"}"#, "\"status\":"),
        ("", "it is empty"),
    ] {
        let client = victim.client();
        let answered = client.ask(sent, SOON).expect("an answer, or the end");
        let shown = sent.get(..sent.len().min(60));
        assert!(answered.contains(answer), "{shown:?}: {answered}");
        assert_eq!(client.receive(SOON).expect("the end"), b"", "{shown:?}");
    }
    // Only the first request is answered. The second, if it is unread when the daemon closes the connection,
    // may discard the answer.
    let client = victim.client();
    for _ in 0..2 {
        let _ = client.send(status);
    }
    let answered = client.receive(SOON).expect("an answer, or the end");
    let answered = String::from_utf8_lossy(&answered);
    assert!(answered.is_empty() || answered.contains("\"status\":"), "{answered}");
    victim.assert_none_the_worse();
}

/// Descriptors that come with a request are closed.
#[test]
fn unrequested_descriptors_are_closed() {
    let victim = Victim::new();
    let file: OwnedFd = std::fs::File::open("/dev/null").expect("a file").into();
    for count in [1, 250, 253] {
        let fds = vec![file.as_fd(); count];
        for bytes in ["garbage", r#"{"type":"status"}"#] {
            let client = victim.client();
            client.send_with(bytes, &fds).expect("a packet");
            let answered = client.receive(SOON).expect("an answer");
            assert!(answered.starts_with(b"{"), "{count} with {bytes}");
        }
    }
    victim.assert_none_the_worse();
}

/// A flood of invalid requests does not keep valid ones from being answered.
#[test]
fn flood_of_requests_is_survived() {
    let victim = Victim::new();
    let path = victim.sandbox.socket();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for round in 0..2_000 {
                    let Ok(client) = Control::open(&path) else { continue };
                    let _ = client.send(format!("garbage {round}"));
                    if round % 2 == 0 {
                        let _ = client.receive(SOON);
                    }
                }
            });
        }
        for _ in 0..5 {
            victim.sandbox.status();
        }
    });
    victim.assert_none_the_worse();
}

/// Silent clients, more than are served at once, are evicted for those that send a request.
#[test]
fn silent_clients_are_evicted() {
    let victim = Victim::new();
    let silent: Vec<_> = (0..200).map(|_| victim.client()).collect();
    // Clients that send a request are answered.
    for _ in 0..3 {
        victim.sandbox.status();
    }
    let response = silent[0].receive(SOON).expect("an answer");
    assert!(String::from_utf8_lossy(&response).contains("sent no request"), "{response:?}");
    drop(silent);
    victim.assert_none_the_worse();
}

/// Clients that request a restart and never read the answer hold nothing up.
#[test]
fn unread_answers_block_nothing() {
    let victim = Victim::new();
    let deaf: Vec<_> = (0..100)
        .map(|_| {
            let client = victim.client();
            client.send(r#"{"type":"restart"}"#).expect("a request");
            client
        })
        .collect();
    eventually("one restart and one more", SOON, || {
        let status = victim.sandbox.status();
        status.generation >= Some(4) && status.workers.len() == 1
    });
    drop(deaf);
    victim.assert_none_the_worse();
}

/// A client that is stopped by a signal during a restart holds nothing up.
#[test]
fn stopped_client_blocks_nothing() {
    let victim = Victim::new();
    let restart = victim.sandbox.spawn(["restart"]);
    restart.process().signal(Signal::STOP);
    victim.sandbox.restart();
    restart.process().signal(Signal::CONT);
    let _ = restart.wait(SOON);
    victim.assert_none_the_worse();
}

/// A solo daemon withstands silent and invalid clients as well.
#[test]
fn solo_daemon_survives_hostile_clients() {
    let sandbox = Sandbox::new("solo-http");
    sandbox.start();
    let process = sandbox.supervisor();
    let before = process.descriptors_at_rest();
    let silent: Vec<_> = (0..200).map(|_| client(&sandbox)).collect();
    sandbox.status();
    let file: OwnedFd = std::fs::File::open("/dev/null").expect("a file").into();
    for sent in ["garbage", "", r#"{"type":"dance"}"#] {
        let client = Control::open(&sandbox.socket()).expect("a connection");
        client.send_with(sent, &[file.as_fd(); 250]).expect("a packet");
        let _ = client.receive(SOON).expect("an answer, or the end");
    }
    drop(silent);
    eventually("all descriptors are closed", SOON, || process.descriptors().len() <= before);
    sandbox.stop();
}

/// While silent clients use up the supervisor's descriptors, a restart is aborted with the reason and the
/// service continues. Once descriptors are free, a restart works.
#[test]
fn restart_without_descriptors_is_aborted() {
    let sandbox = Sandbox::new("http");
    let image = sandbox.image();
    let script = "ulimit -n 40; exec \"$1\" start";
    let arguments = ["-c".as_ref(), script.as_ref(), "sh".as_ref(), image.as_os_str()];
    Child::spawn(&mut sandbox.command_of("sh", arguments)).wait(SOON).expect_code(0);
    // After a restart the supervisor also keeps the previous image open.
    sandbox.restart();
    let (supervisor, worker) = (sandbox.supervisor(), sandbox.worker());
    let load =
        Load::on(sandbox.target("http")).keep_alive(2).pause(Duration::from_millis(1)).start();
    let before = supervisor.descriptors_at_rest();
    let all_closed =
        || eventually("all are closed", SOON, || supervisor.descriptors().len() <= before);
    let mut silent = Vec::new();
    // First one descriptor is left, for the client that requests a restart. With each further one the
    // restart gets one step further: image, link, counters, process. Silent clients are closed after a
    // time, so each round opens new ones.
    for left in 1..=5 {
        while supervisor.descriptors().len() < 40 - left {
            let now = supervisor.descriptors_at_rest();
            silent.push(Control::open(&sandbox.socket()).expect("a connection"));
            eventually("it is accepted", SOON, || supervisor.descriptors().len() > now);
        }
        let reason = sandbox.restart_aborts().reason.expect("a reason");
        assert!(reason.contains("Too many open files"), "{reason}");
        assert!(worker.is_alive() && sandbox.status().generation == Some(2));
        eventually("nobody else is left", SOON, || sandbox.processes().len() == 2);
        silent.clear();
        all_closed();
    }
    sandbox.restart();
    all_closed();
    load.wait_for_generation(8);
    load.stop().assert_nothing_failed();
    sandbox.stop();
}

/// A worker that dies while its supervisor has no free descriptor is replaced once there is one.
#[test]
fn respawn_waits_for_descriptors() {
    let mut sandbox = Sandbox::new("http");
    sandbox.set("DAEMON_BACKOFF_MIN", "100ms").set("DAEMON_START_LIMIT_BURST", "50");
    sandbox.set("DAEMON_BACKOFF_MAX", "200ms");
    let image = sandbox.image();
    let script = "ulimit -n 40; exec \"$1\" start";
    let arguments = ["-c".as_ref(), script.as_ref(), "sh".as_ref(), image.as_os_str()];
    Child::spawn(&mut sandbox.command_of("sh", arguments)).wait(SOON).expect_code(0);
    let (supervisor, worker) = (sandbox.supervisor(), sandbox.worker());
    // Clients in the accept queue take every descriptor that becomes free.
    let silent: Vec<_> =
        (0..50).map(|_| Control::open(&sandbox.socket()).expect("a connection")).collect();
    eventually("none is left", SOON, || supervisor.descriptors().len() == 40);
    worker.kill();
    eventually("it tries", SOON, || sandbox.log().contains("Too many open files"));
    drop(silent);
    eventually("it is replaced", SOON, || {
        sandbox.try_status().is_some_and(|s| s.workers.iter().any(|w| w.state == "serving"))
    });
    assert_eq!(sandbox.status().pid, supervisor.pid());
    sandbox.get("/").expect("a response");
    sandbox.stop();
}
