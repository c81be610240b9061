//! P8: probes are answered by command and by HTTP, and a lame duck is not ready although it still accepts.

#![allow(clippy::expect_used)]

use std::net::TcpListener;
use std::time::{Duration, Instant};

use unbroken_tests::http::{Connection, Target};
use unbroken_tests::{Child, Load, Process, Sandbox, Signal, eventually};

const SOON: Duration = Duration::from_secs(20);

/// The exit codes of the three probes: live, ready, startup.
fn by_command(sandbox: &Sandbox) -> [i32; 3] {
    ["live", "ready", "startup"].map(|probe| sandbox.verb(["status", "--probe", probe]).code())
}

/// The status codes of the three probes by HTTP.
fn by_http(target: &Target) -> [u16; 3] {
    ["/livez", "/readyz", "/startupz"].map(|path| ask(target, path))
}

fn ask(target: &Target, path: &str) -> u16 {
    let mut connection = Connection::open(target).expect("a connection for a probe");
    let response = connection.get(path).expect("an answer");
    connection.closed().expect("one answer a connection");
    response.status
}

#[track_caller]
fn probe(sandbox: &Sandbox) -> Target {
    sandbox.status().probes[0].parse().expect("an address")
}

fn probing(fixture: &str) -> Sandbox {
    let mut sandbox = Sandbox::new(fixture);
    sandbox.set("DAEMON_PROBE", "127.0.0.1:0");
    sandbox
}

const YES: [u16; 3] = [200, 200, 200];
const STARTING: [u16; 3] = [200, 503, 503];
const LEAVING: [u16; 3] = [200, 503, 200];

#[test]
fn probes_follow_start_and_stop() {
    let sandbox = probing("http");
    assert_eq!(by_command(&sandbox), [1, 1, 1]);
    let output = sandbox.verb(["status", "--probe", "ready"]).expect_code(1);
    assert!(
        output.text().lines().count() == 1 && output.text().contains("is not running"),
        "{output}"
    );
    sandbox.start();
    assert_eq!(by_command(&sandbox), [0, 0, 0]);
    assert_eq!(by_http(&probe(&sandbox)), YES);
    let output = sandbox.verb(["status", "--probe", "ready", "--json"]).expect_code(0);
    let report: serde_json::Value = serde_json::from_str(&output.stdout).expect("JSON");
    assert_eq!((&report["probe"], &report["ok"]), (&"ready".into(), &true.into()), "{output}");
    sandbox
        .verb(["status", "--probe", "well"])
        .expect_code(2)
        .expect_text("live, ready or startup");
    sandbox.stop();
}

#[test]
fn starting_daemon_is_live_but_not_ready() {
    let sandbox = probing("hangs-at-start");
    let _child = sandbox.spawn(["run"]);
    eventually("the daemon answers", SOON, || sandbox.try_status().is_some());
    assert_eq!(by_command(&sandbox), [0, 1, 1]);
    assert_eq!(by_http(&probe(&sandbox)), STARTING);
}

#[test]
fn respawning_worker_is_not_ready() {
    let mut sandbox = probing("http");
    sandbox.set("DAEMON_BACKOFF_MIN", "30s");
    sandbox.start();
    let target = probe(&sandbox);
    sandbox.worker().kill();
    eventually("it is not ready", SOON, || by_http(&target) == LEAVING);
    assert_eq!(by_command(&sandbox), [0, 1, 0]);
    sandbox.stop();
}

/// At SIGTERM readiness fails at once, clients are served for `lame_duck`, and then the drain begins.
#[test]
fn lame_duck_serves_but_is_not_ready() {
    for fixture in ["http", "solo-http"] {
        let mut sandbox = probing(fixture);
        sandbox.set("DAEMON_LAME_DUCK", "3s");
        let child = sandbox.foreground();
        let (status, target) = (sandbox.status(), probe(&sandbox));
        let load =
            Load::on(status.target("http")).new_connections(2).pause(Duration::from_millis(10));
        let load = load.start();
        load.wait_for(20);
        let sent_at = Instant::now();
        Process::open(status.pid).expect("it").signal(Signal::TERM);
        eventually("it is not ready", SOON, || by_http(&target) == LEAVING);
        assert_eq!(by_command(&sandbox), [0, 1, 0], "{fixture}");
        assert_eq!(sandbox.status().state, "lame-duck", "{fixture}");
        sandbox.verb(["status"]).expect_code(0).expect_text("is a lame duck");
        load.wait_for(20);
        // By now the load balancer has stopped sending clients.
        let ledger = load.stop();
        ledger.assert_nothing_failed();
        assert!(
            sent_at.elapsed() < Duration::from_secs(3),
            "the machine is too slow for this test"
        );
        child.wait(SOON).expect_code(0);
        assert!(sent_at.elapsed() >= Duration::from_secs(3), "{fixture}: {:?}", sent_at.elapsed());
        sandbox.assert_nothing_left();
    }
}

#[test]
fn second_signal_ends_a_lame_duck() {
    for fixture in ["http", "solo-http"] {
        let mut sandbox = probing(fixture);
        sandbox.set("DAEMON_LAME_DUCK", "1h");
        let child = sandbox.foreground();
        let daemon = Process::open(sandbox.status().pid).expect("it");
        daemon.signal(Signal::TERM);
        eventually("it is a lame duck", SOON, || sandbox.status().state == "lame-duck");
        sandbox.verb(["status", "--probe", "ready"]).expect_code(1).expect_text("lame duck");
        daemon.signal(Signal::TERM);
        child.wait(SOON).expect_code(0);
        sandbox.wait_empty(SOON);
    }
}

