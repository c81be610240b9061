//! P2: connections without a request in flight are handed off to the new worker, and the client does not
//! notice.

#![allow(clippy::expect_used)]

use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use unbroken_tests::http::Connection;
use unbroken_tests::{Load, Sandbox, eventually};

const SOON: Duration = Duration::from_secs(20);

/// Each of thousands of idle connections stays open over 20 restarts and is answered.
#[test]
fn thousands_of_idle_connections_stay_open() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    setrlimit(Resource::Nofile, raised).expect("a limit of descriptors");
    let wanted = 5_000;
    assert!(limit.maximum.is_none_or(|limit| limit > 2 * wanted), "`ulimit -Hn` is too low");

    let sandbox = Sandbox::new("http");
    let target = sandbox.start().target("http");
    let mut connections: Vec<_> = (0..wanted)
        .map(|_| {
            let mut connection = Connection::open(&target).expect("a connection");
            assert_eq!(connection.get("/").expect("a response").number("generation"), Some(1));
            connection
        })
        .collect();
    for restart in 1..=20 {
        sandbox.deploy(if restart % 2 == 0 { "http" } else { "http-v2" });
        let report = sandbox.restart();
        let ledger = report.ledger();
        ledger.assert_balanced();
        let new = if restart == 1 { ledger.accepted } else { ledger.received };
        assert_eq!((new, ledger.handed_off), (wanted, wanted), "{report:?}");
    }
    for connection in &mut connections {
        assert!(connection.is_quiet(), "it received something, or was closed");
        let response = connection.get("/").expect("a response");
        assert_eq!(response.number("generation"), Some(21));
        assert!(response.keep_alive);
    }
    assert_eq!(sandbox.status().serving().connections, wanted);
    drop(connections);
    sandbox.stop();
}

/// Busy clients keep their connections over 20 restarts.
#[test]
fn busy_clients_never_reconnect() {
    let sandbox = Sandbox::new("http");
    let target = sandbox.start().target("http");
    let load = Load::on(target).keep_alive(64).start();
    for restart in 0..20 {
        sandbox.deploy(if restart % 2 == 0 { "http-v2" } else { "http" });
        load.wait_for(300);
        let report = sandbox.restart();
        report.ledger().assert_balanced();
        load.wait_for_generation(report.generation.expect("a generation"));
    }
    let ledger = load.stop();
    ledger.assert_nothing_failed();
    assert_eq!(ledger.connections, 64, "{ledger}");
    assert_eq!((ledger.told_to_close, ledger.idle_closed), (0, 0), "{ledger}");
    sandbox.stop();
}

/// Connections without a request yet, with half a head, and with half a second request are handed off with
/// the bytes that were read.
#[test]
fn half_a_request_is_handed_off() {
    let sandbox = Sandbox::new("http");
    let target = sandbox.start().target("http");
    let mut silent = Connection::open(&target).expect("a connection");
    let mut halfway = Connection::open(&target).expect("a connection");
    halfway.send("GET / HTTP/1.1\r\nHos").expect("half a head");
    let mut again = Connection::open(&target).expect("a connection");
    assert_eq!(again.get("/").expect("a response").number("generation"), Some(1));
    again.send("GET / HT").expect("half a line");
    eventually("all are accepted", SOON, || sandbox.status().serving().connections == 3);

    let report = sandbox.restart();
    assert_eq!(report.ledger().handed_off, 3, "{report:?}");
    halfway.send("t: test\r\n\r\n").expect("the rest");
    again.send("TP/1.1\r\nHost: test\r\n\r\n").expect("the rest");
    for connection in [&mut halfway, &mut again] {
        let response = connection.response().expect("a response");
        assert_eq!((response.number("generation"), response.keep_alive), (Some(2), true));
    }
    assert_eq!(silent.get("/").expect("a response").number("generation"), Some(2));
    sandbox.stop();
}

