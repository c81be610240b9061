//! Faults during a drain: clients that send slowly, never read, or have vanished, and workers that are
//! killed. Every drain ends by its deadline, the service continues, and the ledger is right.

#![allow(clippy::expect_used)]

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use unbroken_tests::http::{Connection, Target};
use unbroken_tests::report::ConnectionLedger;
use unbroken_tests::{Child, Load, Process, Report, Sandbox, eventually};

const SOON: Duration = Duration::from_secs(20);

/// The time that a drain with a timeout of one second may take, including the exit of the worker.
const DRAINED: Duration = Duration::from_secs(3);

/// Starts a daemon with a drain timeout of one second.
fn sandbox(fixture: &str, variables: &[(&str, &str)]) -> (Sandbox, Target) {
    let mut sandbox = Sandbox::new(fixture);
    sandbox.set("DAEMON_DRAIN_TIMEOUT", "1s");
    for (name, value) in variables {
        sandbox.set(name, *value);
    }
    let target = sandbox.start().listeners[0].addr.parse().expect("an address");
    (sandbox, target)
}

/// Runs `restart` or `stop`, which must end by the drain deadline. Returns the ledger.
#[track_caller]
fn drain(sandbox: &Sandbox, verb: &str) -> ConnectionLedger {
    let begun = Instant::now();
    let output = sandbox.verb([verb, "--json"]).expect_code(0);
    let took = begun.elapsed();
    assert!(took < DRAINED, "{took:?}: {output}");
    let report: Report = serde_json::from_str(&output.stdout).expect("a report");
    report.ledger().assert_balanced();
    assert_eq!((report.ledger().open, report.ledger().lost), (0, 0), "{report:?}");
    report.ledger().clone()
}

fn open(target: &Target, count: usize) -> Vec<Connection> {
    (0..count).map(|_| Connection::open(target).expect("a connection")).collect()
}

/// Clients that send one byte after the other and never finish, as in the Slowloris attack.
struct Loris {
    stop: std::sync::Arc<AtomicBool>,
    thread: Option<JoinHandle<u64>>,
}

impl Loris {
    /// Sends `first` on each connection, and then a byte every 50 ms.
    fn begin(mut connections: Vec<Connection>, first: &str) -> Loris {
        for connection in &mut connections {
            connection.send(first).expect("a beginning");
        }
        let stop = std::sync::Arc::new(AtomicBool::new(false));
        let stopped = std::sync::Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::SeqCst) {
                connections.iter_mut().for_each(|connection| drop(connection.send("a")));
                // The pause is the slowness under test.
                std::thread::sleep(Duration::from_millis(50));
            }
            connections.iter().filter(|connection| connection.is_quiet()).count() as u64
        });
        Loris { stop, thread: Some(thread) }
    }

    /// Stops sending and returns the number of connections that are still open.
    fn end(mut self) -> u64 {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.take().map_or(0, |thread| thread.join().expect("a thread"))
    }
}

const HALF_A_HEAD: &str = "GET / HTTP/1.1\r\nHost: test\r\nX-Long: ";
const HALF_A_BODY: &str = "POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: 100000\r\n\r\n";

/// Connections with an unfinished head are cut at the deadline if handoff is switched off.
#[test]
fn slow_heads_are_forced_without_handoff() {
    let (sandbox, target) = sandbox("http", &[("DAEMON_HANDOFF", "false")]);
    let load = Load::on(target.clone()).new_connections(2).start();
    let loris = Loris::begin(open(&target, 20), HALF_A_HEAD);
    eventually("they are accepted", SOON, || sandbox.status().serving().connections >= 20);
    let ledger = drain(&sandbox, "restart");
    assert_eq!(ledger.forced, 20, "{ledger:?}");
    load.wait_for_generation(2);
    load.stop().assert_nothing_failed();
    assert_eq!(loris.end(), 0);
    sandbox.stop();
}

/// Connections with an unfinished head are handed off at every restart, and end when the daemon stops.
#[test]
fn slow_heads_are_handed_off() {
    let (sandbox, target) = sandbox("http", &[]);
    let loris = Loris::begin(open(&target, 20), HALF_A_HEAD);
    eventually("they are accepted", SOON, || sandbox.status().serving().connections == 20);
    for _ in 0..2 {
        let ledger = drain(&sandbox, "restart");
        assert_eq!(ledger.handed_off, 20, "{ledger:?}");
    }
    assert_eq!(sandbox.status().serving().connections, 20);
    let ledger = drain(&sandbox, "stop");
    assert_eq!((ledger.received, ledger.handed_off), (20, 0), "{ledger:?}");
    assert_eq!(ledger.forced + ledger.closed, 20, "{ledger:?}");
    assert_eq!(loris.end(), 0);
    sandbox.assert_nothing_left();
}

