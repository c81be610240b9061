//! With `orphan_grace` the workers of a killed supervisor continue to serve, and the next supervisor
//! re-attaches them.

#![allow(clippy::expect_used)]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketType};
use rustix::process::Uid;
use unbroken_tests::http::{Connection, Target};
use unbroken_tests::load::{Outcome, Progress, Running};
use unbroken_tests::{Load, Process, Sandbox, Signal, eventually, skip};

const SOON: Duration = Duration::from_secs(20);

/// Creates a sandbox whose workers may be orphans for longer than any of these tests takes.
fn sandbox() -> Sandbox {
    let mut sandbox = Sandbox::new("http");
    sandbox.set("DAEMON_ORPHAN_GRACE", "60s");
    sandbox
}

fn on_unix_socket(mut sandbox: Sandbox) -> Sandbox {
    let path = sandbox.path("http.sock");
    sandbox.set("DAEMON_LISTEN_HTTP", format!("unix:{}", path.display()));
    sandbox
}

/// Starts three loads: busy kept connections, new connections, and mostly idle kept connections.
fn loads(sandbox: &Sandbox, target: &Target) -> [Running; 3] {
    let kept = Load::on(target.clone()).keep_alive(8).start();
    let idle = Load::on(target.clone()).keep_alive(50).pause(Duration::from_millis(20)).start();
    eventually("all are open", SOON, || sandbox.status().serving().connections == 58);
    [kept, Load::on(target.clone()).new_connections(8).start(), idle]
}

#[track_caller]
fn assert_unharmed(loads: [Running; 3]) {
    for ledger in loads.map(Running::stop) {
        ledger.assert_nothing_failed();
        assert_eq!(ledger.ended_by_server(), 0, "{ledger}");
    }
}

/// The names of the workers' re-attach sockets in the runtime directory.
fn sockets(sandbox: &Sandbox) -> Vec<String> {
    let names = fs::read_dir(sandbox.runtime_dir()).expect("a runtime directory");
    let names =
        names.map(|entry| entry.expect("an entry").file_name().into_string().expect("text"));
    let mut names: Vec<_> = names.filter(|name| name.contains(".worker-")).collect();
    names.sort();
    names
}

fn socket_of(worker: &Process) -> String {
    format!("app.worker-{}.sock", worker.pid())
}

/// Stops the daemon and asserts that the runtime directory is empty.
#[track_caller]
fn stop_clean(sandbox: &Sandbox) {
    sandbox.stop();
    let left: Vec<_> = fs::read_dir(sandbox.runtime_dir()).expect("a directory").collect();
    assert!(left.is_empty(), "{left:?}");
}

/// Three times kills the supervisor, starts the daemon again at once, and waits until only the new worker is
/// left.
fn killed_three_times(sandbox: &Sandbox) {
    let target = sandbox.start().target("http");
    let loads = loads(sandbox, &target);
    let descriptors = sandbox.supervisor().descriptors_at_rest();
    for round in 1..=3 {
        loads.iter().for_each(|load| load.wait_for(200));
        let (supervisor, worker) = (sandbox.supervisor(), sandbox.worker());
        assert_eq!(sockets(sandbox), [socket_of(&worker)]);
        supervisor.kill();
        sandbox.verb(["status"]).expect_code(1);
        loads.iter().for_each(|load| load.wait_for(200));
        let status = sandbox.start();
        assert_eq!(status.target("http"), target);
        assert_eq!(status.generation, Some(round + 1), "{}", sandbox.log());
        loads.iter().for_each(|load| load.wait_for_generation(round + 1));
        assert!(worker.wait_gone(SOON), "the old worker stays\n{}", sandbox.log());
        let new = sandbox.worker();
        eventually("its socket is gone", SOON, || sockets(sandbox) == [socket_of(&new)]);
        let held = || sandbox.supervisor().descriptors();
        eventually("nothing of it is kept", SOON, || held().len() <= descriptors);
        let log = sandbox.log();
        for expected in [
            format!("re-attached to the orphan of generation {round}, process {}", worker.pid()),
            format!("draining the orphan of generation {round}, process {}", worker.pid()),
            format!("the orphan of generation {round}, process {}, exited after", worker.pid()),
        ] {
            assert!(log.contains(&expected), "`{expected}` is not in\n{log}");
        }
    }
    assert_unharmed(loads);
    stop_clean(sandbox);
}

