//! P8: sockets that the service manager passes become the listeners with their names (sd_listen_fds(3)).

#![allow(clippy::expect_used)]

use std::net::{Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::time::Duration;

use unbroken_tests::fake_service_manager::give;
use unbroken_tests::http::{Connection, Target};
use unbroken_tests::{FakeServiceManager, Load, Process, Sandbox, Signal, Status, eventually};

const SOON: Duration = Duration::from_secs(20);

fn tcp() -> (SocketAddr, OwnedFd) {
    let socket = TcpListener::bind("127.0.0.1:0").expect("a port");
    (socket.local_addr().expect("an address"), socket.into())
}

/// Adds three sockets named `http` to the units: two addresses and a path.
fn three(sandbox: &Sandbox, manager: &mut FakeServiceManager) -> [Target; 3] {
    let (v4, socket) = tcp();
    manager.units.push(("http".into(), socket));
    let socket = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).expect("a port");
    let v6 = socket.local_addr().expect("an address");
    manager.units.push(("http".into(), socket.into()));
    let path = sandbox.path("http.sock");
    let socket = UnixListener::bind(&path).expect("a path");
    manager.units.push(("http".into(), socket.into()));
    [v4.into(), v6.into(), path.as_path().into()]
}

fn answers(target: &Target) -> String {
    let mut connection = Connection::open(target).expect("a connection");
    connection.get("/").expect("a response").text().to_owned()
}

fn listeners(status: &Status) -> Vec<(&str, Target, Option<&str>)> {
    let parsed = |addr: &String| addr.parse().expect("an address");
    let listeners = status.listeners.iter();
    listeners.map(|it| (it.name.as_str(), parsed(&it.addr), it.source.as_deref())).collect()
}

/// All sockets of one name are served across restarts, upgrades of the supervisor and a crash.
#[test]
fn all_sockets_of_a_name_are_served() {
    let mut sandbox = Sandbox::new("http");
    let mut manager = FakeServiceManager::of(&mut sandbox, 8);
    let targets = three(&sandbox, &mut manager);
    // For the verbs, which run in this environment too, the variable names another process. The fixture
    // replaces it for the daemon.
    sandbox.set("LISTEN_PID", "1");
    let child = manager.serve(&sandbox);
    let status = sandbox.status();
    assert_eq!(status.pid, child.pid());
    let expected: Vec<_> =
        targets.iter().map(|target| ("http", target.clone(), Some("manager"))).collect();
    assert_eq!(listeners(&status), expected);
    let loads = targets.each_ref().map(|it| Load::on(it.clone()).new_connections(4).start());
    loads.iter().for_each(|load| load.wait_for(50));
    let private =
        |line: &String| ["LISTEN_", "FDSTORE=", "NOTIFY_"].iter().any(|it| line.starts_with(it));
    let environment = sandbox.worker().environment();
    assert!(!environment.iter().any(private), "{environment:#?}");

    // The sockets count as one listener. The restarts also upgrade the supervisor.
    for (generation, image) in [(2, "http-v2"), (3, "http")] {
        sandbox.deploy(image);
        sandbox.restart();
        loads.iter().for_each(|load| load.wait_for_generation(generation));
        let status = sandbox.status();
        assert_eq!(listeners(&status), expected);
        assert_eq!((status.pid, status.note), (child.pid(), None));
    }
    // A respawned worker has all of them.
    loads.into_iter().for_each(|load| load.stop().assert_nothing_failed());
    sandbox.worker().kill();
    let serves =
        || sandbox.try_status().is_some_and(|it| it.workers.iter().any(|w| w.state == "serving"));
    eventually("a new worker serves", SOON, serves);
    targets.iter().for_each(|target| assert!(answers(target).contains("generation=3")));
    // Sockets of units are not put into the fd store.
    assert_eq!(manager.stored(), [""; 0]);
    assert!(
        manager.messages().iter().all(|message| !message.contains("FDSTORE")),
        "{:#?}",
        manager.messages()
    );

    // The sockets stay open when the daemon ends: clients wait for the next start.
    child.process().signal(Signal::TERM);
    child.wait(SOON).expect_code(0);
    let waiting = targets.each_ref().map(|target| {
        let mut connection = Connection::open(target).expect("a connection");
        connection.send("GET / HTTP/1.1\r\nhost: x\r\n\r\n").expect("sent");
        connection
    });
    let child = manager.serve(&sandbox);
    for mut connection in waiting {
        assert!(connection.response().expect("a response").text().contains("generation=1"));
    }
    child.process().signal(Signal::TERM);
    child.wait(SOON).expect_code(0);
    let expected_text = ", as passed by the service manager, and not at 127.0.0.1:0 as configured";
    assert!(sandbox.log().contains(expected_text), "{}", sandbox.log());
}

