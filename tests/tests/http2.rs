//! HTTP/2 with prior knowledge, on the same listeners as HTTP/1.

#![allow(clippy::expect_used)]

use std::future::Future;
use std::io::Read;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use axum::body::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use unbroken_tests::http::{Connection, Target};
use unbroken_tests::{Child, Load, Report, Sandbox, eventually, skip};

const SOON: Duration = Duration::from_secs(20);

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// An empty SETTINGS frame (RFC 9113 §6.5).
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];

fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(test)
}

/// An HTTP/2 connection.
struct Client {
    requests: SendRequest<Bytes>,
    /// The task that drives the connection and ends with it.
    connection: JoinHandle<Result<(), h2::Error>>,
}

impl Client {
    async fn open(target: &Target) -> Client {
        let Target::Tcp(addr) = target else { panic!("{target} is not TCP") };
        let stream = TcpStream::connect(addr).await.expect("a connection");
        let (requests, connection) = h2::client::handshake(stream).await.expect("a handshake");
        let connection = tokio::spawn(connection);
        Client { requests: requests.ready().await.expect("a connection"), connection }
    }

    fn ask(&mut self, path: &str) -> ResponseFuture {
        let request = axum::http::Request::get(format!("http://test{path}")).body(());
        let (response, _) =
            self.requests.send_request(request.expect("a request"), true).expect("a stream");
        response
    }

    /// Waits for the end of the connection.
    async fn ended(self) {
        let ended = tokio::time::timeout(SOON, self.connection).await.expect("an end in time");
        ended.expect("no panic").expect("an end in order");
    }
}

/// Reads a whole response and returns the generation in it.
async fn generation(response: ResponseFuture) -> u64 {
    let response = response.await.expect("a response");
    assert_eq!(response.status(), 200);
    let mut body = response.into_body();
    let mut text = Vec::new();
    while let Some(data) = body.data().await {
        let data = data.expect("the body");
        body.flow_control().release_capacity(data.len()).expect("a window");
        text.extend_from_slice(&data);
    }
    let text = String::from_utf8(text).expect("text");
    let word = text.split_whitespace().find_map(|word| word.strip_prefix("generation="));
    word.and_then(|word| word.parse().ok()).unwrap_or_else(|| panic!("{text:?}"))
}

fn report(output: unbroken_tests::Output) -> Report {
    let report: Report = serde_json::from_str(&output.stdout).expect("a report");
    report.ledger().assert_balanced();
    report
}

#[test]
fn http1_and_http2_share_a_listener() {
    let sandbox = Sandbox::new("http");
    let target = sandbox.start().target("http");
    run(async {
        let mut client = Client::open(&target).await;
        let streams: Vec<_> = (0..50).map(|_| client.ask("/")).collect();
        for stream in streams {
            assert_eq!(generation(stream).await, 1);
        }
    });
    let mut connection = Connection::open(&target).expect("a connection");
    assert_eq!(connection.get("/").expect("a response").number("generation"), Some(1));
    let ledger = sandbox.stop().ledger().clone();
    ledger.assert_balanced();
    assert_eq!((ledger.accepted, ledger.requests), (2, 51), "{ledger:?}");
}

/// A connection whose protocol is not known yet is handed off, here in the middle of the preface.
#[test]
fn partial_preface_is_handed_off() {
    let sandbox = Sandbox::new("http");
    let target = sandbox.start().target("http");
    let mut connection = Connection::open(&target).expect("a connection");
    for (index, byte) in PREFACE.iter().enumerate() {
        connection.send([*byte]).expect("a byte");
        if index % 8 == 3 {
            eventually("it is accepted", SOON, || sandbox.status().serving().connections == 1);
            assert_eq!(sandbox.restart().ledger().handed_off, 1, "after {} bytes", index + 1);
        }
    }
    connection.send(SETTINGS).expect("settings");
    let mut header = [0; 9];
    connection.read_exact(&mut header).expect("a frame");
    assert_eq!((header[3], header[4]), (4, 0), "settings of the server: {header:?}");
    drop(connection);
    sandbox.stop();
}

/// A connection that begins like the preface and continues otherwise is treated as HTTP/1.
#[test]
fn near_preface_is_http1() {
    let sandbox = Sandbox::new("http");
    let target = sandbox.start().target("http");
    let mut connection = Connection::open(&target).expect("a connection");
    connection.send("PR").expect("the beginning");
    sandbox.restart();
    connection.send("OPFIND / HTTP/1.1\r\nHost: test\r\n\r\n").expect("the rest");
    assert_eq!(connection.response().expect("a response").status, 405);
    assert_eq!(connection.get("/").expect("a response").number("generation"), Some(2));
    sandbox.stop();
}

