//! P8: the daemon as the first process of a container, with nothing else in it.

#![allow(clippy::expect_used)]

use std::time::{Duration, Instant};

use unbroken_tests::container::{self, Container};
use unbroken_tests::http::{Connection, Target};
use unbroken_tests::{Bad, Bed, Child, Load, Process, Signal, eventually, skip};

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

/// Starts, is asked from inside, and ends with TERM: requests in flight are finished.
#[test]
fn term_under_load() {
    if !possible() {
        return;
    }
    let mut bed = Bed::new("http");
    let container = Container::default().run(&mut bed);
    let status = container.status();
    assert_eq!((status.pid, status.state.as_str()), (1, "running"));
    assert_eq!(status.pidfile, "/run/app/app.pid");
    container.verb(&["status", "--probe", "ready"]).expect_code(0).expect_text("ready: ");

    let load = Load::on(target()).keep_alive(8).paths(["/wait/1500"]).requests(8).start();
    let all = |progress: &unbroken_tests::load::Progress| progress.in_flight() == 8;
    assert!(load.progress().wait(Instant::now() + SOON, all));
    // In flight for the client; in the worker too, once it says so.
    let accepted = || container.status().serving().requests_in_flight == 8;
    eventually("all requests are in flight", SOON, accepted);
    container.first.signal(Signal::TERM);
    let ledger = load.join();
    ledger.assert_nothing_failed();
    assert_eq!(ledger.ok(), 8, "{ledger}");
    let output = container.child.wait(SOON).expect_code(0);
    assert!(output.elapsed < SOON, "{output}");
    bed.wait_empty(SOON);
}

/// Grandchildren whose parents have ended are nobody else's.
#[test]
fn orphans_are_reaped() {
    if !possible() {
        return;
    }
    let mut bed = Bed::new("http");
    let container = Container::default().run(&mut bed);
    let supervisor = container.first.pid();
    let reparented = || {
        let children = Process::open(supervisor).expect("it runs").children();
        children.len() > 1
    };
    let response = Connection::open(&target()).expect("a connection").get("/orphans");
    assert_eq!(response.expect("a response").status, 200);
    // They nap before they end, and belong to the first process while they do.
    assert!(reparented(), "the orphans are somebody else's children");
    container.wait_alone_with_worker();
    container.first.signal(Signal::TERM);
    container.child.wait(SOON).expect_code(0);
}

/// The file is replaced by rename in a mounted directory: HUP brings it, and the supervisor becomes it
/// too, as the same first process. A bad one changes nothing.
#[test]
fn a_restart_in_place() {
    if !possible() {
        return;
    }
    let mut bed = Bed::new("http");
    let container = Container::default().run(&mut bed);
    let load = Load::on(target()).keep_alive(4).start();
    let new = Load::on(target()).new_connections(4).start();
    load.wait_for(50);
    bed.deploy("http-v2");
    container.first.signal(Signal::HUP);
    load.wait_for_generation(2);
    new.wait_for_generation(2);
    eventually("the supervisor is the new program", SOON, || {
        let status = container.status();
        let id = |image: &unbroken_tests::report::Image| image.build_id.clone();
        status.supervisor_image.as_ref().and_then(id) == id(&status.image) && status.pid == 1
    });

    bed.deploy_bad(Bad::Script);
    let output = container.verb(&["restart"]).expect_code(1);
    assert!(output.text().contains("generation 2 keeps serving"), "{output}");
    load.wait_for(50);
    for ledger in [load.stop(), new.stop()] {
        ledger.assert_nothing_failed();
    }
    assert!(!container.first.wait_gone(Duration::ZERO), "another first process");
    // From inside: the kernel ends whoever is in the container with its first process.
    container.verb(&["stop"]).expect_code(128 + 9);
    container.child.wait(SOON).expect_code(0);
}

/// A worker that is killed, as by the kernel when the container's memory is used up.
#[test]
fn a_killed_worker_is_respawned() {
    if !possible() {
        return;
    }
    let mut bed = Bed::new("http");
    let container = Container::default().run(&mut bed);
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

/// A client that cannot see the daemon's process: credentials name process 0 (unix(7)).
#[test]
fn a_client_of_another_process_namespace() {
    if !possible() {
        return;
    }
    let mut bed = Bed::new("http");
    let container = Container::default().run(&mut bed);
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

/// Another user than root, whose runtime directory is below /tmp.
#[test]
fn without_root_and_with_a_tmpfs_at_tmp() {
    if !possible() {
        return;
    }
    let mut bed = Bed::new("http");
    open_to_all(&bed);
    let it = Container { tmpfs: vec!["/tmp"], user: 65_532, ..Container::default() };
    let container = it.run(&mut bed);
    // Asked by root, who would have its own runtime directory.
    let dir = "runtime_dir=/tmp/app-65532";
    let output = container.verb(&["status", "--set", dir, "--json"]).expect_code(0);
    assert!(output.stdout.contains("/tmp/app-65532/app.pid"), "{output}");
    container.first.signal(Signal::TERM);
    container.child.wait(SOON).expect_code(0);
}

#[test]
fn nothing_writable_is_an_error_that_says_what_to_mount() {
    if !possible() {
        return;
    }
    for (user, dir) in [(0, "/run/app"), (65_532, "/tmp/app-65532")] {
        let mut bed = Bed::new("http");
        open_to_all(&bed);
        let it = Container { tmpfs: vec![], user, ..Container::default() };
        let output = it.spawn(&mut bed, &[]).wait(SOON).expect_code(1);
        let parent = dir.rsplit_once('/').expect("a parent").0;
        let advice = format!("mount a tmpfs at {parent}, or set `runtime_dir`");
        assert!(output.stderr.contains(dir) && output.stderr.contains(&advice), "{output}");
    }
}

/// What is needed of /proc is said.
#[test]
fn without_proc() {
    if !possible() {
        return;
    }
    let mut bed = Bed::new("http");
    let it = Container { proc: None, ..Container::default() };
    let output = it.spawn(&mut bed, &[]).wait(SOON).expect_code(1);
    assert!(output.stderr.contains("/proc is not mounted"), "{output}");
}

/// A restart and the supervisor's own upgrade read it and write nothing.
#[test]
fn with_a_read_only_proc() {
    if !possible() {
        return;
    }
    let mut bed = Bed::new("http");
    let it = Container { proc: Some("ro"), ..Container::default() };
    let container = it.run(&mut bed);
    bed.deploy("http-v2");
    container.verb(&["restart"]).expect_code(0);
    assert_eq!(container.status().generation, Some(2));
    container.first.signal(Signal::TERM);
    container.child.wait(SOON).expect_code(0);
}

/// A daemon without a supervisor ends with TERM as well, which the kernel withholds from a first process
/// that does not handle it.
#[test]
fn solo() {
    if !possible() {
        return;
    }
    let mut bed = Bed::new("solo-http");
    let container = Container::default().run(&mut bed);
    assert_eq!(container.status().pid, 1);
    let load = Load::on(target()).keep_alive(4).paths(["/wait/1000"]).requests(4).start();
    let accepted = || container.status().serving().requests_in_flight == 4;
    eventually("all requests are in flight", SOON, accepted);
    container.first.signal(Signal::TERM);
    load.join().assert_nothing_failed();
    container.child.wait(SOON).expect_code(0);
}

/// Others than root have to reach the image in it.
fn open_to_all(bed: &Bed) {
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(bed.dir(), mode).expect("a directory of ours");
}