/// A request with an unfinished body is in flight: its connection is not handed off, and is cut at the
/// deadline.
#[test]
fn slow_bodies_are_forced() {
    for pass in ["true", "false"] {
        let (sandbox, target) = sandbox("http", &[("DAEMON_HANDOFF", pass)]);
        let loris = Loris::begin(open(&target, 20), HALF_A_BODY);
        eventually("in flight", SOON, || sandbox.status().serving().requests_in_flight == 20);
        let ledger = drain(&sandbox, "restart");
        assert_eq!((ledger.forced, ledger.handed_off), (20, 0), "{ledger:?}");
        assert_eq!(loris.end(), 0);
        sandbox.stop();
    }
}

/// Connections of clients that do not read their response are cut at the deadline.
#[test]
fn clients_that_never_read_are_forced() {
    let (sandbox, target) = sandbox("http", &[]);
    let ask = |count| {
        let mut connections = open(&target, count);
        for connection in &mut connections {
            let asked = "GET /large HTTP/1.1\r\nHost: test\r\n\r\n";
            connection.send(asked).expect("a request");
        }
        let begun = || connections.iter().all(|connection| !connection.is_quiet());
        eventually("all are being answered", SOON, begun);
        connections
    };
    let deaf = ask(10);
    let ledger = drain(&sandbox, "restart");
    assert_eq!((ledger.accepted, ledger.forced), (10, 10), "{ledger:?}");
    sandbox.get("/").expect("a response");
    let more = ask(10);
    let ledger = drain(&sandbox, "stop");
    assert_eq!(ledger.forced, 10, "{ledger:?}");
    drop((deaf, more));
    sandbox.assert_nothing_left();
}

/// Clients that have shut down their sending direction, with a request in flight, half a request or none, do
/// not prolong the drain.
#[test]
fn half_closed_clients_do_not_prolong_a_drain() {
    for verb in ["restart", "stop"] {
        let (sandbox, target) = sandbox("http", &[]);
        let mut connections = open(&target, 15);
        for (index, connection) in connections.iter_mut().enumerate() {
            let beginning =
                ["GET /stream HTTP/1.1\r\nHost: test\r\n\r\n", HALF_A_HEAD, ""][index % 3];
            connection.send(beginning).expect("a beginning");
        }
        eventually("in flight", SOON, || sandbox.status().serving().requests_in_flight == 5);
        connections.iter().for_each(|connection| connection.finish().expect("an end"));
        let ledger = drain(&sandbox, verb);
        assert_eq!(ledger.accepted, 15, "{ledger:?}");
        if verb == "restart" {
            sandbox.get("/").expect("a response");
            sandbox.stop();
        }
    }
}