#[test]
fn nothing_is_lost_under_load() {
    killed_three_times(&sandbox());
}

#[test]
fn nothing_is_lost_on_a_unix_socket() {
    killed_three_times(&on_unix_socket(sandbox()));
}

/// Workers are re-attached after the death of a supervisor that has upgraded itself, and the supervisor that
/// re-attached them can upgrade itself.
#[test]
fn orphans_are_reattached_around_an_upgrade() {
    let sandbox = sandbox();
    let target = sandbox.start().target("http");
    let loads = loads(&sandbox, &target);
    for fixture in ["http-v2", "http"] {
        sandbox.deploy(fixture);
        let generation = sandbox.restart().generation.expect("a generation");
        loads.iter().for_each(|load| load.wait_for_generation(generation));
        let worker = sandbox.worker();
        eventually("one worker", SOON, || sockets(&sandbox) == [socket_of(&worker)]);
        sandbox.supervisor().kill();
        let status = sandbox.start();
        loads.iter().for_each(|load| load.wait_for_generation(generation + 1));
        assert_eq!(status.generation, Some(generation + 1));
        assert!(worker.wait_gone(SOON), "{}", sandbox.log());
    }
    assert_unharmed(loads);
    stop_clean(&sandbox);
}

/// A re-attached orphan drains while its supervisor upgrades itself.
#[test]
fn orphan_drains_through_an_upgrade() {
    let sandbox = sandbox();
    let target = sandbox.start().target("http");
    let slow = Load::on(target.clone()).new_connections(3).paths(["/slow"]).requests(3).start();
    eventually("in flight", SOON, || sandbox.status().serving().requests_in_flight == 3);
    let worker = sandbox.worker();
    sandbox.supervisor().kill();
    sandbox.start();
    sandbox.deploy("http-v2");
    sandbox.verb(["restart", "--no-wait"]).expect_code(0);
    let upgraded = "the supervisor runs the image of generation 3";
    eventually("upgraded", SOON, || sandbox.log().contains(upgraded));
    slow.join().assert_nothing_failed();
    assert!(worker.wait_gone(SOON));
    let gone = format!("the orphan of generation 1, process {}, exited after", worker.pid());
    eventually("a log line", SOON, || sandbox.log().contains(&gone));
    stop_clean(&sandbox);
}

/// A start that fails leaves the orphan and its connections as they were.
fn a_start_fails(sandbox: &Sandbox) {
    let target = sandbox.start().target("http");
    let loads = loads(sandbox, &target);
    let (worker, supervisor) = (sandbox.worker(), sandbox.supervisor());
    loads.iter().for_each(|load| load.wait_for(200));
    supervisor.kill();
    for bad in ["fails-at-start", "panics-at-start", "aborts-at-start"] {
        sandbox.deploy(bad);
        assert_ne!(sandbox.verb(["start"]).code(), 0);
        assert!(worker.is_alive(), "{bad} ended it\n{}", sandbox.log());
        assert_eq!(sockets(sandbox), [socket_of(&worker)]);
        loads.iter().for_each(|load| load.wait_for(200));
    }
    sandbox.deploy("http");
    sandbox.start();
    loads.iter().for_each(|load| load.wait_for_generation(2));
    assert!(worker.wait_gone(SOON));
    assert_unharmed(loads);
    stop_clean(sandbox);
}

#[test]
fn failed_start_closes_nothing() {
    a_start_fails(&sandbox());
}

