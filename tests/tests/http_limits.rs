//! The limits of HTTP listeners: clients that exceed a limit are closed, wait or are refused, and others are
//! served.

#![allow(clippy::expect_used)]

use std::io::Read;
use std::time::Duration;

use unbroken_tests::http::{Connection, Target};
use unbroken_tests::{Load, Sandbox, Signal, eventually};

const SOON: Duration = Duration::from_secs(20);

/// Starts a daemon whose listener has these limits.
fn sandbox(limits: &[(&str, &str)]) -> (Sandbox, Target) {
    let mut sandbox = Sandbox::new("http");
    for (key, value) in limits {
        sandbox.set(&format!("DAEMON_LISTEN_HTTP__{}", key.to_uppercase()), *value);
    }
    let target = sandbox.start().target("http");
    (sandbox, target)
}

fn used(target: &Target) -> Connection {
    let mut connection = Connection::open(target).expect("a connection");
    assert!(connection.get("/").expect("a response").keep_alive);
    connection
}

#[track_caller]
fn open_connections(sandbox: &Sandbox, count: u64) {
    eventually("so many connections", SOON, || sandbox.status().serving().connections == count);
}

/// Five hundred clients that send half a head are closed after `header_timeout`, while others are served.
#[test]
fn half_heads_are_closed_after_header_timeout() {
    let (sandbox, target) = sandbox(&[("header_timeout", "3s")]);
    let load = Load::on(target.clone()).keep_alive(4).pause(Duration::from_millis(5)).start();
    let mut stalled: Vec<_> = (0..500)
        .map(|number| {
            let mut connection = Connection::open(&target).expect("a connection");
            // Some send nothing, and some begin like an HTTP/2 client.
            let beginning = ["GET / HTTP/1.1\r\nHos", "", "PRI * HTTP/2.0\r\n"][number % 3];
            connection.send(beginning).expect("half a head");
            connection
        })
        .collect();
    let mut again = used(&target);
    again.send("GET / HT").expect("half a line");
    stalled.push(again);
    for connection in &mut stalled {
        connection.closed().expect("the end, and not a word before");
    }
    drop(stalled);
    load.wait_for(100);
    load.stop().assert_nothing_failed();
    open_connections(&sandbox, 0);
    let ledger = sandbox.stop().ledger().clone();
    ledger.assert_balanced();
    assert!(ledger.closed >= 501, "{ledger:?}");
}

/// A handoff does not extend `header_timeout`: the connection ends although generation follows generation.
#[test]
fn handoffs_do_not_extend_header_timeout() {
    let (sandbox, target) = sandbox(&[("header_timeout", "8s")]);
    let mut stalled = Connection::open(&target).expect("a connection");
    stalled.send("GET / HTTP/1.1\r\nHos").expect("half a head");
    open_connections(&sandbox, 1);
    let mut handoffs = 0;
    eventually("the end", Duration::from_secs(120), || {
        handoffs += sandbox.restart().ledger().handed_off;
        !stalled.is_quiet()
    });
    stalled.closed().expect("the end");
    assert!(handoffs > 0, "it was never handed off");
    sandbox.stop();
}

/// A connection is closed after `idle_timeout`. A request that arrives at that moment is answered.
#[test]
fn idle_connections_are_closed_after_idle_timeout() {
    let (short, target) = sandbox(&[("idle_timeout", "1s")]);
    let mut idle = Connection::open(&target).expect("a connection");
    // A request in flight for longer than the timeout is not idle.
    idle.send("GET /slow HTTP/1.1\r\nHost: test\r\n\r\n").expect("a request");
    assert!(idle.response().expect("a response").keep_alive);
    idle.closed().expect("the end");
    open_connections(&short, 0);
    assert_eq!(short.status().serving().ledger.closed, 1);
    short.stop();

    // The timeout passes and a request arrives while the worker is stopped, so it sees both at once.
    let (sandbox, target) = sandbox(&[("idle_timeout", "5s")]);
    let worker = sandbox.worker();
    let mut racing = used(&target);
    worker.signal(Signal::STOP);
    std::thread::sleep(Duration::from_secs(6));
    racing.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n").expect("a request");
    worker.signal(Signal::CONT);
    assert_eq!(racing.response().expect("a response").status, 200);
    racing.closed().expect("the end");
    sandbox.stop().ledger().assert_balanced();
}

