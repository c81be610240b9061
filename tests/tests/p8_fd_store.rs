//! P8: the service manager's fd store keeps the listeners while the daemon is down (sd_notify(3)).

#![allow(clippy::expect_used)]

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use unbroken_tests::http::{Connection, Target};
use unbroken_tests::load::{Ledger, Outcome};
use unbroken_tests::{Child, FakeServiceManager, Load, Sandbox, Signal, Status, eventually};

const SOON: Duration = Duration::from_secs(20);

fn stop(child: Child) {
    child.process().signal(Signal::TERM);
    child.wait(SOON).expect_code(0);
}

fn source<'a>(status: &'a Status, name: &str) -> Option<&'a str> {
    status.listeners.iter().find(|it| it.name == name).and_then(|it| it.source.as_deref())
}

/// Asserts that no connection was refused, and that each kill lost at most the connections that a worker had
/// accepted.
fn assert_nobody_refused(ledger: &Ledger, kills: u64, connections: u64) {
    for outcome in [Outcome::ConnectRefused, Outcome::ConnectTimeout, Outcome::ConnectOther] {
        assert_eq!(ledger.count(outcome), 0, "{ledger:#?}");
    }
    assert!(ledger.failed() <= kills * connections, "{ledger:#?}");
}

/// Stops and starts the daemon, and kills all of it, under load.
fn under_load(fixture: &str, addr: Option<&str>) {
    let mut sandbox = Sandbox::new(fixture);
    if let Some(addr) = addr {
        let addr = addr.replace("SANDBOX", &sandbox.dir().display().to_string());
        sandbox.set("DAEMON_LISTEN_HTTP", addr);
    }
    let manager = FakeServiceManager::of(&mut sandbox, 4);
    let mut child = manager.serve(&sandbox);
    // The listener is stored before the daemon reports that it is ready.
    assert_eq!(manager.stored(), ["listen.http"]);
    let status = sandbox.status();
    let target = status.target("http");
    assert_eq!(source(&status, "http"), None);
    let load = Load::on(target.clone()).new_connections(8).start();
    load.wait_for(200);
    for _ in 0..3 {
        stop(child);
        child = manager.serve(&sandbox);
        load.wait_for(200);
        let status = sandbox.status();
        assert_eq!(
            (status.target("http"), source(&status, "http")),
            (target.clone(), Some("store"))
        );
    }
    load.stop().assert_nothing_failed();
    let load = Load::on(target.clone()).new_connections(8).start();
    load.wait_for(200);
    for _ in 0..3 {
        sandbox.kill_all();
        drop(child);
        child = manager.serve(&sandbox);
        load.wait_for(200);
        assert_eq!(sandbox.status().target("http"), target);
    }
    assert_nobody_refused(&load.stop(), 3, 8);
    // The listener was stored once.
    let messages = manager.messages();
    let given = messages.iter().filter(|message| message.contains("FDSTORE=1")).collect::<Vec<_>>();
    assert_eq!(given, ["FDSTORE=1\nFDNAME=listen.http\nFDPOLL=0\n"]);
    assert!(!messages.iter().any(|message| message.contains("FDSTOREREMOVE")), "{messages:#?}");

    // A client that connects while the daemon is down is served after the next start.
    stop(child);
    let mut waits = Connection::open(&target).expect("a connection");
    waits.send("GET / HTTP/1.1\r\nhost: x\r\n\r\n").expect("sent");
    let child = manager.serve(&sandbox);
    assert!(waits.response().expect("a response").text().contains("pid="));
    stop(child);
    // When the service manager discards its store, the listener closes.
    manager.discard();
    eventually("the discarded listener is closed", SOON, || !target.accepts());
    stop(manager.serve(&sandbox));
}

#[test]
fn store_keeps_the_listener_of_a_supervised_daemon() {
    under_load("http", None);
}

#[test]
fn store_keeps_the_unix_listener_of_a_supervised_daemon() {
    under_load("http", Some("unix:SANDBOX/http.sock"));
}

#[test]
fn store_keeps_the_listener_of_a_solo_daemon() {
    under_load("solo-http", None);
}