/// At a restart the stream in flight is finished, and the connection ends after a GOAWAY.
#[test]
fn streams_in_flight_are_finished() {
    let sandbox = Sandbox::new("http");
    let target = sandbox.start().target("http");
    let report = run(async {
        let mut client = Client::open(&target).await;
        let slow = client.ask("/slow");
        eventually("in flight", SOON, || sandbox.status().serving().requests_in_flight == 1);
        let restart = sandbox.spawn(["restart", "--json"]);
        assert_eq!(generation(slow).await, 1);
        client.ended().await;
        assert_eq!(generation(Client::open(&target).await.ask("/")).await, 2);
        report(restart.wait(SOON).expect_code(0))
    });
    let ledger = report.ledger();
    assert_eq!((ledger.accepted, ledger.closed, ledger.handed_off), (1, 1, 0), "{report:?}");
    sandbox.stop();
}

/// At a restart or stop an idle connection gets a GOAWAY at once.
#[test]
fn idle_connections_get_a_goaway_at_once() {
    let sandbox = Sandbox::new("http");
    let target = sandbox.start().target("http");
    run(async {
        let mut client = Client::open(&target).await;
        assert_eq!(generation(client.ask("/")).await, 1);
        let restart = sandbox.spawn(["restart", "--json"]);
        client.ended().await;
        let report = report(restart.wait(SOON).expect_code(0));
        assert_eq!((report.ledger().closed, report.ledger().forced), (1, 0), "{report:?}");
        assert!(report.to_drained_ms.expect("a duration") < 5000.0, "{report:?}");

        let mut client = Client::open(&target).await;
        assert_eq!(generation(client.ask("/")).await, 2);
        let stop = sandbox.spawn(["stop", "--json"]);
        client.ended().await;
        let report = self::report(stop.wait(SOON).expect_code(0));
        assert_eq!((report.ledger().closed, report.ledger().forced), (1, 0), "{report:?}");
    });
}

/// A stream without an end is cut at the drain deadline.
#[test]
fn endless_streams_are_forced() {
    let mut sandbox = Sandbox::new("http");
    sandbox.set("DAEMON_DRAIN_TIMEOUT", "1s");
    let target = sandbox.start().target("http");
    run(async {
        let mut client = Client::open(&target).await;
        let mut body = client.ask("/stream").await.expect("a response").into_body();
        assert!(body.data().await.is_some_and(|data| data.is_ok()));
        let report = sandbox.restart();
        report.ledger().assert_balanced();
        assert_eq!((report.ledger().forced, report.ledger().closed), (1, 0), "{report:?}");
        let took = report.to_drained_ms.expect("a duration");
        assert!((1000.0..4000.0).contains(&took), "{report:?}");
    });
    sandbox.stop();
}

/// Encodes a frame (RFC 9113 §4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Reads the next frame: type, flags and payload.
fn next_frame(connection: &mut Connection) -> std::io::Result<(u8, u8, Vec<u8>)> {
    let mut header = [0; 9];
    connection.read_exact(&mut header)?;
    let mut payload = vec![0; u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize];
    connection.read_exact(&mut payload)?;
    Ok((header[3], header[4], payload))
}

/// A request that a client sent before it received the final GOAWAY is ignored, with its later frames. The
/// request in flight is answered.
#[test]
fn late_requests_are_ignored() {
    let sandbox = Sandbox::new("http");
    let target = sandbox.start().target("http");
    let mut connection = Connection::open(&target).expect("a connection");
    // GET http://test/slow, encoded with the static table of HPACK (RFC 7541, appendix A).
    let request = |stream| frame(1, 5, stream, b"\x82\x86\x44\x05/slow\x41\x04test");
    connection.send([PREFACE, SETTINGS, &request(1)].concat()).expect("a request");
    eventually("in flight", SOON, || sandbox.status().serving().requests_in_flight == 1);
    let restart = sandbox.spawn(["restart", "--json"]);
    let mut body = Vec::new();
    let mut goaways = Vec::new();
    while let Ok((kind, flags, payload)) = next_frame(&mut connection) {
        match (kind, flags) {
            (0, _) => body.extend(payload),
            (6, 0) => {
                let late = [request(3), frame(8, 0, 3, &[0, 0, 0, 9])].concat();
                connection.send([frame(6, 1, 0, &payload), late].concat()).expect("an answer");
            }
            (7, _) => goaways.push((
                u32::from_be_bytes(payload[..4].try_into().expect("a stream")),
                u32::from_be_bytes(payload[4..8].try_into().expect("a code")),
            )),
            _ => {}
        }
    }
    assert_eq!(goaways, [(u32::MAX >> 1, 0), (1, 0)], "last stream and error code");
    assert!(String::from_utf8_lossy(&body).starts_with("generation=1 "), "{body:?}");
    let report = report(restart.wait(SOON).expect_code(0));
    assert_eq!((report.ledger().closed, report.ledger().requests), (1, 1), "{report:?}");
    sandbox.stop();
}

/// Garbage after the preface ends only that connection.
#[test]
fn garbage_after_the_preface_ends_one_connection() {
    let sandbox = Sandbox::new("http");
    let target = sandbox.start().target("http");
    let load = Load::on(target.clone()).keep_alive(4).start();
    for _ in 0..20 {
        let mut connection = Connection::open(&target).expect("a connection");
        connection.send([PREFACE, &[0xff; 200]].concat()).expect("garbage");
        let mut rest = Vec::new();
        // The connection may be reset or closed, with or without a GOAWAY.
        let _ = connection.read_to_end(&mut rest);
    }
    load.wait_for(100);
    load.stop().assert_nothing_failed();
    let report = sandbox.restart();
    report.ledger().assert_balanced();
    sandbox.stop();
}

