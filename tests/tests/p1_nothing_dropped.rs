//! P1: no request fails under load over many restarts.

#![allow(clippy::expect_used)]

use std::time::{Duration, Instant};

use unbroken_tests::http::Connection;
use unbroken_tests::{Load, Sandbox, Signal, eventually};

const SOON: Duration = Duration::from_secs(20);

/// No request fails over restarts between two binaries, under several kinds of load at once.
#[test]
fn no_request_fails_over_restarts() {
    let sandbox = Sandbox::new("http");
    let target = sandbox.start().target("http");
    let loads = [
        Load::on(target.clone()).keep_alive(8).start(),
        Load::on(target.clone()).new_connections(8).start(),
        // Mostly idle connections, which a server may be tempted to close.
        Load::on(target).keep_alive(50).pause(Duration::from_millis(20)).start(),
    ];
    let requests = || loads.iter().map(|load| load.progress().finished()).sum::<u64>();
    let mut restarts = 0;
    while restarts < 12 || requests() < 50_000 {
        sandbox.deploy(if restarts % 2 == 0 { "http-v2" } else { "http" });
        loads.iter().for_each(|load| load.wait_for(100));
        let report = sandbox.restart();
        let generation = report.generation.expect("a generation");
        report.ledger().assert_balanced();
        assert_eq!((report.ledger().forced, report.ledger().lost), (0, 0), "{report:?}");
        loads.iter().for_each(|load| load.wait_for_generation(generation));
        restarts += 1;
    }
    let ledgers = loads.map(|load| load.stop());
    for ledger in &ledgers {
        ledger.assert_nothing_failed();
        assert_eq!(ledger.generations().len(), restarts + 1, "{ledger}");
        assert!(ledger.generations().is_sorted(), "a generation came back\n{ledger}");
    }
    assert!(ledgers.iter().map(|ledger| ledger.ok()).sum::<u64>() >= 50_000);
    sandbox.stop();
}

/// Requests that take longer than a restart are finished by the worker that received them.
#[test]
fn slow_requests_in_flight_are_finished() {
    let sandbox = Sandbox::new("http");
    let target = sandbox.start().target("http");
    let kept = Load::on(target.clone()).keep_alive(6).paths(["/slow"]).start();
    let new = Load::on(target).new_connections(6).paths(["/slow"]).start();
    for restart in 0..4 {
        sandbox.deploy(if restart % 2 == 0 { "http-v2" } else { "http" });
        for load in [&kept, &new] {
            let all = |progress: &unbroken_tests::load::Progress| progress.in_flight() == 6;
            assert!(load.progress().wait(Instant::now() + SOON, all));
        }
        sandbox.restart().ledger().assert_balanced();
    }
    for ledger in [kept.stop(), new.stop()] {
        ledger.assert_nothing_failed();
        assert!(ledger.max() < Duration::from_secs(5), "{ledger}");
    }
    sandbox.stop();
}

/// No request fails over a unix socket either.
#[test]
fn no_request_fails_over_a_unix_socket() {
    let mut sandbox = Sandbox::new("http");
    let socket = format!("unix:{}", sandbox.path("http.sock").display());
    sandbox.set("DAEMON_LISTEN_HTTP", socket.clone());
    let target = sandbox.start().target("http");
    assert_eq!(target.to_string(), socket);
    let loads = [
        Load::on(target.clone()).keep_alive(8).start(),
        Load::on(target).new_connections(8).start(),
    ];
    for _ in 0..5 {
        loads.iter().for_each(|load| load.wait_for(500));
        sandbox.restart();
    }
    loads.into_iter().for_each(|load| load.stop().assert_nothing_failed());
    sandbox.stop();
}

/// Connections in the accept queue wait there through a restart.
#[test]
fn queued_connections_survive_a_restart() {
    let sandbox = Sandbox::new("http");
    let target = sandbox.start().target("http");
    let old = sandbox.worker();
    old.signal(Signal::STOP);
    let load = Load::on(target).new_connections(20).requests(20).start();
    let all = |progress: &unbroken_tests::load::Progress| progress.connections() == 20;
    assert!(load.progress().wait(Instant::now() + SOON, all));
    let restart = sandbox.spawn(["restart", "--json", "--no-wait"]);
    eventually("a new worker serves", SOON, || {
        sandbox.status().workers.iter().any(|worker| worker.pid != old.pid())
    });
    old.kill();
    restart.wait(SOON);
    load.join().assert_nothing_failed();
    sandbox.stop();
}

/// Clients that have connected, have sent half a head, or are idle get their response after a restart.
#[test]
fn unhurried_clients_are_answered() {
    let sandbox = Sandbox::new("http");
    let target = sandbox.start().target("http");
    let mut silent = Connection::open(&target).expect("a connection");
    let mut halfway = Connection::open(&target).expect("a connection");
    halfway.send("GET / HTTP/1.1\r\nHos").expect("half a head");
    // Both have been accepted once a later connection is answered.
    let mut idle = Connection::open(&target).expect("a connection");
    assert_eq!(idle.get("/").expect("a response").number("generation"), Some(1));
    eventually("all are accepted", SOON, || sandbox.status().serving().connections == 3);

    sandbox.verb(["restart", "--no-wait"]).expect_code(0);
    halfway.send("t: test\r\n\r\n").expect("the rest");
    assert_eq!(halfway.response().expect("a response").status, 200);
    assert_eq!(silent.get("/").expect("a response").status, 200);
    sandbox.stop();
}

/// Restarts that are requested during a restart are coalesced, and every caller gets an answer.
#[test]
fn concurrent_restarts_are_coalesced() {
    let sandbox = Sandbox::new("http");
    let target = sandbox.start().target("http");
    let load = Load::on(target).keep_alive(4).start();
    let restarts: Vec<_> = (0..10).map(|_| sandbox.spawn(["restart", "--json"])).collect();
    for restart in restarts {
        restart.wait(Duration::from_secs(40)).expect_code(0);
    }
    let generation = sandbox.status().generation();
    assert!((2..=11).contains(&generation), "{generation}");
    load.wait_for_generation(generation);
    load.stop().assert_nothing_failed();
    assert_eq!(sandbox.status().workers.len(), 1);
    sandbox.stop();
}

/// At a restart a WebSocket gets a close frame with a status code.
#[test]
fn web_sockets_get_a_close_frame() {
    let sandbox = Sandbox::new("http");
    let target = sandbox.start().target("http");
    let mut socket = Connection::open(&target).expect("a connection");
    socket
        .send(
            "GET /ws HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
        )
        .expect("an upgrade");
    assert_eq!(socket.response().expect("a response").status, 101);
    let mut echo = [0; 4];
    let mut say_hi = |socket: &mut Connection| {
        use std::io::Read;
        // A text frame with an all-zero mask.
        socket.send(b"\x81\x82\0\0\0\0hi").expect("a frame");
        socket.read_exact(&mut echo).expect("its echo");
        assert_eq!(&echo, b"\x81\x02hi");
    };
    say_hi(&mut socket);
    let restart = sandbox.spawn(["restart", "--json"]);
    let mut close = [0; 4];
    std::io::Read::read_exact(&mut socket, &mut close).expect("a close frame");
    // Close, 9 bytes: 1012 (service restart) and a reason.
    assert_eq!(close, [0x88, 9, 0x03, 0xf4]);
    drop(socket);
    restart.wait(SOON).expect_code(0);
    sandbox.stop();
}