#[test]
fn failed_start_closes_nothing_on_a_unix_socket() {
    a_start_fails(&on_unix_socket(sandbox()));
}

/// If the next supervisor is killed while it starts, the orphan waits for the one after.
#[test]
fn orphan_outlives_a_supervisor_killed_at_start() {
    let mut sandbox = on_unix_socket(sandbox());
    sandbox.set("DAEMON_DRAIN_TIMEOUT", "2s");
    let target = sandbox.start().target("http");
    let loads = loads(&sandbox, &target);
    let worker = sandbox.worker();
    sandbox.supervisor().kill();
    sandbox.deploy("hangs-at-start");
    let start = sandbox.spawn(["start"]);
    eventually("it starts", SOON, || {
        sandbox
            .try_status()
            .is_some_and(|status| status.workers.iter().any(|it| it.state == "starting"))
    });
    sandbox.supervisor().kill();
    assert_ne!(start.wait(SOON).code(), 0);
    loads.iter().for_each(|load| load.wait_for(200));
    assert!(worker.is_alive());
    sandbox.deploy("http");
    sandbox.start();
    loads.iter().for_each(|load| load.wait_for_generation(2));
    assert!(worker.wait_gone(SOON));
    assert_unharmed(loads);
    // The worker that was not ready yet may take as long as the drain timeout.
    eventually("nobody else is there", SOON, || sandbox.processes().len() == 2);
    stop_clean(&sandbox);
}

/// If the supervisor is killed in the confirm window, and then the new worker too, the old worker serves and
/// is re-attached.
#[test]
fn old_worker_serves_when_supervisor_and_new_worker_die() {
    let mut sandbox = sandbox();
    sandbox.set("DAEMON_CONFIRM_WINDOW", "60s");
    let target = sandbox.start().target("http");
    let loads = loads(&sandbox, &target);
    let old = sandbox.worker();
    let restart = sandbox.spawn(["restart"]);
    loads.iter().for_each(|load| load.wait_for(200));
    eventually("committed", SOON, || sandbox.log().contains("generation 2 serves after"));
    let new = sandbox.worker();
    assert_ne!(old.pid(), new.pid());
    sandbox.supervisor().kill();
    restart.wait(SOON).expect_code(1);
    // The new worker dies; the old one continues.
    new.kill();
    loads.iter().for_each(|load| load.wait_for(10));
    assert!(old.is_alive());
    sandbox.start();
    assert!(old.wait_gone(SOON));
    loads.iter().for_each(|load| load.wait_for(200));
    // Only the connections of the killed worker are lost.
    let [kept, new, idle] = loads.map(Running::stop);
    for ledger in [kept, idle] {
        ledger.assert_nothing_failed();
        assert_eq!(ledger.ended_by_server(), 0, "{ledger}");
    }
    assert!(new.failed() <= 8, "{new}");
    stop_clean(&sandbox);
}

/// If the supervisor is killed in the confirm window, the next one re-attaches both workers and drains them.
#[test]
fn both_generations_are_reattached() {
    let mut sandbox = sandbox();
    sandbox.set("DAEMON_CONFIRM_WINDOW", "60s");
    let target = sandbox.start().target("http");
    let loads = loads(&sandbox, &target);
    let old = sandbox.worker();
    let restart = sandbox.spawn(["restart"]);
    eventually("committed", SOON, || sandbox.log().contains("generation 2 serves after"));
    let new = sandbox.worker();
    sandbox.supervisor().kill();
    restart.wait(SOON).expect_code(1);
    loads.iter().for_each(|load| load.wait_for(200));
    assert_eq!(sandbox.start().generation, Some(3));
    loads.iter().for_each(|load| load.wait_for_generation(3));
    assert!(old.wait_gone(SOON) && new.wait_gone(SOON), "{}", sandbox.log());
    assert_unharmed(loads);
    stop_clean(&sandbox);
}

