//! The load against small servers that misbehave on purpose: each outcome must be counted exactly.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::{Ledger, Load, Outcome, Progress};
use crate::http::Target;

const BODY: &str = "HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\ngeneration=1 pid=42\n";

/// Starts a server that handles every connection, numbered from 0, on a thread of its own.
fn server(on_connection: impl Fn(u64, TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let on_connection = Arc::new(on_connection);
    thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let on_connection = Arc::clone(&on_connection);
            let stream = stream.unwrap();
            thread::spawn(move || on_connection(number as u64, stream));
        }
    });
    addr
}

/// Reads one request head. Returns `None` if the client has closed the connection.
fn request(stream: &mut impl Read) -> Option<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).ok()? == 0 {
            return None;
        }
        head.push(byte[0]);
    }
    Some(String::from_utf8(head).unwrap())
}

fn say(stream: &mut impl Write, text: &str) {
    stream.write_all(text.as_bytes()).unwrap();
}

fn reset(stream: TcpStream) {
    rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
}

/// Asserts that the load made `count` requests, all with this outcome.
#[track_caller]
fn assert_all(ledger: &Ledger, outcome: Outcome, count: u64) {
    assert_eq!((ledger.count(outcome), ledger.total()), (count, count), "{outcome:?}\n{ledger}");
}

#[test]
fn each_request_opens_a_connection() {
    let addr = server(|_, mut stream| {
        assert!(request(&mut stream).unwrap().contains("Connection: close"));
        say(&mut stream, BODY);
    });
    let ledger = Load::on(addr).new_connections(4).requests(200).run();
    assert_all(&ledger, Outcome::Ok, 200);
    ledger.assert_nothing_failed();
    assert_eq!(ledger.connections, 200);
    assert_eq!(ledger.latency.len(), 200);
    assert_eq!((ledger.generations(), ledger.responses_of(1)), (vec![1], 200));
    assert_eq!((ledger.seen[0].pid, ledger.seen.len()), (42, 1));
    assert_eq!((ledger.never_closed, ledger.reset_after_response, ledger.told_to_close), (0, 0, 0));
}

#[test]
fn keep_alive_reuses_connections() {
    let addr = server(|_, mut stream| {
        while let Some(head) = request(&mut stream) {
            assert!(!head.contains("Connection"));
            say(&mut stream, BODY);
        }
    });
    let ledger = Load::on(addr).keep_alive(5).requests(500).run();
    assert_all(&ledger, Outcome::Ok, 500);
    assert_eq!(ledger.connections, 5);
}

#[test]
fn refused_connection_is_counted() {
    let addr = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    assert_all(&Load::on(addr).requests(7).run(), Outcome::ConnectRefused, 7);
    assert_all(&Load::on(addr).keep_alive(2).requests(7).run(), Outcome::ConnectRefused, 7);
}

#[test]
fn connect_timeout_is_counted() {
    // The accept queue has room for one connection and no process accepts it: the kernel drops the SYN of
    // the next.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    socket.listen(0).unwrap();
    let addr = socket.local_addr().unwrap().as_socket().unwrap();
    let _queued = TcpStream::connect(addr).unwrap();
    let load = Load::on(addr).connect_timeout(Duration::from_millis(300)).requests(2);
    assert_all(&load.run(), Outcome::ConnectTimeout, 2);
}

#[test]
fn missing_unix_socket_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("none.sock");
    assert_all(&Load::on(path.as_path()).requests(3).run(), Outcome::ConnectOther, 3);
}

#[test]
fn reset_before_the_response_is_counted() {
    let addr = server(|_, mut stream| {
        request(&mut stream);
        reset(stream);
    });
    assert_all(&Load::on(addr).requests(20).run(), Outcome::Reset, 20);
    assert_all(&Load::on(addr).keep_alive(2).requests(20).run(), Outcome::Reset, 20);
}

#[test]
fn close_before_the_response_is_counted() {
    let addr = server(|_, mut stream| {
        request(&mut stream);
    });
    assert_all(&Load::on(addr).requests(20).run(), Outcome::Closed, 20);
    assert_all(&Load::on(addr).keep_alive(2).requests(20).run(), Outcome::Closed, 20);
}