#[test]
fn store_keeps_the_unix_listener_of_a_solo_daemon() {
    under_load("solo-http", Some("unix:SANDBOX/http.sock"));
}

/// With orphans and the store, which both have the listener, no request is lost when the supervisor is
/// killed.
#[test]
fn orphans_and_store_lose_no_request() {
    let mut sandbox = Sandbox::new("http");
    sandbox.set("DAEMON_ORPHAN_GRACE", "20s");
    let path = sandbox.path("http.sock");
    sandbox.set("DAEMON_LISTEN_HTTP", format!("unix:{}", path.display()));
    let manager = FakeServiceManager::of(&mut sandbox, 8);
    let mut child = manager.serve(&sandbox);
    let target = sandbox.status().target("http");
    let load = Load::on(target.clone()).new_connections(8).start();
    load.wait_for(200);
    for generation in 2..=3 {
        child.process().kill();
        drop(child);
        load.wait_for(100);
        child = manager.serve(&sandbox);
        load.wait_for_generation(generation);
        assert_eq!(source(&sandbox.status(), "http"), Some("store"));
    }
    load.stop().assert_nothing_failed();
    stop(child);
    assert!(target.accepts() && path.exists());
}

/// After each restart the store has exactly the listeners of the serving generation.
#[test]
fn store_follows_restarts() {
    let mut sandbox = Sandbox::new("http-v3-listeners");
    let manager = FakeServiceManager::of(&mut sandbox, 8);
    let child = manager.serve(&sandbox);
    manager.keeps(&["listen.admin", "listen.http"]);
    let admin = sandbox.status().target("admin");
    sandbox.deploy("http");
    sandbox.restart();
    manager.keeps(&["listen.http"]);
    eventually("the removed listener is closed", SOON, || !admin.accepts());
    sandbox.deploy("http-v3-listeners");
    sandbox.restart();
    manager.keeps(&["listen.admin", "listen.http"]);
    let kept =
        manager.messages().iter().filter(|message| message.contains("FDNAME=listen.http")).count();
    assert_eq!(kept, 1, "{:#?}", manager.messages());
    stop(child);
    // A stored listener that the next start does not declare.
    sandbox.deploy("http");
    let child = manager.serve(&sandbox);
    assert_eq!(manager.stored(), ["listen.http"]);
    assert!(
        sandbox.log().contains("closing the stored socket of listener `admin`"),
        "{}",
        sandbox.log()
    );
    stop(child);
}

/// If a listener's address was changed while the daemon was down, the stored socket is closed before the new
/// one is bound, because they may conflict.
#[test]
fn moved_listener_replaces_the_stored_one() {
    let mut sandbox = Sandbox::new("http");
    let manager = FakeServiceManager::of(&mut sandbox, 8);
    sandbox.set("DAEMON_LISTEN_HTTP", "0.0.0.0:0");
    stop(manager.serve(&sandbox));
    // With port 0 the stored socket keeps its port.
    let child = manager.serve(&sandbox);
    let old = sandbox.status().target("http").tcp();
    stop(child);
    sandbox.set("DAEMON_LISTEN_HTTP", format!("127.0.0.1:{}", old.port()));
    let child = manager.serve(&sandbox);
    let status = sandbox.status();
    assert_eq!(status.target("http").tcp().to_string(), format!("127.0.0.1:{}", old.port()));
    assert_eq!(source(&status, "http"), None);
    let expected =
        format!("it is at {old}, and the listener is now declared at 127.0.0.1:{}", old.port());
    assert!(sandbox.log().contains(&expected), "{}", sandbox.log());
    manager.keeps(&["listen.http"]);
    stop(child);
    let child = manager.serve(&sandbox);
    assert_eq!(source(&sandbox.status(), "http"), Some("store"));
    stop(child);
}

