//! A listener with several addresses keeps all of them across restarts, upgrades, crashes and the death of
//! the supervisor.

#![allow(clippy::expect_used)]

use std::net::TcpListener;
use std::time::Duration;

use unbroken_tests::http::{Connection, Target};
use unbroken_tests::{FakeServiceManager, Load, Sandbox, Signal, Status, eventually};

const SOON: Duration = Duration::from_secs(20);

fn targets(status: &Status) -> Vec<Target> {
    assert!(status.listeners.iter().all(|it| it.name == "http"), "{:?}", status.listeners);
    status.listeners.iter().map(|it| it.addr.parse().expect("an address")).collect()
}

fn answers(target: &Target) -> String {
    let mut connection = Connection::open(target).expect("a connection");
    connection.get("/").expect("a response").text().to_owned()
}

fn addrs(status: &Status) -> Vec<String> {
    status.listeners.iter().map(|it| it.addr.clone()).collect()
}

fn port(addr: &str) -> &str {
    addr.rsplit_once(':').expect("a port").1
}

/// A listener with an IPv4 address, an IPv6 address and a path keeps all three while workers and the
/// supervisor's image are replaced.
#[test]
fn all_addresses_are_kept() {
    let mut sandbox = Sandbox::new("http");
    let socket = sandbox.path("http.sock");
    sandbox.set("DAEMON_LISTEN_HTTP", format!("127.0.0.1:0, [::1]:0, unix:{}", socket.display()));
    let status = sandbox.start();
    let all = targets(&status);
    assert_eq!(all.len(), 3, "{status:?}");
    let loads: Vec<_> =
        all.iter().map(|it| Load::on(it.clone()).new_connections(2).start()).collect();
    loads.iter().for_each(|load| load.wait_for(50));
    for (generation, image) in [(2, "http-v2"), (3, "http")] {
        sandbox.deploy(image);
        sandbox.restart();
        loads.iter().for_each(|load| load.wait_for_generation(generation));
        assert_eq!(targets(&sandbox.status()), all);
    }
    loads.into_iter().for_each(|load| load.stop().assert_nothing_failed());
    sandbox.worker().kill();
    let serves =
        || sandbox.try_status().is_some_and(|it| it.workers.iter().any(|w| w.state == "serving"));
    eventually("a new worker serves", SOON, serves);
    all.iter().for_each(|it| assert!(answers(it).contains("generation=3")));
    sandbox.stop();
    assert!(!socket.exists());
}

/// `localhost` and an empty host mean both address families, at the same port.
#[test]
fn short_forms_bind_both_families() {
    for fixture in ["http", "solo-http"] {
        for (short, hosts) in [("localhost:0", ["127.0.0.1", "[::1]"]), (":0", ["0.0.0.0", "[::]"])]
        {
            let mut sandbox = Sandbox::new(fixture);
            sandbox.set("DAEMON_LISTEN_HTTP", short);
            let found = addrs(&sandbox.start());
            let chosen = port(&found[0]).to_owned();
            assert_eq!(found, hosts.map(|host| format!("{host}:{chosen}")), "{short}");
            for loopback in ["127.0.0.1", "[::1]"] {
                answers(&format!("{loopback}:{chosen}").parse().expect("an address"));
            }
            if fixture == "http" {
                sandbox.restart();
                assert_eq!(addrs(&sandbox.status()), found);
            }
            sandbox.stop();
        }
    }
}

/// A restart removes an address or adds one. No request to the others fails.
#[test]
fn restart_adds_and_removes_addresses() {
    let mut sandbox = Sandbox::new("http");
    let file = sandbox.path("app.toml");
    let socket = sandbox.path("http.sock");
    let declare = |addrs: &[&str]| {
        let text = format!("listen.http = {addrs:?}");
        std::fs::write(&file, text).expect("a file");
    };
    sandbox.set("DAEMON_CONFIG", file.display().to_string());
    let path = format!("unix:{}", socket.display());
    declare(&["127.0.0.1:0", "[::1]:0", &path]);
    let status = sandbox.start();
    let [v4, v6, unix] = &targets(&status)[..] else { panic!("{status:?}") };
    let loads = [v4, unix].map(|it| Load::on(it.clone()).new_connections(2).start());
    loads.iter().for_each(|load| load.wait_for(50));
    declare(&["127.0.0.1:0", &path]);
    sandbox.restart();
    loads.iter().for_each(|load| load.wait_for_generation(2));
    eventually("it is closed", SOON, || !v6.accepts());
    assert_eq!(targets(&sandbox.status()), [v4.clone(), unix.clone()]);
    // An address that another process holds aborts the restart, and the others continue.
    let taken = TcpListener::bind("[::1]:0").expect("a port");
    let at = taken.local_addr().expect("an address").to_string();
    declare(&["127.0.0.1:0", &path, &at]);
    let reason = sandbox.restart_aborts().reason.unwrap_or_default();
    assert!(reason.contains(&format!("cannot bind listener `http` to {at}")), "{reason}");
    drop(taken);
    sandbox.restart();
    assert!(answers(&at.parse().expect("an address")).contains("generation=4"));
    loads.iter().for_each(|load| load.wait_for_generation(4));
    loads.into_iter().for_each(|load| load.stop().assert_nothing_failed());
    sandbox.stop();
}

/// The service manager's fd store keeps all addresses.
#[test]
fn fd_store_keeps_all_addresses() {
    for fixture in ["http", "solo-http"] {
        let mut sandbox = Sandbox::new(fixture);
        let manager = FakeServiceManager::of(&mut sandbox, 8);
        sandbox.set("DAEMON_LISTEN_HTTP", "127.0.0.1:0,[::1]:0");
        let child = manager.serve(&sandbox);
        let all = targets(&sandbox.status());
        manager.keeps(&["listen.http", "listen.http+1"]);
        child.process().kill();
        drop(child);
        sandbox.kill_all();
        let waiting = all.iter().map(|target| {
            let mut connection = Connection::open(target).expect("a connection");
            connection.send("GET / HTTP/1.1\r\nhost: x\r\n\r\n").expect("sent");
            connection
        });
        let waiting: Vec<_> = waiting.collect();
        let child = manager.serve(&sandbox);
        assert_eq!(targets(&sandbox.status()), all);
        for mut connection in waiting {
            assert_eq!(connection.response().expect("a response").status, 200);
        }
        child.process().signal(Signal::TERM);
        child.wait(SOON).expect_code(0);
    }
}

#[test]
fn orphans_keep_all_addresses() {
    let mut sandbox = Sandbox::new("http");
    sandbox.set("DAEMON_ORPHAN_GRACE", "20s").set("DAEMON_LISTEN_HTTP", "127.0.0.1:0,[::1]:0");
    let all = targets(&sandbox.start());
    let loads: Vec<_> =
        all.iter().map(|it| Load::on(it.clone()).new_connections(2).start()).collect();
    loads.iter().for_each(|load| load.wait_for(50));
    sandbox.supervisor().kill();
    loads.iter().for_each(|load| load.wait_for(50));
    assert_eq!(targets(&sandbox.start()), all);
    loads.iter().for_each(|load| load.wait_for_generation(2));
    loads.into_iter().for_each(|load| load.stop().assert_nothing_failed());
    sandbox.stop();
}
