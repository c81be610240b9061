//! P8: the daemon as PID 1 of a container with nothing else in it.

#![allow(clippy::expect_used)]

use std::time::{Duration, Instant};

use unbroken_tests::container::{self, Container};
use unbroken_tests::http::{Connection, Target};
use unbroken_tests::{Bad, Child, Load, Process, Sandbox, Signal, eventually, skip};

const SOON: Duration = Duration::from_secs(20);

fn target() -> Target {
    "127.0.0.1:8080".parse().expect("an address")
}

fn possible() -> bool {
    match container::missing() {
        Some(why) => {
            skip(&why);
            false
        }
        None => true,
    }
}

/// The daemon starts, answers verbs in the container, and finishes the requests in flight at SIGTERM.
#[test]
fn term_finishes_requests_in_flight() {
    if !possible() {
        return;
    }
    let mut sandbox = Sandbox::new("http");
    let container = Container::default().run(&mut sandbox);
    let status = container.status();
    assert_eq!((status.pid, status.state.as_str()), (1, "running"));
    assert_eq!(status.pidfile, "/run/app/app.pid");
    container.verb(&["status", "--probe", "ready"]).expect_code(0).expect_text("ready: ");

    let load = Load::on(target()).keep_alive(8).paths(["/wait/1500"]).requests(8).start();
    let all = |progress: &unbroken_tests::load::Progress| progress.in_flight() == 8;
    assert!(load.progress().wait(Instant::now() + SOON, all));
    // Sent by the client; received by the worker once its counter shows them.
    let accepted = || container.status().serving().requests_in_flight == 8;
    eventually("all requests are in flight", SOON, accepted);
    container.first.signal(Signal::TERM);
    let ledger = load.join();
    ledger.assert_nothing_failed();
    assert_eq!(ledger.ok(), 8, "{ledger}");
    let output = container.child.wait(SOON).expect_code(0);
    assert!(output.elapsed < SOON, "{output}");
    sandbox.wait_empty(SOON);
}

/// The supervisor, as PID 1, reaps grandchildren whose parents have ended.
#[test]
fn orphans_are_reaped() {
    if !possible() {
        return;
    }
    let mut sandbox = Sandbox::new("http");
    let container = Container::default().run(&mut sandbox);
    let supervisor = container.first.pid();
    let reparented = || {
        let children = Process::open(supervisor).expect("it runs").children();
        children.len() > 1
    };
    let response = Connection::open(&target()).expect("a connection").get("/orphans");
    assert_eq!(response.expect("a response").status, 200);
    // The orphans sleep before they end, as children of PID 1.
    assert!(reparented(), "the orphans are somebody else's children");
    container.wait_alone_with_worker();
    container.first.signal(Signal::TERM);
    container.child.wait(SOON).expect_code(0);
}

/// SIGHUP restarts to the image that was renamed into a mounted directory. The supervisor upgrades too and
/// remains PID 1. A bad image changes nothing.
#[test]
fn supervisor_upgrades_as_pid_1() {
    if !possible() {
        return;
    }
    let mut sandbox = Sandbox::new("http");
    let container = Container::default().run(&mut sandbox);
    let load = Load::on(target()).keep_alive(4).start();
    let new = Load::on(target()).new_connections(4).start();
    load.wait_for(50);
    sandbox.deploy("http-v2");
    container.first.signal(Signal::HUP);
    load.wait_for_generation(2);
    new.wait_for_generation(2);
    eventually("the supervisor is the new program", SOON, || {
        let status = container.status();
        let id = |image: &unbroken_tests::report::Image| image.build_id.clone();
        status.supervisor_image.as_ref().and_then(id) == id(&status.image) && status.pid == 1
    });

    sandbox.deploy_bad(Bad::Script);
    let output = container.verb(&["restart"]).expect_code(1);
    assert!(output.text().contains("generation 2 keeps serving"), "{output}");
    load.wait_for(50);
    for ledger in [load.stop(), new.stop()] {
        ledger.assert_nothing_failed();
    }
    assert!(!container.first.wait_gone(Duration::ZERO), "another first process");
    // The verb runs in the container, where the kernel kills all processes with PID 1.
    container.verb(&["stop"]).expect_code(128 + 9);
    container.child.wait(SOON).expect_code(0);
}