/// An orphan drains and exits when `orphan_grace` has passed without a new supervisor.
#[test]
fn orphan_exits_when_the_grace_ends() {
    let mut sandbox = sandbox();
    sandbox.set("DAEMON_ORPHAN_GRACE", "2s");
    let target = sandbox.start().target("http");
    let worker = sandbox.worker();
    let mut kept = Connection::open(&target).expect("a connection");
    kept.get("/").expect("a response");
    let began = Instant::now();
    sandbox.supervisor().kill();
    while began.elapsed() < Duration::from_secs(1) {
        let mut new = Connection::open(&target).expect("it accepts");
        assert_eq!(new.get("/").expect("a response").status, 200);
        assert_eq!(kept.get("/").expect("a response").status, 200);
    }
    eventually("nobody is let in", SOON, || !target.accepts());
    assert!(began.elapsed() >= Duration::from_secs(2));
    assert!(worker.wait_gone(SOON));
    sandbox.start();
    stop_clean(&sandbox);
}

/// An orphan drains and exits at SIGTERM, before the grace has passed.
#[test]
fn orphan_exits_at_sigterm() {
    let sandbox = sandbox();
    let target = sandbox.start().target("http");
    let worker = sandbox.worker();
    sandbox.supervisor().kill();
    assert!(target.accepts());
    worker.signal(Signal::TERM);
    assert!(worker.wait_gone(SOON));
    sandbox.start();
    stop_clean(&sandbox);
}

/// A worker that drained already when its supervisor was killed is not re-attached, and finishes its
/// requests.
#[test]
fn draining_worker_is_not_reattached() {
    let sandbox = sandbox();
    let target = sandbox.start().target("http");
    let slow = Load::on(target.clone()).new_connections(1).paths(["/slow"]).requests(1).start();
    eventually("in flight", SOON, || sandbox.status().serving().requests_in_flight == 1);
    let (old, restart) = (sandbox.worker(), sandbox.spawn(["restart", "--no-wait"]));
    restart.wait(SOON).expect_code(0);
    let new = sandbox.worker();
    sandbox.supervisor().kill();
    sandbox.start();
    let log = sandbox.log();
    let serves = |pid: u32| format!("process {pid}; it serves until");
    assert!(log.contains("re-attached to the orphan") && log.contains(&serves(new.pid())), "{log}");
    assert!(!log.contains(&serves(old.pid())), "{log}");
    slow.join().assert_nothing_failed();
    assert!(old.wait_gone(SOON) && new.wait_gone(SOON));
    stop_clean(&sandbox);
}

/// `stop` waits for the requests in flight of a re-attached orphan.
#[test]
fn stop_waits_for_orphans() {
    let sandbox = sandbox();
    let target = sandbox.start().target("http");
    let slow = Load::on(target.clone()).new_connections(3).paths(["/slow"]).requests(3).start();
    eventually("in flight", SOON, || sandbox.status().serving().requests_in_flight == 3);
    sandbox.supervisor().kill();
    sandbox.start();
    stop_clean(&sandbox);
    slow.join().assert_nothing_failed();
}

/// A re-attached orphan that does not react is killed at its deadline.
#[test]
fn hanging_orphan_is_killed() {
    let mut sandbox = sandbox();
    sandbox.set("DAEMON_DRAIN_TIMEOUT", "1s");
    let target = sandbox.start().target("http");
    let mut stream = Connection::open(&target).expect("a connection");
    stream.send("GET /stream HTTP/1.1\r\nHost: test\r\n\r\n").expect("a request");
    eventually("in flight", SOON, || sandbox.status().serving().requests_in_flight == 1);
    let worker = sandbox.worker();
    sandbox.supervisor().kill();
    sandbox.start();
    worker.signal(Signal::STOP);
    assert!(worker.wait_gone(SOON), "{}", sandbox.log());
    let killed = format!("killing orphan process {}, which did not exit in time", worker.pid());
    assert!(sandbox.log().contains(&killed), "{}", sandbox.log());
    stop_clean(&sandbox);
}

