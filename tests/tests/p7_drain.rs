//! P7: a drain is bounded in time, and the ledger accounts for every connection.

#![allow(clippy::expect_used)]

use std::time::{Duration, Instant};

use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::{Message, WebSocket};
use unbroken_tests::http::Connection;
use unbroken_tests::{Load, Sandbox, Signal, eventually};

const SOON: Duration = Duration::from_secs(20);

/// Opens a connection with a response without an end.
fn stream(sandbox: &Sandbox) -> Connection {
    let mut connection = Connection::open(&sandbox.target("http")).expect("a connection");
    connection.send("GET /stream HTTP/1.1\r\nHost: test\r\n\r\n").expect("a request");
    let mut head = [0; 64];
    std::io::Read::read_exact(&mut connection, &mut head).expect("the stream");
    connection
}

#[test]
fn ledger_counts_every_connection() {
    let sandbox = Sandbox::new("http");
    let target = sandbox.start().target("http");
    let load = Load::on(target.clone()).new_connections(8).requests(1000).run();
    load.assert_nothing_failed();
    let kept = Load::on(target).keep_alive(10).requests(1000).run();
    kept.assert_nothing_failed();
    let report = sandbox.stop();
    let ledger = report.ledger();
    ledger.assert_balanced();
    assert_eq!(ledger.accepted, load.connections + kept.connections, "{ledger:?}");
    assert_eq!(ledger.requests, load.ok() + kept.ok(), "{ledger:?}");
    assert_eq!((ledger.forced, ledger.lost, ledger.open), (0, 0, 0), "{ledger:?}");
}

#[test]
fn deadline_forces_open_streams() {
    let mut sandbox = Sandbox::new("http");
    sandbox.set("DAEMON_DRAIN_TIMEOUT", "1s");
    sandbox.start();
    let mut streams: Vec<_> = (0..5).map(|_| stream(&sandbox)).collect();
    let begun = Instant::now();
    let report = sandbox.restart();
    let took = begun.elapsed();
    assert!(took >= Duration::from_secs(1) && took < Duration::from_secs(4), "{took:?}");
    let ledger = report.ledger();
    ledger.assert_balanced();
    assert_eq!((ledger.accepted, ledger.forced, ledger.lost), (5, 5, 0), "{ledger:?}");
    let drained = report.to_drained_ms.expect("a duration");
    let commit = report.to_commit_ms.expect("a duration");
    assert!((1000.0..4000.0).contains(&drained) && commit < drained, "{report:?}");
    for stream in &mut streams {
        let ended = std::io::copy(stream, &mut std::io::sink());
        assert!(ended.is_ok() || ended.is_err_and(|error| error.raw_os_error() == Some(104)));
    }
    assert_eq!(sandbox.status().workers.len(), 1);
    sandbox.stop();
}

#[test]
fn no_wait_does_not_wait() {
    let sandbox = Sandbox::new("http");
    sandbox.start();
    let _stream = stream(&sandbox);
    let begun = Instant::now();
    sandbox.verb(["restart", "--no-wait"]).expect_code(0);
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    let status = sandbox.status();
    let draining: Vec<_> =
        status.workers.iter().filter(|worker| worker.state == "draining").collect();
    assert_eq!((draining.len(), status.workers.len()), (1, 2), "{status:?}");
    assert_eq!((draining[0].generation, draining[0].connections), (1, 1));
    sandbox.supervisor().signal(Signal::QUIT);
    sandbox.wait_empty(SOON);
    sandbox.assert_nothing_left();
}

/// At a stop the request in flight is finished with `Connection: close`.
#[test]
fn request_in_flight_is_finished_at_a_stop() {
    let sandbox = Sandbox::new("http");
    let target = sandbox.start().target("http");
    let mut connection = Connection::open(&target).expect("a connection");
    connection.send("GET /slow HTTP/1.1\r\nHost: test\r\n\r\n").expect("a request");
    eventually("in flight", SOON, || sandbox.status().serving().requests_in_flight == 1);
    let stop = sandbox.spawn(["stop", "--json"]);
    let response = connection.response().expect("a response");
    assert_eq!((response.status, response.number("generation")), (200, Some(1)));
    assert!(!response.keep_alive, "no `Connection: close`: {:?}", response.headers);
    connection.closed().expect("an end");
    let output = stop.wait(SOON).expect_code(0);
    let report: unbroken_tests::Report = serde_json::from_str(&output.stdout).expect("a report");
    report.ledger().assert_balanced();
    assert_eq!((report.ledger().closed, report.ledger().forced), (1, 0), "{report:?}");
    sandbox.assert_nothing_left();
}