#[test]
fn truncated_response_is_counted() {
    let addr = server(|number, mut stream| {
        request(&mut stream);
        say(&mut stream, &BODY[..BODY.len() - 1]);
        if number % 2 == 0 {
            // A reset discards bytes that the client has not read yet, so the server waits before it resets.
            thread::sleep(Duration::from_millis(200));
            reset(stream);
        }
    });
    assert_all(&Load::on(addr).requests(10).run(), Outcome::Truncated, 10);
    let addr = server(|_, mut stream| {
        request(&mut stream);
        say(&mut stream, "HTTP/1.1 200");
    });
    assert_all(&Load::on(addr).requests(10).run(), Outcome::Truncated, 10);
}

#[test]
fn error_status_is_counted() {
    let addr = server(|_, mut stream| {
        request(&mut stream);
        say(&mut stream, "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy");
    });
    let ledger = Load::on(addr).requests(6).run();
    assert_all(&ledger, Outcome::BadStatus, 6);
    assert!(ledger.to_string().contains("status 503: busy"), "{ledger}");
}

#[test]
fn malformed_response_is_counted() {
    let addr = server(|_, mut stream| {
        request(&mut stream);
        say(&mut stream, "220 mail.example ESMTP\r\n\r\n");
    });
    assert_all(&Load::on(addr).requests(6).run(), Outcome::Malformed, 6);
    let addr = server(|_, mut stream| {
        request(&mut stream);
        say(&mut stream, &format!("{BODY}more"));
    });
    assert_all(&Load::on(addr).requests(6).run(), Outcome::Malformed, 6);
}

#[test]
fn response_timeout_is_counted() {
    let addr = server(|_, mut stream| while request(&mut stream).is_some() {});
    let load = Load::on(addr).timeout(Duration::from_millis(100));
    let ledger = load.clone().requests(3).run();
    assert_all(&ledger, Outcome::Timeout, 3);
    assert!(ledger.quantile(0.5) >= Duration::from_millis(100), "{ledger}");
    assert_all(&load.keep_alive(3).requests(3).run(), Outcome::Timeout, 3);
}

#[test]
fn closed_while_idle_is_no_failure() {
    // The server answers one request per connection, and closes or resets it once the client is idle.
    let addr = server(|number, mut stream| {
        request(&mut stream);
        say(&mut stream, BODY);
        thread::sleep(Duration::from_millis(10));
        if number % 2 == 0 {
            reset(stream);
        }
    });
    let pause = Duration::from_millis(250);
    let ledger = Load::on(addr).keep_alive(1).pause(pause).requests(6).run();
    assert_all(&ledger, Outcome::Ok, 6);
    assert_eq!((ledger.idle_closed, ledger.connections), (5, 6));
    assert_eq!(ledger.ended_by_server(), 5);
}

#[test]
fn closed_on_a_written_request_is_a_failure() {
    // The server answers the first request of each connection, and closes it when it has read the second.
    let addr = server(|_, mut stream| {
        request(&mut stream);
        say(&mut stream, BODY);
        request(&mut stream);
    });
    let ledger = Load::on(addr).keep_alive(1).requests(10).run();
    assert_eq!((ledger.ok(), ledger.count(Outcome::Closed), ledger.total()), (5, 5, 10));
    assert_eq!((ledger.idle_closed, ledger.connections), (0, 5));
    assert!(ledger.to_string().contains("request 2 of the connection"), "{ledger}");
}

#[test]
fn connection_close_is_counted() {
    let addr = server(|_, mut stream| {
        for _ in 0..4 {
            request(&mut stream);
            say(&mut stream, BODY);
        }
        request(&mut stream);
        say(&mut stream, &BODY.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n"));
    });
    let ledger = Load::on(addr).keep_alive(1).requests(50).run();
    assert_all(&ledger, Outcome::Ok, 50);
    assert_eq!((ledger.told_to_close, ledger.connections, ledger.idle_closed), (10, 10, 0));
    assert_eq!(ledger.ended_by_server(), 10);
}

#[test]
fn unsolicited_bytes_are_counted() {
    let addr = server(|_, mut stream| {
        request(&mut stream);
        say(&mut stream, BODY);
        thread::sleep(Duration::from_millis(10));
        say(&mut stream, "HTTP/1.1 408 Request Timeout\r\n\r\n");
    });
    let pause = Duration::from_millis(250);
    let ledger = Load::on(addr).keep_alive(1).pause(pause).requests(5).run();
    assert_all(&ledger, Outcome::Ok, 5);
    assert_eq!((ledger.unsolicited, ledger.connections), (4, 5));
}

#[test]
fn reset_after_the_response_is_counted() {
    let addr = server(|_, mut stream| {
        request(&mut stream);
        say(&mut stream, BODY);
        thread::sleep(Duration::from_millis(30));
        reset(stream);
    });
    let ledger = Load::on(addr).requests(3).run();
    assert_all(&ledger, Outcome::Ok, 3);
    assert_eq!(ledger.reset_after_response, 3);
}

#[test]
fn load_runs_over_a_unix_socket() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("http.sock");
    let listener = UnixListener::bind(&path).unwrap();
    thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let mut stream = stream.unwrap();
            request(&mut stream);
            if number < 10 {
                say(&mut stream, BODY);
            }
        }
    });
    let target: Target = format!("unix:{}", path.display()).parse().unwrap();
    let ledger = Load::on(target).requests(15).run();
    assert_eq!((ledger.ok(), ledger.count(Outcome::Closed), ledger.total()), (10, 5, 15));
}