/// With `exclusive` the orphan has ended before the new worker starts. New connections wait in the accept
/// queue.
#[test]
fn exclusive_programs_do_not_overlap() {
    let mut sandbox = sandbox();
    sandbox.set("DAEMON_EXCLUSIVE", "true");
    let target = sandbox.start().target("http");
    let new = Load::on(target.clone()).new_connections(4).start();
    let worker = sandbox.worker();
    new.wait_for(100);
    sandbox.supervisor().kill();
    new.wait_for(100);
    sandbox.start();
    assert!(!worker.is_alive());
    new.wait_for_generation(2);
    new.stop().assert_nothing_failed();
    let log = sandbox.log();
    let at = |what: &str| log.find(what).unwrap_or_else(|| panic!("no `{what}`\n{log}"));
    assert!(at("exited after") < at("generation 2 serves"), "{log}");
    stop_clean(&sandbox);
}

/// The worker of a sync program becomes an orphan in the same way, and keeps its open connections.
#[test]
fn sync_program_is_reattached() {
    let mut sandbox = Sandbox::new("sync");
    sandbox.set("DAEMON_ORPHAN_GRACE", "60s");
    let Target::Tcp(addr) = sandbox.start().target("echo") else { panic!("not by TCP") };
    let open = || BufReader::new(TcpStream::connect(addr).expect("a connection"));
    let says = |stream: &mut BufReader<TcpStream>| {
        stream.get_mut().write_all(b"hello\n").expect("a line");
        let mut line = String::new();
        stream.read_line(&mut line).expect("an answer");
        line
    };
    let worker = sandbox.worker();
    let mut kept = open();
    assert_eq!(says(&mut kept), "1 hello\n");
    sandbox.supervisor().kill();
    assert_eq!(says(&mut open()), "1 hello\n");
    sandbox.start();
    assert_eq!(says(&mut kept), "1 hello\n");
    eventually("the new one accepts", SOON, || says(&mut open()) == "2 hello\n");
    drop(kept);
    assert!(worker.wait_gone(SOON));
    assert_eq!(says(&mut open()), "2 hello\n");
    stop_clean(&sandbox);
}

/// Another user cannot re-attach a worker, even if the permissions of its socket are wrong.
#[test]
fn reattach_socket_refuses_other_users() {
    if !rustix::process::geteuid().is_root() {
        return skip("another user needs root");
    }
    let sandbox = sandbox();
    sandbox.start();
    let worker = sandbox.worker();
    sandbox.supervisor().kill();
    let socket = sandbox.runtime_dir().join(socket_of(&worker));
    let mode = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a mode");
    };
    assert_eq!(fs::metadata(&socket).expect("a socket").permissions().mode() & 0o777, 0o600);
    // User ids are per thread for the kernel, so only this thread changes its user.
    let connect = |uid: Option<u32>| {
        let socket = socket.clone();
        let thread = std::thread::spawn(move || {
            if let Some(uid) = uid.map(Uid::from_raw) {
                rustix::thread::set_thread_res_uid(uid, uid, uid)?;
            }
            let (unix, packets) = (AddressFamily::UNIX, SocketType::SEQPACKET);
            let client = rustix::net::socket(unix, packets, None)?;
            rustix::net::connect(&client, &SocketAddrUnix::new(&socket)?)?;
            Ok::<_, rustix::io::Errno>(client)
        });
        thread.join().expect("no panic")
    };
    let hears = |client: OwnedFd| {
        let mut message = vec![0; 64 * 1024];
        rustix::net::recv(&client, &mut message[..], RecvFlags::empty()).expect("an end").1
    };
    assert_eq!(connect(Some(65_534)).expect_err("private"), rustix::io::Errno::ACCESS);
    mode(sandbox.dir(), 0o755);
    mode(&sandbox.runtime_dir(), 0o755);
    mode(&socket, 0o666);
    assert_eq!(hears(connect(Some(65_534)).expect("a connection")), 0, "it received something");
    // A permitted client that disconnects without a message changes nothing.
    assert_ne!(hears(connect(None).expect("a connection")), 0);
    sandbox.start();
    assert!(worker.wait_gone(SOON));
    assert!(sandbox.log().contains("re-attached to the orphan of generation"), "{}", sandbox.log());
    stop_clean(&sandbox);
}