/// A connection that is older than `max_connection_age` ends with `Connection: close` in a response.
#[test]
fn old_connections_end_with_a_last_response() {
    let (sandbox, target) = sandbox(&[("max_connection_age", "2s")]);
    let mut connection = Connection::open(&target).expect("a connection");
    let last = |connection: &mut Connection| !connection.get("/").expect("a response").keep_alive;
    eventually("the last response", SOON, || last(&mut connection));
    connection.closed().expect("the end");
    // A restart does not reset the age.
    let mut connection = Connection::open(&target).expect("a connection");
    eventually("the last response", Duration::from_secs(60), || {
        sandbox.restart();
        last(&mut connection)
    });
    sandbox.stop().ledger().assert_balanced();
}

/// Connections above `max_connections` wait in the accept queue, and are served as soon as there is room, by
/// the generation that serves then.
#[test]
fn connections_above_max_connections_wait() {
    let (sandbox, target) = sandbox(&[("max_connections", "2")]);
    let (first, mut second) = (used(&target), used(&target));
    let mut third = Connection::open(&target).expect("a place in the queue");
    third.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n").expect("a request");
    assert!(second.get("/").is_ok() && third.is_quiet());
    assert_eq!(sandbox.status().serving().connections, 2);
    drop(first);
    assert_eq!(third.response().expect("a response").number("generation"), Some(1));
    // The next generation takes connections that are handed off even if one from the queue came first.
    let mut fourth = Connection::open(&target).expect("a place in the queue");
    fourth.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n").expect("a request");
    assert_eq!(sandbox.restart().ledger().handed_off, 2);
    assert_eq!(second.get("/").expect("a response").number("generation"), Some(2));
    drop((second, third));
    assert_eq!(fourth.response().expect("a response").number("generation"), Some(2));
    let (_fifth, _sixth) = (used(&target), Connection::open(&target).expect("a place"));
    open_connections(&sandbox, 2);
    // A connection that waits does not delay a stop.
    sandbox.stop().ledger().assert_balanced();
}

/// A head that is larger than `max_header_bytes` is refused with status 431.
#[test]
fn large_heads_are_refused() {
    let (sandbox, target) = sandbox(&[("max_header_bytes", "2048")]);
    for (length, status) in [(1000, 200), (3000, 431)] {
        let mut connection = Connection::open(&target).expect("a connection");
        let filler = "x".repeat(length);
        let request = format!("GET / HTTP/1.1\r\nHost: test\r\nX-Filler: {filler}\r\n\r\n");
        connection.send(request).expect("a request");
        assert_eq!(connection.response().expect("a response").status, status);
    }
    sandbox.stop();
}

/// `tcp_keepalive` starts the keep-alive timer of TCP, as the kernel's table of sockets shows.
#[test]
fn tcp_keepalive_sets_the_timer() {
    for (value, timer) in [("60s", "02:"), ("0s", "00:")] {
        let (sandbox, target) = sandbox(&[("tcp_keepalive", value)]);
        let _connection = used(&target);
        has_timer(&target, timer);
        sandbox.stop();
    }
}

/// A connection that is handed off gets the keep-alive setting of the new generation.
#[test]
fn handed_off_connections_get_the_new_tcp_keepalive() {
    let mut sandbox = Sandbox::new("http");
    let file = sandbox.path("app.toml");
    sandbox.set("DAEMON_CONFIG", file.display().to_string());
    let say = |value: &str| {
        let text = format!("[listen.http]\ntcp_keepalive = \"{value}\"\n");
        std::fs::write(&file, text).expect("a file");
    };
    say("60s");
    let target = sandbox.start().target("http");
    let mut connection = used(&target);
    for (value, timer) in [("60s", "02:"), ("0s", "00:"), ("60s", "02:")] {
        say(value);
        assert_eq!(sandbox.restart().ledger().handed_off, 1);
        connection.get("/").expect("a response");
        has_timer(&target, timer);
    }
    sandbox.stop();
}