#[test]
fn paths_are_requested_in_turn() {
    let slow = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&slow);
    let addr = server(move |_, mut stream| {
        while let Some(head) = request(&mut stream) {
            count
                .fetch_add(u64::from(head.starts_with("GET /slow HTTP/1.1\r\n")), Ordering::SeqCst);
            say(&mut stream, BODY);
        }
    });
    let ledger = Load::on(addr).keep_alive(2).paths(["/", "/", "/slow"]).requests(30).run();
    assert_all(&ledger, Outcome::Ok, 30);
    assert_eq!(slow.load(Ordering::SeqCst), 10);
}

#[test]
fn generations_are_listed_in_order() {
    let answered = AtomicU64::new(0);
    let addr = server(move |_, mut stream| {
        request(&mut stream);
        let generation = 1 + answered.fetch_add(1, Ordering::SeqCst) / 10;
        let body = format!("generation={generation} pid={}\n", 100 + generation);
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        say(&mut stream, &(head + &body));
    });
    let load = Load::on(addr).start();
    load.wait_for_generation(3);
    load.wait_for(25);
    let finished = load.progress().finished();
    let ledger = load.stop();
    assert!(ledger.total() >= finished && finished >= 46, "{finished}\n{ledger}");
    assert_eq!(ledger.generations()[..4], [1, 2, 3, 4]);
    assert_eq!(
        (ledger.responses_of(1), ledger.responses_of(2), ledger.responses_of(99_999)),
        (10, 10, 0)
    );
    ledger.assert_nothing_failed();
}

#[test]
fn a_stalled_server_cannot_hide_its_stall() {
    // While one request stalls, all that are due on the same connection are late.
    let served = AtomicU64::new(0);
    let addr = server(move |_, mut stream| {
        while request(&mut stream).is_some() {
            if served.fetch_add(1, Ordering::SeqCst) == 20 {
                thread::sleep(Duration::from_millis(500));
            }
            say(&mut stream, BODY);
        }
    });
    let begun = Instant::now();
    let ledger = Load::on(addr).keep_alive(1).rate(100.0).requests(100).samples().run();
    assert!(begun.elapsed() >= Duration::from_millis(980), "faster than its rate\n{ledger}");
    assert_all(&ledger, Outcome::Ok, 100);
    assert!(ledger.quantile(0.75) >= Duration::from_millis(100), "{ledger}");
    assert!(ledger.max() >= Duration::from_millis(500), "{ledger}");
    assert_eq!(ledger.samples.len(), 100);
    assert!(ledger.samples.is_sorted_by_key(|sample| sample.at));
    assert!(ledger.samples.iter().all(|sample| sample.ok));
}

#[test]
fn stopping_waits_for_what_is_in_flight() {
    let addr = server(|_, mut stream| {
        request(&mut stream);
        thread::sleep(Duration::from_millis(200));
        say(&mut stream, BODY);
    });
    let load = Load::on(addr).new_connections(8).start();
    let soon = Instant::now() + Duration::from_secs(10);
    let all = |progress: &Progress| progress.in_flight() == 8 && progress.connections() == 8;
    assert!(load.progress().wait(soon, all), "{:?}", load.progress());
    assert_all(&load.stop(), Outcome::Ok, 8);
}

#[test]
fn a_slow_rate_stops_at_once() {
    let addr = server(|_, mut stream| {
        request(&mut stream);
        say(&mut stream, BODY);
    });
    let load = Load::on(addr).rate(0.001).start();
    load.wait_for(1);
    let begun = Instant::now();
    assert_all(&load.stop(), Outcome::Ok, 1);
    assert!(begun.elapsed() < Duration::from_secs(5));
}