/// After `stop` new connections are refused while the rest drains.
#[test]
fn new_connections_are_refused_after_a_stop() {
    let sandbox = Sandbox::new("http");
    let target = sandbox.start().target("http");
    let slow = Load::on(target.clone()).new_connections(1).paths(["/slow"]).requests(1).start();
    eventually("in flight", SOON, || sandbox.status().serving().requests_in_flight == 1);
    let stop = sandbox.spawn(["stop"]);
    eventually("refused", Duration::from_secs(2), || !target.accepts());
    slow.join().assert_nothing_failed();
    stop.wait(SOON).expect_code(0);
}

#[test]
fn program_that_ignores_the_drain_is_killed() {
    let sandbox = Sandbox::new("ignores-drain");
    sandbox.start();
    for verb in ["restart", "stop"] {
        let begun = Instant::now();
        let output = sandbox.verb([verb, "--json"]).expect_code(0);
        assert!(begun.elapsed() < Duration::from_secs(6), "{output}");
        let report: unbroken_tests::Report = serde_json::from_str(&output.stdout).expect("JSON");
        report.ledger().assert_balanced();
    }
    sandbox.assert_nothing_left();
}

/// A worker that was stopped by a signal is killed at its deadline, and its connections count as lost.
#[test]
fn stopped_worker_is_killed_at_the_deadline() {
    let mut sandbox = Sandbox::new("http");
    sandbox.set("DAEMON_DRAIN_TIMEOUT", "1s");
    sandbox.start();
    let old = sandbox.worker();
    let streams: Vec<_> = (0..3).map(|_| stream(&sandbox)).collect();
    old.signal(Signal::STOP);
    // The supervisor reads the counters of a worker that cannot answer.
    assert_eq!(sandbox.status().serving().connections, 3);
    let report = sandbox.restart();
    report.ledger().assert_balanced();
    assert_eq!((report.ledger().accepted, report.ledger().lost), (3, 3), "{report:?}");
    assert!(!old.is_alive());
    drop(streams);
    sandbox.stop();
}

/// Up to eight generations drain at the same time, and the oldest is forced when there are more.
#[test]
fn eight_generations_drain_at_once() {
    let mut sandbox = Sandbox::new("http");
    sandbox.set("DAEMON_DRAIN_TIMEOUT", "60s");
    sandbox.start();
    let mut streams = Vec::new();
    for _ in 0..11 {
        streams.push(stream(&sandbox));
        sandbox.verb(["restart", "--no-wait"]).expect_code(0);
    }
    // Eight that drain, and the one that serves.
    eventually("eight and the serving one", SOON, || sandbox.status().workers.len() <= 9);
    let status = sandbox.status();
    assert_eq!(status.workers.len(), 9, "{status:?}");
    assert!(status.workers.iter().all(|worker| worker.generation >= 4), "{status:?}");
    sandbox.supervisor().signal(Signal::QUIT);
    sandbox.wait_empty(SOON);
    sandbox.assert_nothing_left();
}

/// WebSockets get their close frames spread over time, not all at once.
#[test]
fn web_sockets_are_closed_with_jitter() {
    let sandbox = Sandbox::new("http");
    let target = sandbox.start().target("http");
    let mut sockets: Vec<_> = (0..40)
        .map(|_| {
            let connection = Connection::open(&target).expect("a connection");
            let url = format!("ws://{target}/ws");
            let (mut socket, _) = tungstenite::client(url, connection).expect("a handshake");
            socket.send(Message::text("hello")).expect("a message");
            assert_eq!(socket.read().expect("its echo"), Message::text("hello"));
            socket
        })
        .collect();
    let restart = sandbox.spawn(["restart", "--json"]);
    // The first ones are closed while the last ones are still open.
    let has_close_frame = |socket: &WebSocket<Connection>| !socket.get_ref().is_quiet();
    eventually("a close frame", SOON, || sockets.iter().any(has_close_frame));
    assert!(!sockets.iter().all(has_close_frame), "all were closed at once");
    for socket in &mut sockets {
        match socket.read().expect("a frame") {
            Message::Close(Some(close)) => assert_eq!(close.code, CloseCode::Restart),
            other => panic!("{other:?}"),
        }
    }
    let output = restart.wait(SOON).expect_code(0);
    let report: unbroken_tests::Report = serde_json::from_str(&output.stdout).expect("a report");
    report.ledger().assert_balanced();
    assert_eq!((report.ledger().closed, report.ledger().finished), (40, 0), "{report:?}");
    sandbox.stop();
}