/// A stored unix socket whose file is gone is bound again. If its file exists, it gets the current mode.
#[test]
fn stored_unix_socket_without_its_file_is_bound_again() {
    let mut sandbox = Sandbox::new("http");
    let manager = FakeServiceManager::of(&mut sandbox, 8);
    let path = sandbox.path("http.sock");
    sandbox.set("DAEMON_LISTEN_HTTP", format!("unix:{}", path.display()));
    stop(manager.serve(&sandbox));
    assert!(path.exists());
    sandbox.set("DAEMON_LISTEN_HTTP__MODE", "0600");
    let child = manager.serve(&sandbox);
    let mode = std::fs::metadata(&path).expect("a file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(source(&sandbox.status(), "http"), Some("store"));
    stop(child);
    std::fs::remove_file(&path).expect("a file");
    let child = manager.serve(&sandbox);
    assert!(sandbox.log().contains("set RuntimeDirectoryPreserve=restart"), "{}", sandbox.log());
    assert_eq!(source(&sandbox.status(), "http"), None);
    assert!(sandbox.get("/").expect("a response").text().contains("generation=1"));
    manager.keeps(&["listen.http"]);
    // The file of a socket whose listener got another address is removed.
    sandbox.unset("DAEMON_LISTEN_HTTP__MODE");
    stop(child);
    assert!(path.exists());
    sandbox.set("DAEMON_LISTEN_HTTP", "127.0.0.1:0");
    let child = manager.serve(&sandbox);
    assert!(!path.exists(), "{}", sandbox.log());
    stop(child);
}

/// Without a store nothing is stored. If the store is too small, a warning says which limit to raise.
#[test]
fn too_small_store_is_reported() {
    let mut sandbox = Sandbox::new("http-v3-listeners");
    let manager = FakeServiceManager::of(&mut sandbox, 0);
    let child = manager.serve(&sandbox);
    let targets = ["http", "admin"].map(|name| sandbox.status().target(name));
    stop(child);
    assert!(
        manager.messages().iter().all(|message| !message.contains("FD")),
        "{:#?}",
        manager.messages()
    );
    assert!(!targets.iter().any(Target::accepts));

    sandbox.set("FDSTORE", "1");
    let child = manager.serve(&sandbox);
    assert_eq!(manager.stored(), ["listen.admin"]);
    let expected = "stores only 1 of 2 listeners; raise FileDescriptorStoreMax=";
    assert_eq!(sandbox.log().matches(expected).count(), 1, "{}", sandbox.log());
    stop(child);
}

/// Stored descriptors that cannot be listeners are left alone, or replaced if they have a listener's name.
#[test]
fn unusable_stored_descriptors_are_left_alone() {
    let mut sandbox = Sandbox::new("http");
    let manager = FakeServiceManager::of(&mut sandbox, 8);
    let file = std::fs::File::open("/dev/null").expect("a file");
    manager.store("listen.http", file.try_clone().expect("a file").into());
    manager.store("of-the-program", file.into());
    // If both the store and a unit have a socket for the name, that of the unit is used.
    let socket = TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = socket.local_addr().expect("an address");
    let child = manager.serve(&sandbox);
    assert!(sandbox.log().contains(
        "passed a descriptor that is not a socket as `of-the-program`, which is ignored"
    ));
    manager.keeps(&["listen.http", "of-the-program"]);
    assert!(sandbox.get("/").expect("a response").text().contains("generation=1"));
    stop(child);
    let mut manager = manager;
    manager.units.push(("http".into(), socket.into()));
    let child = manager.serve(&sandbox);
    let status = sandbox.status();
    assert_eq!((status.target("http"), source(&status, "http")), (addr.into(), Some("manager")));
    assert_eq!(manager.stored(), ["of-the-program"]);
    stop(child);
}

/// A start that fails leaves the store, and the file of a unix socket, as they were.
#[test]
fn failed_start_keeps_the_store() {
    let mut sandbox = Sandbox::new("http");
    let manager = FakeServiceManager::of(&mut sandbox, 8);
    let path = sandbox.path("http.sock");
    sandbox.set("DAEMON_LISTEN_HTTP", format!("unix:{}", path.display()));
    stop(manager.serve(&sandbox));
    sandbox.deploy("fails-at-start");
    let output = manager.run(&sandbox).wait(SOON);
    assert_ne!(output.code(), 0, "{output}");
    sandbox.deploy("http");
    let child = manager.serve(&sandbox);
    assert_eq!(source(&sandbox.status(), "http"), Some("store"));
    stop(child);
}