/// Without `orphan_grace` workers have no re-attach socket.
#[test]
fn no_reattach_socket_by_default() {
    let sandbox = Sandbox::new("http");
    sandbox.start();
    assert_eq!(sockets(&sandbox), [""; 0]);
    sandbox.restart();
    assert_eq!(sockets(&sandbox), [""; 0]);
    stop_clean(&sandbox);
}

/// Re-attach sockets work in a directory whose path is too long for a socket address (unix(7)).
#[test]
fn reattach_works_in_a_deep_directory() {
    let mut sandbox = sandbox();
    let deep = sandbox.path(&"deep/".repeat(30));
    sandbox.set("DAEMON_RUNTIME_DIR", deep.display().to_string());
    let target = sandbox.start().target("http");
    let new = Load::on(target).new_connections(4).start();
    let worker = sandbox.worker();
    let socket = deep.join(socket_of(&worker));
    assert!(socket.exists() && socket.as_os_str().len() > 108, "{}", socket.display());
    sandbox.supervisor().kill();
    new.wait_for(100);
    sandbox.start();
    new.wait_for_generation(2);
    assert!(worker.wait_gone(SOON));
    eventually("its socket is gone", SOON, || !socket.exists());
    new.stop().assert_nothing_failed();
    sandbox.stop();
    assert_eq!(fs::read_dir(&deep).expect("a directory").count(), 0);
}

/// Files and sockets of others at such paths, whether dead, silent or sending nonsense, are reported and do
/// not keep the daemon from starting.
#[test]
fn foreign_sockets_do_not_prevent_a_start() {
    let sandbox = sandbox();
    let target = sandbox.start().target("http");
    let new = Load::on(target).new_connections(4).start();
    let worker = sandbox.worker();
    sandbox.supervisor().kill();
    let at = |number: u32| sandbox.runtime_dir().join(format!("app.worker-{number}.sock"));
    let listening = |number| {
        let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None);
        let socket = socket.expect("a socket");
        let addr = SocketAddrUnix::new(at(number)).expect("an address");
        rustix::net::bind(&socket, &addr).expect("bound");
        rustix::net::listen(&socket, 4).expect("listening");
        socket
    };
    drop(listening(4_000_001));
    let _silent = listening(4_000_002);
    let talks = listening(4_000_003);
    fs::write(at(4_000_004), "a file").expect("a file");
    let counts = listening(4_000_005);
    let start = sandbox.spawn(["start"]);
    let caller = rustix::net::accept(&talks).expect("it calls");
    rustix::net::send(&caller, b"nonsense", SendFlags::NOSIGNAL).expect("sent");
    let caller = rustix::net::accept(&counts).expect("it calls");
    let beyond = br#"{"type":"orphan","protocol":{"min":1,"max":1},"release":"9","generation":4294967295,"listeners":[]}"#;
    rustix::net::send(&caller, beyond, SendFlags::NOSIGNAL).expect("sent");
    start.wait(SOON).expect_code(0);
    new.wait_for_generation(2);
    assert!(worker.wait_gone(SOON));
    new.stop().assert_nothing_failed();
    let log = sandbox.log();
    for expected in [
        "cannot re-attach to process 4000002 of an earlier supervisor",
        "it does not answer",
        "cannot re-attach to process 4000003 of an earlier supervisor",
        "it reports generation 4294967295",
    ] {
        assert!(log.contains(expected), "`{expected}` is not in\n{log}");
    }
    assert!(!at(4_000_001).exists(), "a dead socket is left");
    assert!(at(4_000_004).exists(), "a file that is no socket is gone");
    sandbox.stop();
}