#[test]
fn solo_daemon_serves_all_sockets_of_a_name() {
    let mut sandbox = Sandbox::new("solo-http");
    let mut manager = FakeServiceManager::of(&mut sandbox, 0);
    let targets = three(&sandbox, &mut manager);
    let child = manager.serve(&sandbox);
    let expected: Vec<_> =
        targets.iter().map(|target| ("http", target.clone(), Some("manager"))).collect();
    assert_eq!(listeners(&sandbox.status()), expected);
    targets.iter().for_each(|target| assert!(answers(target).contains("version=solo")));
    child.process().signal(Signal::TERM);
    child.wait(SOON).expect_code(0);
    assert!(sandbox.path("http.sock").exists(), "the file of the unit");
    assert!(targets.iter().all(Target::accepts));
}

/// A blocking listener accepts on all sockets of its name.
#[test]
fn blocking_listener_accepts_on_all_sockets() {
    let mut sandbox = Sandbox::new("sync");
    let mut manager = FakeServiceManager::of(&mut sandbox, 0);
    let targets = three(&sandbox, &mut manager);
    manager.units.iter_mut().for_each(|(name, _)| *name = "echo".into());
    let child = manager.serve(&sandbox);
    for round in 1..=2 {
        for target in &targets {
            let mut connection = Connection::open(target).expect("a connection");
            connection.send("hello\n").expect("sent");
            let mut line = [0; 8];
            std::io::Read::read_exact(&mut connection, &mut line).expect("an answer");
            assert_eq!(line, *format!("{round} hello\n").as_bytes());
        }
        if round == 1 {
            sandbox.restart();
        }
    }
    child.process().signal(Signal::TERM);
    child.wait(SOON).expect_code(0);
    assert!(targets.iter().all(Target::accepts));
}

/// Listeners without a passed socket are bound as configured, and a socket without a listener is reported.
#[test]
fn other_listeners_are_bound_as_configured() {
    let mut sandbox = Sandbox::new("http-v3-listeners");
    let mut manager = FakeServiceManager::of(&mut sandbox, 0);
    let (addr, socket) = tcp();
    manager.units.push(("admin".into(), socket));
    let (idle, socket) = tcp();
    manager.units.push(("metrics".into(), socket));
    let child = manager.serve(&sandbox);
    let expected = format!(
        "the service manager passed the socket {idle} as `metrics`, but no listener has that name \
         (`admin`, `http`)"
    );
    assert!(sandbox.log().contains(&expected), "{}", sandbox.log());
    let status = sandbox.status();
    assert_eq!(status.target("admin"), addr.into());
    assert!(answers(&status.target("http")).contains("version=3"));
    assert!(answers(&addr.into()).contains("version=3"));

    // A socket that a restart no longer declares stays open for a later restart that does.
    sandbox.deploy("http");
    sandbox.restart();
    assert!(
        sandbox.log().contains(&format!("does not declare `admin` at {addr}")),
        "{}",
        sandbox.log()
    );
    let mut waits = Connection::open(&addr.into()).expect("a connection");
    waits.send("GET / HTTP/1.1\r\nhost: x\r\n\r\n").expect("sent");
    sandbox.deploy("http-v3-listeners");
    sandbox.restart();
    assert!(waits.response().expect("a response").text().contains("generation=3"));
    assert_eq!(sandbox.status().target("admin"), addr.into());
    child.process().signal(Signal::TERM);
    child.wait(SOON).expect_code(0);
}

/// Orphans have the passed sockets, and the next supervisor is passed the same ones: no request is lost.
#[test]
fn orphans_keep_passed_sockets() {
    let mut sandbox = Sandbox::new("http");
    sandbox.set("DAEMON_ORPHAN_GRACE", "20s");
    let mut manager = FakeServiceManager::of(&mut sandbox, 0);
    let targets = three(&sandbox, &mut manager);
    let child = manager.serve(&sandbox);
    let loads = targets.each_ref().map(|it| Load::on(it.clone()).new_connections(4).start());
    loads.iter().for_each(|load| load.wait_for(50));
    child.process().kill();
    drop(child);
    loads.iter().for_each(|load| load.wait_for(50));
    let child = manager.serve(&sandbox);
    loads.iter().for_each(|load| load.wait_for_generation(2));
    loads.into_iter().for_each(|load| load.stop().assert_nothing_failed());
    child.process().signal(Signal::TERM);
    child.wait(SOON).expect_code(0);
    assert!(targets.iter().all(Target::accepts));
    assert!(sandbox.path("http.sock").exists(), "the file of the unit");
}