/// Waits until the one connection to `target` has this timer (proc_net_tcp(5)).
fn has_timer(target: &Target, timer: &str) {
    let Target::Tcp(addr) = target else { unreachable!() };
    let local = format!(":{:04X}", addr.port());
    // Until the last response is acknowledged, the retransmit timer is shown instead.
    eventually("that timer", SOON, || {
        let table = std::fs::read_to_string("/proc/net/tcp").expect("the table");
        table
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>())
            .filter(|fields| fields[1].ends_with(&local) && fields[3] == "01")
            .any(|fields| fields[5].starts_with(timer))
    });
}

/// The program can set options for which there is no key, on hyper's own builder.
#[test]
fn program_sets_options_of_hyper() {
    let sandbox = Sandbox::new("http-v3-listeners");
    let target = sandbox.start().target("admin");
    let mut connection = Connection::open(&target).expect("a connection");
    connection
        .send("GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
        .expect("a request");
    let mut response = String::new();
    connection.read_to_string(&mut response).expect("a response");
    assert!(response.contains("\r\nContent-Length: "), "{response}");
    sandbox.stop();
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const PONG: &[u8] = b"\0\0\x08\x06\x01\0\0\0\0";
const SETTINGS: &[u8] = b"\0\0\0\x04\0\0\0\0\0";

/// Reads to the end and returns the last stream and error code of each GOAWAY. Answers pings if `answer` is
/// set.
fn goaways(connection: &mut Connection, answer: bool) -> Vec<(u32, u32)> {
    let number = |bytes: &[u8]| u32::from_be_bytes(bytes.try_into().expect("four bytes"));
    let mut goaways = Vec::new();
    let mut header = [0; 9];
    while connection.read_exact(&mut header).is_ok() {
        let mut payload = vec![0; number(&[0, header[0], header[1], header[2]]) as usize];
        connection.read_exact(&mut payload).expect("a frame");
        match (header[3], header[4]) {
            (6, 0) if answer => {
                let pong = [PONG, &payload].concat();
                connection.send(pong).expect("an answer");
            }
            (7, _) => goaways.push((number(&payload[..4]), number(&payload[4..8]))),
            _ => {}
        }
    }
    goaways
}

/// An HTTP/2 connection that is idle or old ends with two GOAWAYs: the first announces the end, the second
/// names the last stream.
#[test]
fn http2_connections_end_with_two_goaways() {
    for limit in ["idle_timeout", "max_connection_age"] {
        let (sandbox, target) = sandbox(&[(limit, "1s")]);
        let mut connection = Connection::open(&target).expect("a connection");
        connection.send([PREFACE, SETTINGS].concat()).expect("a preface");
        assert_eq!(goaways(&mut connection, true), [(u32::MAX >> 1, 0), (0, 0)], "{limit}");
        // The connection of a client that does not answer the ping ends as well.
        let mut dead = Connection::open(&target).expect("a connection");
        dead.send([PREFACE, SETTINGS].concat()).expect("a preface");
        assert_eq!(goaways(&mut dead, false).first(), Some(&(u32::MAX >> 1, 0)), "{limit}");
        open_connections(&sandbox, 0);
        let ledger = sandbox.stop().ledger().clone();
        ledger.assert_balanced();
        assert_eq!((ledger.closed, ledger.forced), (2, 0), "{ledger:?}");
    }
}

/// An idle HTTP/2 client is pinged repeatedly.
#[test]
fn idle_http2_clients_are_pinged() {
    let (sandbox, target) = sandbox(&[("http2_keepalive", "1s")]);
    let mut connection = Connection::open(&target).expect("a connection");
    connection.send([PREFACE, SETTINGS].concat()).expect("a preface");
    let mut header = [0; 9];
    let mut pings = 0;
    while pings < 3 {
        connection.read_exact(&mut header).expect("a frame");
        let mut payload = vec![0; usize::from(header[2])];
        connection.read_exact(&mut payload).expect("a frame");
        if (header[3], header[4]) == (6, 0) {
            pings += 1;
            let pong = [PONG, &payload].concat();
            connection.send(pong).expect("an answer");
        }
    }
    drop(connection);
    open_connections(&sandbox, 0);
    sandbox.stop();
}