/// Connections of a sync program that end at the moment of the deadline are counted once.
#[test]
fn connections_ending_at_the_deadline_count_once() {
    let (sandbox, target) = sandbox("sync", &[("DAEMON_DRAIN_TIMEOUT", "300ms")]);
    for _ in 0..3 {
        let connections = open(&target, 100);
        eventually("all are accepted", SOON, || sandbox.status().serving().connections == 100);
        let begun = Instant::now();
        let restart = sandbox.spawn(["restart", "--json"]);
        let closing = std::thread::spawn(move || {
            for connection in connections {
                drop(connection);
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        let output = restart.wait(SOON).expect_code(0);
        assert!(begun.elapsed() < DRAINED, "{output}");
        let report: Report = serde_json::from_str(&output.stdout).expect("a report");
        report.ledger().assert_balanced();
        assert_eq!((report.ledger().accepted, report.ledger().lost), (100, 0), "{report:?}");
        assert!(report.ledger().forced > 0, "{report:?}");
        closing.join().expect("a thread");
    }
    sandbox.stop();
}

/// If a worker is killed under load, its connections are counted as lost, and no others. The ledger covers it
/// and its replacement.
#[test]
fn ledger_balances_after_a_kill() {
    let mut sandbox = Sandbox::new("http");
    sandbox.set("DAEMON_BACKOFF_MIN", "10ms");
    let target = sandbox.start().target("http");
    let idle = open(&target, 10);
    let load = Load::on(target).new_connections(4).start();
    load.wait_for(500);
    let worker = sandbox.worker();
    worker.kill();
    eventually("it is replaced", SOON, || {
        sandbox.status().workers.iter().any(|w| w.state == "serving" && w.pid != worker.pid())
    });
    load.wait_for(500);
    let load = load.stop();
    drop(idle);
    let ledger = sandbox.stop().ledger().clone();
    ledger.assert_balanced();
    // Besides the idle connections, those in flight, and those that had ended but were not yet closed.
    assert!((10..=30).contains(&ledger.lost), "{ledger:?}");
    assert!(load.failed() <= 4, "{load}");
    assert!(ledger.requests >= load.ok(), "{ledger:?}: {load}");
    assert!(ledger.accepted >= load.ok() + 10, "{ledger:?}: {load}");
}

/// The ledger is balanced at every restart under load, and its sum agrees with the clients' count.
#[test]
fn ledger_balances_under_load() {
    let (sandbox, target) = sandbox("http", &[]);
    let kept = Load::on(target.clone()).keep_alive(8).start();
    let new = Load::on(target).new_connections(4).start();
    let mut accepted = 0;
    for restart in 1..=5 {
        kept.wait_for(200);
        let ledger = drain(&sandbox, "restart");
        assert_eq!(ledger.forced, 0, "{ledger:?}");
        accepted += ledger.accepted;
        kept.wait_for_generation(restart + 1);
        new.wait_for_generation(restart + 1);
    }
    let (kept, new) = (kept.stop(), new.stop());
    kept.assert_nothing_failed();
    new.assert_nothing_failed();
    accepted += drain(&sandbox, "stop").accepted;
    assert_eq!(accepted, kept.connections + new.connections);
}

/// Peers that vanish because their network goes down cannot be distinguished from slow ones. Their connections are
/// handed off if they are idle, and are cut at the deadline otherwise.
#[test]
fn vanished_peers_do_not_prolong_a_drain() {
    if let Some(missing) = missing_for_a_network() {
        let must = std::env::var_os("UNBROKEN_REQUIRE_ALL").is_some_and(|value| value == "1");
        assert!(!must, "{missing}");
        eprintln!("SKIPPED: vanished_peers_do_not_prolong_a_drain: {missing}");
        return;
    }
    for verb in ["restart", "stop"] {
        let mut sandbox = Sandbox::new("http");
        sandbox.set("DAEMON_DRAIN_TIMEOUT", "1s").set("DAEMON_LISTEN_HTTP", "127.0.0.1:0");
        let image = sandbox.image();
        let script = "ip link set lo up && exec \"$1\" start";
        let arguments = ["--net", "sh", "-c", script, "sh"].map(std::ffi::OsStr::new);
        let arguments = arguments.into_iter().chain([image.as_os_str()]);
        Child::spawn(&mut sandbox.command_of("unshare", arguments)).wait(SOON).expect_code(0);
        let supervisor = sandbox.supervisor();
        let target = sandbox.target("http");
        let (idle, streaming) = in_network_of(&supervisor, move || {
            let mut idle = open(&target, 5);
            for connection in &mut idle {
                connection.get("/").expect("a response");
            }
            let mut streaming = open(&target, 5);
            for connection in &mut streaming {
                let asked = "GET /stream HTTP/1.1\r\nHost: test\r\n\r\n";
                connection.send(asked).expect("a request");
            }
            (idle, streaming)
        });
        eventually("in flight", SOON, || sandbox.status().serving().requests_in_flight == 5);
        let network = format!("--net=/proc/{}/ns/net", supervisor.pid());
        let down = [network.as_str(), "ip", "link", "set", "lo", "down"];
        Child::spawn(&mut sandbox.command_of("nsenter", down)).wait(SOON).expect_code(0);
        let ledger = drain(&sandbox, verb);
        let passed = if verb == "restart" { 5 } else { 0 };
        assert_eq!((ledger.accepted, ledger.handed_off), (10, passed), "{ledger:?}");
        assert!(ledger.forced >= 5, "{ledger:?}");
        if verb == "restart" {
            assert_eq!(sandbox.status().serving().connections, 5);
            let ledger = drain(&sandbox, "stop");
            assert_eq!(ledger.received, 5, "{ledger:?}");
        }
        sandbox.assert_nothing_left();
        drop((idle, streaming));
    }
}

/// Returns what keeps a daemon from getting a network namespace here, if anything does.
fn missing_for_a_network() -> Option<String> {
    let script = "unshare --net sh -c 'ip link set lo up'";
    let tried = std::process::Command::new("sh").args(["-c", script]).output().expect("a shell");
    let text = String::from_utf8_lossy(&tried.stderr).trim().to_owned();
    (!tried.status.success()).then(|| format!("`{script}` needs root and iproute2: {text}"))
}

/// Calls `act` in the network namespace of a process. Sockets stay in the namespace in which they were
/// created.
fn in_network_of<T: Send + 'static>(
    process: &Process,
    act: impl FnOnce() -> T + Send + 'static,
) -> T {
    use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
    let path = format!("/proc/{}/ns/net", process.pid());
    let network = std::fs::File::open(path).expect("its network");
    let thread = std::thread::spawn(move || {
        let kind = Some(LinkNameSpaceType::Network);
        move_into_link_name_space(std::os::fd::AsFd::as_fd(&network), kind).expect("root");
        act()
    });
    thread.join().expect("a thread")
}