#[test]
fn stop_reports_that_it_waits_for_a_lame_duck() {
    for fixture in ["http", "solo-http"] {
        let mut sandbox = probing(fixture);
        sandbox.set("DAEMON_LAME_DUCK", "2s");
        sandbox.start();
        let output = sandbox.verb(["stop"]).expect_code(0);
        assert!(output.stderr.contains("app: lame duck for 2"), "{output}");
        assert!(output.elapsed >= Duration::from_secs(2), "{output}");
        sandbox.assert_nothing_left();
    }
}

#[test]
fn taken_probe_address_fails_the_start() {
    for fixture in ["http", "solo-http"] {
        let mut sandbox = Sandbox::new(fixture);
        let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
        let addr = taken.local_addr().expect("an address").to_string();
        sandbox.set("DAEMON_PROBE", addr.clone());
        let output = sandbox.verb(["start"]).expect_code(1);
        assert!(output.text().contains(&addr) && output.text().contains("`probe`"), "{output}");
        sandbox.assert_nothing_left();
    }
}

/// A restart changes the address of the probe. An address that cannot be bound aborts the restart, and the
/// old one continues to answer.
#[test]
fn restart_changes_the_probe_address() {
    let mut sandbox = Sandbox::new("http");
    let config = sandbox.path("app.toml");
    sandbox.set("DAEMON_CONFIG", config.display().to_string());
    let write = |text: &str| std::fs::write(&config, text).expect("a file");
    write("probe = \"127.0.0.1:0\"\n");
    sandbox.start();
    let first = probe(&sandbox);

    // An upgrade of the supervisor keeps the address.
    sandbox.deploy("http-v2");
    sandbox.restart();
    assert_eq!(probe(&sandbox), first);
    assert_eq!(by_http(&first), YES);

    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = taken.local_addr().expect("an address");
    write(&format!("probe = \"{addr}\"\n"));
    let reason = sandbox.restart_aborts().reason.expect("a reason");
    assert!(reason.contains(&addr.to_string()), "{reason}");
    assert_eq!((probe(&sandbox), by_http(&first)), (first.clone(), YES));
    drop(taken);

    sandbox.restart();
    assert_eq!(probe(&sandbox), Target::Tcp(addr));
    assert_eq!(by_http(&Target::Tcp(addr)), YES);
    eventually("the old address is left", SOON, || !first.accepts());

    write("");
    sandbox.restart();
    assert!(sandbox.status().probes.is_empty());
    eventually("no address is left", SOON, || !Target::Tcp(addr).accepts());
    sandbox.stop();
}

/// A connection with half a request when the supervisor upgrades itself gets its answer.
#[test]
fn half_a_request_survives_an_upgrade() {
    let sandbox = probing("http");
    sandbox.start();
    let mut connection = Connection::open(&probe(&sandbox)).expect("a connection");
    connection.send("GET /readyz HT").expect("sent");
    // Once a later connection is answered, this one has been accepted and read.
    assert_eq!(by_http(&probe(&sandbox)), YES);
    sandbox.deploy("http-v2");
    sandbox.restart();
    connection.send("TP/1.1\r\nHost: a\r\n\r\n").expect("sent");
    assert_eq!(connection.response().expect("an answer").status, 200);
    sandbox.stop();
}

/// Clients that send nothing, little or too much affect neither probes nor restarts.
#[test]
fn hostile_clients_affect_nothing() {
    for fixture in ["http", "solo-http"] {
        let sandbox = probing(fixture);
        sandbox.start();
        let (target, supervisor) = (probe(&sandbox), sandbox.supervisor());
        let descriptors = supervisor.descriptors_at_rest();
        let mut slow: Vec<Connection> = Vec::new();
        for round in 0..4 {
            for number in 0..64 {
                let mut connection = Connection::open(&target).expect("a connection");
                let half =
                    ["", "GET /readyz HTTP/1.1\r\nX: ", "\u{1}\u{2}\n", "POST / HTTP/1.1\r\n"];
                connection.send(half[number % half.len()]).expect("sent");
                slow.push(connection);
            }
            assert_eq!(by_http(&target), YES, "{fixture}, round {round}");
        }
        let open = supervisor.descriptors().len();
        assert!(open <= descriptors + 64 + 3, "{fixture}: {open} after {descriptors}");
        let mut flood = Connection::open(&target).expect("a connection");
        let sent = flood.send(format!("GET /livez HTTP/1.1\r\nX: {}", "x".repeat(5000)));
        // The supervisor may close the connection before it has read everything.
        if sent.is_ok()
            && let Ok(response) = flood.response()
        {
            assert_eq!(response.status, 431);
        }
        if fixture == "http" {
            sandbox.deploy("http-v2");
            sandbox.restart();
            assert_eq!(supervisor.threads(), 1);
        }
        assert_eq!(by_http(&target), YES);
        // The supervisor closes the slow connections at their timeout.
        let gone = || supervisor.descriptors_at_rest() <= descriptors + 1;
        eventually("those who say nothing are gone", SOON, gone);
        drop(slow);
        sandbox.stop();
    }
}

/// `status --probe` is fast, because a kubelet runs it every few seconds.
#[test]
fn probe_by_command_is_fast() {
    let sandbox = Sandbox::new("http");
    sandbox.start();
    let mut command = sandbox.command(["status", "--probe", "ready"]);
    let best = (0..10).map(|_| Child::spawn(&mut command).wait(SOON).expect_code(0).elapsed).min();
    // The default timeout of a kubelet is one second.
    assert!(best.expect("ten") < Duration::from_millis(500), "{best:?}");
    sandbox.stop();
}