/// Tasks of `Daemon::spawn` that wait for the drain can send a farewell before the worker ends.
#[test]
fn tracked_tasks_say_goodbye() {
    let sandbox = Sandbox::new("echo");
    let target = sandbox.start().target("echo");
    let mut connection = Connection::open(&target).expect("a connection");
    let line = |connection: &mut Connection, text: &str, answer: &str| {
        connection.send(text).expect("a line");
        let mut read = vec![0; answer.len()];
        std::io::Read::read_exact(connection, &mut read).expect("its echo");
        assert_eq!(String::from_utf8_lossy(&read), answer);
    };
    line(&mut connection, "hello\n", "1 hello\n");
    let restart = sandbox.spawn(["restart", "--json"]);
    line(&mut connection, "", "bye\n");
    connection.closed().expect("an end");
    let output = restart.wait(SOON).expect_code(0);
    let report: unbroken_tests::Report = serde_json::from_str(&output.stdout).expect("a report");
    report.ledger().assert_balanced();
    assert_eq!(report.ledger().accepted, 1);
    let mut connection = Connection::open(&target).expect("a connection");
    line(&mut connection, "hello\n", "2 hello\n");
    drop(connection);
    sandbox.stop();
}

/// The worker of a sync program drains until its threads have ended with their clients.
#[test]
fn sync_worker_drains_until_its_threads_end() {
    let sandbox = Sandbox::new("sync");
    let target = sandbox.start().target("echo");
    let mut old = Connection::open(&target).expect("a connection");
    let line = |connection: &mut Connection, text: &str, answer: &str| {
        connection.send(text).expect("a line");
        let mut read = vec![0; answer.len()];
        std::io::Read::read_exact(connection, &mut read).expect("its echo");
        assert_eq!(String::from_utf8_lossy(&read), answer);
    };
    line(&mut old, "a\n", "1 a\n");
    sandbox.verb(["restart", "--no-wait"]).expect_code(0);
    line(&mut old, "b\n", "1 b\n");
    let mut new = Connection::open(&target).expect("a connection");
    line(&mut new, "c\n", "2 c\n");
    drop((old, new));
    eventually("the old worker is gone", SOON, || sandbox.status().workers.len() == 1);
    sandbox.stop();
}

/// If a sync `main` returns without joining its threads, their connections may go on until the deadline.
#[test]
fn unjoined_threads_have_until_the_deadline() {
    let sandbox = Sandbox::new("sync-hasty");
    let target = sandbox.start().target("echo");
    let mut old = Connection::open(&target).expect("a connection");
    let line = |connection: &mut Connection, text: &str| {
        connection.send(text).expect("a line");
        let mut read = [0; 4];
        std::io::Read::read_exact(connection, &mut read).expect("its echo");
        String::from_utf8_lossy(&read).into_owned()
    };
    assert_eq!(line(&mut old, "a\n"), "1 a\n");
    sandbox.verb(["restart", "--no-wait"]).expect_code(0);
    // The old worker accepts until it has received its order.
    eventually("the new one has a connection", SOON, || {
        let mut new = Connection::open(&target).expect("a connection");
        let answer = line(&mut new, "b\n");
        assert!(["1 b\n", "2 b\n"].contains(&&*answer), "{answer}");
        answer == "2 b\n"
    });
    assert_eq!(line(&mut old, "c\n"), "1 c\n");
    drop(old);
    eventually("the old worker is gone", SOON, || sandbox.status().workers.len() == 1);
    sandbox.stop();
}