/// Starts a program without one of the orphan's listeners: the orphan serves its accept queue before the
/// listener is closed, as at a restart.
fn a_listener_goes(unix: bool) {
    let mut sandbox = Sandbox::new("http-v3-listeners");
    sandbox.set("DAEMON_ORPHAN_GRACE", "60s");
    let path = sandbox.path("admin.sock");
    if unix {
        sandbox.set("DAEMON_LISTEN_ADMIN", format!("unix:{}", path.display()));
    }
    let status = sandbox.start();
    let (http, admin) = (status.target("http"), status.target("admin"));
    let loads = [
        Load::on(http.clone()).new_connections(4).start(),
        Load::on(http.clone()).keep_alive(4).start(),
    ];
    let going = Load::on(admin.clone()).new_connections(4).connect_timeout(SOON).start();
    loads.iter().chain([&going]).for_each(|load| load.wait_for(200));
    let worker = sandbox.worker();
    sandbox.supervisor().kill();
    going.wait_for(100);
    sandbox.deploy("http");
    sandbox.unset("DAEMON_LISTEN_ADMIN");
    sandbox.start();
    loads.iter().for_each(|load| load.wait_for_generation(2));
    assert!(worker.wait_gone(SOON));
    assert!(!admin.accepts());
    eventually("its file is gone", SOON, || !path.exists());
    let going = going.stop();
    let lost = [Outcome::Reset, Outcome::Closed, Outcome::Truncated];
    assert_eq!(lost.map(|outcome| going.count(outcome)), [0; 3], "{going}");
    assert!(going.ok() >= 300, "{going}");
    loads.into_iter().for_each(|load| load.stop().assert_nothing_failed());
    stop_clean(&sandbox);
}

#[test]
fn removed_listener_of_an_orphan_resets_nobody() {
    a_listener_goes(false);
}

#[test]
fn removed_unix_listener_of_an_orphan_resets_nobody() {
    a_listener_goes(true);
}

/// Clients in the accept queue of a removed listener are served before an orphan, here one that is stopped
/// when it should drain, closes it.
#[test]
fn queue_of_an_orphans_removed_listener_is_served() {
    let mut sandbox = Sandbox::new("http-v3-listeners");
    sandbox.set("DAEMON_ORPHAN_GRACE", "60s").set("DAEMON_DRAIN_TIMEOUT", "20s");
    sandbox.set("UNBROKEN_FAILPOINTS", sandbox.path("fail").display().to_string());
    let admin = sandbox.start().target("admin");
    let worker = sandbox.worker();
    sandbox.supervisor().kill();
    sandbox.deploy("http");
    fs::write(sandbox.path("fail"), "supervisor.before-welcome=stop").expect("a file");
    let start = sandbox.spawn(["start"]);
    let pid = || fs::read_to_string(sandbox.pidfile()).ok()?.trim().parse().ok();
    let stopped = || pid().and_then(Process::open).filter(|it| it.state() == Some('T'));
    eventually("the new supervisor has it, and is stopped", SOON, || stopped().is_some());
    worker.signal(Signal::STOP);
    eventually("the worker is stopped", SOON, || worker.state() == Some('T'));
    let waiting = Load::on(admin).new_connections(20).requests(20).start();
    let all = |progress: &Progress| progress.connections() == 20;
    assert!(waiting.progress().wait(Instant::now() + SOON, all));
    stopped().expect("a supervisor").signal(Signal::CONT);
    start.wait(SOON).expect_code(0);
    worker.signal(Signal::CONT);
    waiting.join().assert_nothing_failed();
    assert!(worker.wait_gone(SOON));
    stop_clean(&sandbox);
}