/// A worker that is killed, as by the kernel when the container is out of memory, is respawned.
#[test]
fn killed_worker_is_respawned() {
    if !possible() {
        return;
    }
    let mut sandbox = Sandbox::new("http");
    let container = Container::default().run(&mut sandbox);
    let worker = container.first.children().pop().expect("a worker");
    worker.kill();
    eventually("another one serves", SOON, || {
        let status = container.status();
        status.workers.iter().any(|it| it.state == "serving")
            && container.first.children().len() == 1
    });
    assert_eq!(container.status().pid, 1);
    container.first.signal(Signal::TERM);
    container.child.wait(SOON).expect_code(0);
}

/// A client in another PID namespace, for which the credentials of the socket name process 0 (unix(7)), can
/// stop the daemon.
#[test]
fn client_of_another_pid_namespace_can_stop() {
    if !possible() {
        return;
    }
    let mut sandbox = Sandbox::new("http");
    let container = Container::default().run(&mut sandbox);
    let mut command = container.command(&[]);
    let target = container.first.pid().to_string();
    command = {
        let mut inner = std::process::Command::new("unshare");
        inner.args(["--pid", "--fork", "nsenter", "--target", &target, "--mount", "--net"]);
        inner.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        inner
    };
    command.args(["/bin/app", "stop"]);
    Child::spawn(&mut command).wait(SOON).expect_code(0).expect_text("app stopped");
    container.child.wait(SOON).expect_code(0);
}

/// Without root the runtime directory is in /tmp.
#[test]
fn runtime_directory_without_root_is_in_tmp() {
    if !possible() {
        return;
    }
    let mut sandbox = Sandbox::new("http");
    open_to_all(&sandbox);
    let it = Container { tmpfs: vec!["/tmp"], user: 65_532, ..Container::default() };
    let container = it.run(&mut sandbox);
    // The client runs as root, whose default is another runtime directory.
    let dir = "runtime_dir=/tmp/app-65532";
    let output = container.verb(&["status", "--set", dir, "--json"]).expect_code(0);
    assert!(output.stdout.contains("/tmp/app-65532/app.pid"), "{output}");
    container.first.signal(Signal::TERM);
    container.child.wait(SOON).expect_code(0);
}

#[test]
fn read_only_container_error_says_what_to_mount() {
    if !possible() {
        return;
    }
    for (user, dir) in [(0, "/run/app"), (65_532, "/tmp/app-65532")] {
        let mut sandbox = Sandbox::new("http");
        open_to_all(&sandbox);
        let it = Container { tmpfs: vec![], user, ..Container::default() };
        let output = it.spawn(&mut sandbox, &[]).wait(SOON).expect_code(1);
        let parent = dir.rsplit_once('/').expect("a parent").0;
        let advice = format!("mount a tmpfs at {parent}, or set `runtime_dir`");
        assert!(output.stderr.contains(dir) && output.stderr.contains(&advice), "{output}");
    }
}

/// Without /proc the start fails and says to mount it.
#[test]
fn missing_proc_is_reported() {
    if !possible() {
        return;
    }
    let mut sandbox = Sandbox::new("http");
    let it = Container { proc: None, ..Container::default() };
    let output = it.spawn(&mut sandbox, &[]).wait(SOON).expect_code(1);
    assert!(output.stderr.contains("/proc is not mounted"), "{output}");
}

/// A restart with an upgrade of the supervisor works with a read-only /proc.
#[test]
fn restart_works_with_a_read_only_proc() {
    if !possible() {
        return;
    }
    let mut sandbox = Sandbox::new("http");
    let it = Container { proc: Some("ro"), ..Container::default() };
    let container = it.run(&mut sandbox);
    sandbox.deploy("http-v2");
    container.verb(&["restart"]).expect_code(0);
    assert_eq!(container.status().generation, Some(2));
    container.first.signal(Signal::TERM);
    container.child.wait(SOON).expect_code(0);
}

/// A solo daemon as PID 1 handles SIGTERM. The kernel does not deliver that signal to a PID 1 without a
/// handler.
#[test]
fn solo_daemon_as_pid_1_handles_term() {
    if !possible() {
        return;
    }
    let mut sandbox = Sandbox::new("solo-http");
    let container = Container::default().run(&mut sandbox);
    assert_eq!(container.status().pid, 1);
    let load = Load::on(target()).keep_alive(4).paths(["/wait/1000"]).requests(4).start();
    let accepted = || container.status().serving().requests_in_flight == 4;
    eventually("all requests are in flight", SOON, accepted);
    container.first.signal(Signal::TERM);
    load.join().assert_nothing_failed();
    container.child.wait(SOON).expect_code(0);
}

/// Makes the image accessible to other users.
fn open_to_all(sandbox: &Sandbox) {
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(sandbox.dir(), mode).expect("a directory of ours");
}