/// No call of grpcio, which handles GOAWAY as RFC 9113 requires, fails over ten restarts.
#[test]
fn no_call_of_grpcio_fails() {
    let Some(python) = python() else { return };
    let sandbox = Sandbox::new("grpc");
    let target = sandbox.start().target("grpc");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/call_clock.py");
    let mut command = Command::new(python);
    let client = Child::spawn(command.args([script, &target.to_string(), "11"]));
    for _ in 0..10 {
        let before = sandbox.status().serving().ledger.requests;
        eventually("it is called", SOON, || {
            sandbox.status().serving().ledger.requests > before + 100
        });
        sandbox.restart().ledger().assert_balanced();
    }
    let output = client.wait(Duration::from_secs(60)).expect_code(0);
    let report: Value = serde_json::from_str(&output.stdout).expect("JSON");
    assert_eq!(report["failures"], serde_json::json!({}), "{report:#}");
    assert!(report["answers"].as_object().is_some_and(|answers| answers.len() >= 10), "{report:#}");
    eprintln!("grpcio: {report}");
    sandbox.stop();
}

/// Calls of tonic's client fail over restarts only by the race with the end of the connection, which tonic
/// leaves to its caller. The test prints how many.
#[test]
fn calls_of_tonic_fail_only_by_races() {
    use grpc::proto::{Question, clock_client::ClockClient};
    let sandbox = Sandbox::new("grpc");
    let target = sandbox.start().target("grpc");
    run(async {
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{target}"));
        let channel = endpoint.expect("an address").connect_lazy();
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let callers: Vec<_> = (0..8)
            .map(|_| {
                let mut client = ClockClient::new(channel.clone());
                let stopped = stopped.clone();
                tokio::spawn(async move {
                    let (mut answered, mut failures) = (0_u64, Vec::new());
                    while !*stopped.borrow() {
                        match client.now(Question {}).await {
                            Ok(_) => answered += 1,
                            Err(status) => failures.push(status.to_string()),
                        }
                    }
                    (answered, failures)
                })
            })
            .collect();
        for _ in 0..10 {
            let before = sandbox.status().serving().ledger.requests;
            eventually("it is called", SOON, || {
                sandbox.status().serving().ledger.requests > before + 100
            });
            sandbox.restart().ledger().assert_balanced();
        }
        stop.send_replace(true);
        let (mut answered, mut failures) = (0, Vec::new());
        for caller in callers {
            let (more, failed) = caller.await.expect("no panic");
            answered += more;
            failures.extend(failed);
        }
        eprintln!("tonic: {answered} calls answered, {} failed", failures.len());
        assert!(answered > 1000, "{answered}");
        // The connection ended while the call was sent, before it, or before the connection had room
        // for it.
        let raced = |failure: &&String| {
            ["GoAway(b\"\", NO_ERROR, Remote)", "connection closed", "connection was not ready"]
                .iter()
                .any(|race| failure.contains(race))
        };
        let others: Vec<_> = failures.iter().filter(|failure| !raced(failure)).collect();
        assert!(others.is_empty(), "{others:#?}");
    });
    sandbox.stop();
}

/// A stream of answers is finished by the worker that began it.
#[test]
fn stream_of_answers_is_finished() {
    use grpc::proto::{Interval, clock_client::ClockClient};
    let sandbox = Sandbox::new("grpc");
    let target = sandbox.start().target("grpc");
    run(async {
        let address = format!("http://{target}");
        let endpoint = tonic::transport::Endpoint::from_shared(address).expect("an address");
        let mut client = ClockClient::new(endpoint.connect_lazy());
        let ticks = client.ticks(Interval { millis: 20, count: 60 }).await.expect("a stream");
        let mut ticks = ticks.into_inner();
        let first = ticks.message().await.expect("an answer").expect("more");
        let restart = sandbox.spawn(["restart", "--json"]);
        let mut count = 1;
        while let Some(answer) = ticks.message().await.expect("an answer") {
            assert_eq!((answer.generation, answer.pid), (1, first.pid));
            count += 1;
        }
        assert_eq!(count, 60);
        drop((ticks, client));
        let report = report(restart.wait(SOON).expect_code(0));
        assert_eq!((report.ledger().closed, report.ledger().forced), (1, 0), "{report:?}");
    });
    sandbox.stop();
}

/// Finds a Python with grpcio. Reports a skipped test if there is none.
fn python() -> Option<PathBuf> {
    let python = std::env::var_os("UNBROKEN_PYTHON").unwrap_or_else(|| "python3".into());
    let found = Command::new(&python).args(["-c", "import grpc"]).output();
    if !found.is_ok_and(|output| output.status.success()) {
        skip("there is no python3 with grpcio; UNBROKEN_PYTHON names one");
        return None;
    }
    Some(python.into())
}