/// Each mistake in a unit is an error that says what to do.
#[test]
fn mistakes_in_units_are_reported() {
    let sandbox = Sandbox::new("http");
    let (addr, good) = tcp();
    let datagram: OwnedFd = UnixDatagram::unbound().expect("a socket").into();
    let connected = std::net::TcpStream::connect(addr).expect("a connection");
    let file = std::fs::File::open("/dev/null").expect("a file");
    let unnamed = |name: &str| {
        format!(
            "the service manager passed the socket {addr} as `{name}`, which is not the name of a \
             listener (`http`); set FileDescriptorName="
        )
    };
    let no_listener = |what: &str| {
        format!("the service manager passed {what} as listener `http`; its .socket unit needs")
    };
    for (names, fd, expected) in [
        ("", good.as_fd(), unnamed("unknown")),
        ("hello.socket", good.as_fd(), unnamed("hello.socket")),
        ("http", datagram.as_fd(), no_listener("a datagram socket")),
        ("http", connected.as_fd(), no_listener("a socket that does not listen")),
        ("http", file.as_fd(), no_listener("a descriptor that is not a socket")),
        ("http:more", good.as_fd(), "LISTEN_FDNAMES has 2 names for the 1 descriptors".into()),
    ] {
        let output = give(&sandbox, &["run"], names, &[fd]).wait(SOON);
        output.expect_code(78).expect_text(&expected);
    }
    for names in ["http", "http:http"] {
        let fds = vec![good.as_fd(); names.split(':').count()];
        let output = give(&sandbox, &["start"], names, &fds).wait(SOON).expect_code(78);
        output.expect_text("but a daemon that goes to the background loses them; use `run`");
    }
    sandbox.assert_nothing_left();
}

/// Sockets without `LISTEN_PID` and names, as tools for developers pass them, are matched by their addresses
/// in the foreground. `start` ignores them.
#[test]
fn unnamed_sockets_are_matched_by_address() {
    let mut sandbox = Sandbox::new("http");
    sandbox.set("GIVEN_TO_ANYBODY", "1");
    for chosen in [false, true] {
        let (addr, socket) = tcp();
        // First a socket at the address of the listener, then a single socket for a single listener.
        let declared = if chosen { "127.0.0.1:0".to_owned() } else { addr.to_string() };
        sandbox.set("DAEMON_LISTEN_HTTP", declared);
        let child = give(&sandbox, &["run"], "", &[socket.as_fd()]);
        sandbox.wait_serving();
        let expected = vec![("http", Target::from(addr), Some("manager"))];
        assert_eq!(listeners(&sandbox.status()), expected);
        assert!(answers(&addr.into()).contains("version=1"));
        let environment = sandbox.get("/env").expect("a response").text().to_owned();
        assert!(!environment.contains("LISTEN_"), "{environment}");
        sandbox.restart();
        assert!(answers(&addr.into()).contains("generation=2"));
        child.process().signal(Signal::TERM);
        child.wait(SOON).expect_code(0);
    }
    let (addr, socket) = tcp();
    sandbox.set("DAEMON_LISTEN_HTTP", "127.0.0.1:0");
    give(&sandbox, &["start"], "", &[socket.as_fd()]).wait(SOON).expect_code(0);
    let status = sandbox.status();
    assert_eq!(status.listeners[0].source, None);
    assert_ne!(status.target("http"), addr.into());
    sandbox.stop();
    // Two sockets that match no address are ambiguous.
    sandbox.set("DAEMON_LISTEN_HTTP", "127.0.0.2:0");
    let (other, second) = tcp();
    let output = give(&sandbox, &["run"], "", &[socket.as_fd(), second.as_fd()]).wait(SOON);
    output.expect_code(78).expect_text(&format!(
        "was given the socket {addr} and the socket {other} without a name, and no listener has \
         that address (`http`)"
    ));
}

/// Sockets for another process, such as a shell that was itself activated, are ignored.
#[test]
fn sockets_for_another_process_are_ignored() {
    let mut sandbox = Sandbox::new("http");
    sandbox.set("LISTEN_PID", std::process::id().to_string());
    sandbox.set("LISTEN_FDS", "1").set("LISTEN_FDNAMES", "http");
    let status = sandbox.start();
    assert_eq!(status.listeners[0].source, None);
    let leaks = |line: &String| line.starts_with("LISTEN_");
    let environment = Process::open(status.serving().pid).expect("a worker").environment();
    assert!(!environment.iter().any(leaks), "{environment:#?}");
    sandbox.stop();
}