/// A request that is sent one byte at a time across three restarts is answered.
#[test]
fn slow_writer_is_answered() {
    let sandbox = Sandbox::new("http");
    let target = sandbox.start().target("http");
    let mut connection = Connection::open(&target).expect("a connection");
    let request = b"GET / HTTP/1.1\r\nHost: test\r\nX-Long: aaaaaaaaaaaaaaaaaaaaaaaaaa\r\n\r\n";
    let mut restarts = 0;
    let begun = Instant::now();
    for (index, byte) in request.iter().enumerate() {
        connection.send([*byte]).expect("a byte");
        if index > 0 && index % 20 == 0 {
            sandbox.restart();
            restarts += 1;
        }
        // The pause is the slowness under test.
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(restarts >= 3 && begun.elapsed() > Duration::from_secs(3));
    let response = connection.response().expect("a response");
    assert_eq!(response.number("generation"), Some(restarts + 1));
    sandbox.stop();
}

/// Pipelined requests are all answered, in order and once, across restarts.
#[test]
fn pipelined_requests_are_answered_in_order() {
    let sandbox = Sandbox::new("http");
    let target = sandbox.start().target("http");
    let mut connection = Connection::open(&target).expect("a connection");
    let request = "GET / HTTP/1.1\r\nHost: test\r\n\r\n";
    for round in 1..=10 {
        let ahead: String = std::iter::repeat_n(request, 50).collect();
        connection.send(ahead).expect("requests");
        let restart = sandbox.spawn(["restart"]);
        let mut last = 0;
        for _ in 0..50 {
            let response = connection.response().expect("a response");
            let generation = response.number("generation").expect("a generation");
            assert!(response.keep_alive && generation >= last, "{round}: {generation} < {last}");
            last = generation;
        }
        restart.wait(SOON).expect_code(0);
    }
    sandbox.stop();
}

/// A request in flight is answered by the old worker, and then its connection is handed off.
#[test]
fn connection_is_handed_off_after_its_response() {
    let sandbox = Sandbox::new("http");
    let target = sandbox.start().target("http");
    let mut connection = Connection::open(&target).expect("a connection");
    connection.send("GET /slow HTTP/1.1\r\nHost: test\r\n\r\n").expect("a request");
    eventually("in flight", SOON, || sandbox.status().serving().requests_in_flight == 1);
    let restart = sandbox.spawn(["restart", "--json"]);
    let response = connection.response().expect("a response");
    assert_eq!((response.number("generation"), response.keep_alive), (Some(1), true));
    let output = restart.wait(SOON).expect_code(0);
    let report: unbroken_tests::Report = serde_json::from_str(&output.stdout).expect("a report");
    assert_eq!(report.ledger().handed_off, 1, "{report:?}");
    assert_eq!(connection.get("/").expect("a response").number("generation"), Some(2));
    sandbox.stop();
}

/// Connections that the peer asked to close are not handed off. An upload is read by the old worker, and its
/// connection handed off afterwards.
#[test]
fn closing_peers_are_not_handed_off() {
    let sandbox = Sandbox::new("http");
    let target = sandbox.start().target("http");
    let mut old = Connection::open(&target).expect("a connection");
    old.send("GET /slow HTTP/1.0\r\n\r\n").expect("a request");
    let mut closing = Connection::open(&target).expect("a connection");
    closing
        .send("GET /slow HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
        .expect("a request");
    let mut upload = Connection::open(&target).expect("a connection");
    upload
        .send("POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\n\r\n01234")
        .expect("half a request");
    eventually("in flight", SOON, || sandbox.status().serving().requests_in_flight == 3);
    let restart = sandbox.spawn(["restart", "--json"]);
    eventually("it drains", SOON, || sandbox.status().generation == Some(2));
    upload.send("56789").expect("the rest");
    assert_eq!(upload.response().expect("a response").text(), "0123456789");
    for connection in [&mut old, &mut closing] {
        assert_eq!(connection.response().expect("a response").number("generation"), Some(1));
        connection.closed().expect("an end");
    }
    assert_eq!(upload.get("/").expect("a response").number("generation"), Some(2));
    let output = restart.wait(SOON).expect_code(0);
    let report: unbroken_tests::Report = serde_json::from_str(&output.stdout).expect("a report");
    report.ledger().assert_balanced();
    assert_eq!((report.ledger().handed_off, report.ledger().accepted), (1, 3), "{report:?}");
    sandbox.stop();
}

/// With `pass_connections = false` an idle connection gets one more response with `Connection: close`.
#[test]
fn no_handoff_when_switched_off() {
    let mut sandbox = Sandbox::new("http");
    sandbox.set("DAEMON_HANDOFF", "false");
    let target = sandbox.start().target("http");
    let mut connection = Connection::open(&target).expect("a connection");
    connection.get("/").expect("a response");
    let restart = sandbox.spawn(["restart", "--json"]);
    eventually("it drains", SOON, || sandbox.status().generation == Some(2));
    let response = connection.get("/").expect("a response");
    assert_eq!((response.number("generation"), response.keep_alive), (Some(1), false));
    connection.closed().expect("an end");
    let output = restart.wait(SOON).expect_code(0);
    let report: unbroken_tests::Report = serde_json::from_str(&output.stdout).expect("a report");
    assert_eq!((report.ledger().handed_off, report.ledger().closed), (0, 1), "{report:?}");
    sandbox.stop();
}

/// Connections over a unix socket are handed off.
#[test]
fn unix_connections_are_handed_off() {
    let mut sandbox = Sandbox::new("http");
    sandbox.set("DAEMON_LISTEN_HTTP", format!("unix:{}", sandbox.path("http.sock").display()));
    let target = sandbox.start().target("http");
    let mut connection = Connection::open(&target).expect("a connection");
    for generation in 1..=5 {
        let response = connection.get("/").expect("a response");
        assert_eq!(response.number("generation"), Some(generation));
        sandbox.restart();
    }
    sandbox.stop();
}

/// If the new worker is killed during the handoff, connections that it had not accepted yet are served.
#[test]
fn death_of_the_new_worker_loses_only_what_it_accepted() {
    let mut sandbox = Sandbox::new("http");
    sandbox.set("DAEMON_BACKOFF_MIN", "10ms");
    let target = sandbox.start().target("http");
    let mut connections: Vec<_> = (0..500)
        .map(|_| {
            let mut connection = Connection::open(&target).expect("a connection");
            connection.get("/").expect("a response");
            connection
        })
        .collect();
    let old = sandbox.worker();
    let restart = sandbox.spawn(["restart", "--json"]);
    eventually("another worker", SOON, || {
        sandbox.status().workers.iter().any(|w| w.generation == 2)
    });
    let new = sandbox.status().workers.into_iter().find(|worker| worker.generation == 2);
    if let Some(new) = new.and_then(|worker| unbroken_tests::Process::open(worker.pid)) {
        new.kill();
    }
    restart.wait(SOON);
    assert!(old.wait_gone(SOON) || sandbox.status().generation == Some(1));
    // Connections that the killed worker had accepted are lost; all others are answered.
    let (mut answered, mut lost) = (0, 0);
    for connection in &mut connections {
        match connection.get("/") {
            Ok(response) => {
                assert_eq!(response.status, 200);
                answered += 1;
            }
            Err(_) => lost += 1,
        }
    }
    let taken = sandbox.log();
    assert_eq!(answered + lost, 500, "{taken}");
    assert_eq!(sandbox.status().serving().connections, answered, "{taken}");
    sandbox.stop();
}

/// A connection whose peer address is not UTF-8 is not handed off, and the others are.
#[test]
fn peer_with_a_non_utf8_address_is_not_handed_off() {
    use std::os::unix::ffi::OsStrExt;
    let mut sandbox = Sandbox::new("http");
    let path = sandbox.path("http.sock");
    sandbox.set("DAEMON_LISTEN_HTTP", format!("unix:{}", path.display()));
    sandbox.set("DAEMON_DRAIN_TIMEOUT", "2s");
    let target = sandbox.start().target("http");
    let odd = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None);
    let odd = odd.expect("a socket");
    let name = sandbox.dir().join(std::ffi::OsStr::from_bytes(b"\xff\xfe.sock"));
    odd.bind(&socket2::SockAddr::unix(&name).expect("an address")).expect("a name");
    odd.connect(&socket2::SockAddr::unix(&path).expect("an address")).expect("a connection");
    std::io::Write::write_all(&mut &odd, b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
        .expect("a request");
    std::io::Read::read_exact(&mut &odd, &mut [0; 64]).expect("a response");
    let mut others: Vec<_> = (0..10)
        .map(|_| {
            let mut connection = Connection::open(&target).expect("a connection");
            connection.get("/").expect("a response");
            connection
        })
        .collect();
    let report = sandbox.restart();
    let ledger = report.ledger();
    ledger.assert_balanced();
    assert_eq!((ledger.accepted, ledger.handed_off, ledger.forced), (11, 10, 1), "{ledger:?}");
    for connection in &mut others {
        assert_eq!(connection.get("/").expect("a response").number("generation"), Some(2));
    }
    drop((odd, others));
    sandbox.stop();
}
