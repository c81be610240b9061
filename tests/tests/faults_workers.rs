//! Faults on the link: whatever a worker sends, or does not send, its supervisor continues.

#![allow(clippy::expect_used)]

use std::time::{Duration, Instant};

use unbroken_tests::http::Connection;
use unbroken_tests::{Load, Sandbox, Signal, eventually};

const SOON: Duration = Duration::from_secs(20);

/// The growth of the supervisor's memory that the tests allow.
const MEMORY: u64 = 4 * 1024 * 1024;

/// Invalid messages of a serving worker change nothing: the worker and its supervisor continue.
#[test]
fn invalid_messages_change_nothing() {
    let sandbox = Sandbox::new("hostile");
    let target = sandbox.start().target("http");
    let (supervisor, worker) = (sandbox.supervisor(), sandbox.worker());
    let descriptors = supervisor.descriptors_at_rest();
    let memory = supervisor.private_memory().expect("its memory");
    let load = Load::on(target.clone()).keep_alive(4).pause(Duration::from_millis(1)).start();
    let mut connection = Connection::open(&target).expect("a connection");
    for (what, times) in [
        ("garbage", 20),
        ("truncated", 20),
        ("unknown", 20),
        ("later", 1),
        ("empty", 20),
        ("oversized", 3),
        ("deep", 3),
        ("descriptors", 20),
        ("ready", 20),
        ("hello", 20),
        ("settings", 20),
        ("error", 20),
        ("text", 1),
        ("failing", 1),
    ] {
        let response = connection.get(&format!("/link/{what}")).expect("a response");
        assert_eq!(response.text(), format!("{what} {times}\n"));
        let status = sandbox.status();
        assert_eq!((status.generation, status.serving().pid), (Some(1), worker.pid()), "{what}");
    }
    assert!(worker.is_alive() && supervisor.is_alive());
    eventually("its descriptors are closed", SOON, || {
        supervisor.descriptors().len() <= descriptors
    });
    let now = supervisor.private_memory().expect("its memory");
    assert!(now < memory + MEMORY, "{memory} bytes became {now}");
    sandbox.deploy("http");
    sandbox.restart().ledger().assert_balanced();
    load.wait_for_generation(2);
    load.stop().assert_nothing_failed();
    drop(connection);
    sandbox.stop();
}

/// Counters that a worker overwrites are shown, and decide nothing.
#[test]
fn overwritten_counters_decide_nothing() {
    let sandbox = Sandbox::new("hostile");
    sandbox.start();
    let (supervisor, worker) = (sandbox.supervisor(), sandbox.worker());
    assert_eq!(sandbox.get("/link/counters").expect("a response").text(), "counters 1\n");
    for _ in 0..2 {
        assert_eq!(sandbox.status().serving().pid, worker.pid());
    }
    sandbox.deploy("http");
    sandbox.restart();
    assert_eq!(sandbox.supervisor().pid(), supervisor.pid());
    sandbox.get("/").expect("a response");
    sandbox.stop();
}

/// Control characters in a worker's status text are replaced before they are shown.
#[test]
fn control_characters_in_status_text_are_replaced() {
    let sandbox = Sandbox::new("hostile");
    sandbox.start();
    assert_eq!(sandbox.get("/link/escape").expect("a response").text(), "escape 1\n");
    eventually("it is shown", SOON, || sandbox.verb(["status"]).stdout.contains("b�c"));
    let shown = sandbox.verb(["status"]).stdout;
    assert!(shown.contains("a�[2Jb�c�"), "{shown:?}");
    sandbox.stop();
}

/// A worker that floods its link does not keep the supervisor from answering clients or restarting.
#[test]
fn flood_on_the_link_blocks_nothing() {
    let sandbox = Sandbox::new("hostile");
    sandbox.start();
    let supervisor = sandbox.supervisor();
    sandbox.get("/link/flood").expect("a response");
    let begun = Instant::now();
    for _ in 0..3 {
        sandbox.status();
    }
    sandbox.deploy("http");
    let report = sandbox.restart();
    report.ledger().assert_balanced();
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert_eq!(sandbox.supervisor().pid(), supervisor.pid());
    sandbox.stop();
}

/// A worker that has shut down its end of the link drains, and is replaced.
#[test]
fn worker_that_closes_its_link_is_replaced() {
    let mut sandbox = Sandbox::new("hostile");
    sandbox.set("DAEMON_BACKOFF_MIN", "10ms");
    sandbox.start();
    let (supervisor, worker) = (sandbox.supervisor(), sandbox.worker());
    // The drain may cut off the response.
    let _ = sandbox.get("/link/deaf");
    assert!(worker.wait_gone(SOON));
    eventually("it is replaced", SOON, || {
        sandbox.status().workers.iter().any(|w| w.state == "serving" && w.pid != worker.pid())
    });
    assert_eq!((sandbox.status().pid, sandbox.status().generation), (supervisor.pid(), Some(1)));
    sandbox.deploy("http");
    sandbox.restart();
    sandbox.stop();
}

/// A restart to an image that does not follow the protocol is aborted with the reason, and the next restart
/// to a good image works.
#[test]
fn image_that_breaks_the_protocol_is_refused() {
    let mut sandbox = Sandbox::new("http");
    sandbox.set("DAEMON_READY_TIMEOUT", "1s");
    let target = sandbox.start().target("http");
    let (supervisor, worker) = (sandbox.supervisor(), sandbox.worker());
    let load = Load::on(target).keep_alive(2).pause(Duration::from_millis(1)).start();
    sandbox.deploy("misuses-link");
    for (word, reason) in [
        ("silent", "did not reach its `#[daemon]` main"),
        ("garbage", "did not reach its `#[daemon]` main"),
        ("ready", "reported ready before it sent hello"),
        ("unknown", "did not reach its `#[daemon]` main"),
        ("no-settings", "the worker sent no settings"),
        ("protocol", "supports protocol versions 9 to 9"),
        ("bad-settings", "did not reach its `#[daemon]` main"),
        ("flood", "was not ready within 1 s"),
        ("flood-of-errors", "was not ready within 1 s"),
        ("long-reason", "xxxxxxxx"),
    ] {
        std::fs::write(sandbox.path("misuse"), word).expect("a file");
        let report = sandbox.restart_aborts();
        let message = report.reason.expect("a reason");
        assert!(message.contains(reason) && message.len() < 8_000, "{word}: {message}");
        assert!(worker.is_alive() && supervisor.is_alive(), "{word}");
    }
    sandbox.deploy("http-v2");
    sandbox.restart();
    load.wait_for_generation(2);
    load.stop().assert_nothing_failed();
    sandbox.stop();
}

/// The reasons of the last ten restarts fit in one answer, even if each is long and needs escapes in JSON.
#[test]
fn reasons_of_ten_restarts_fit_in_an_answer() {
    let sandbox = Sandbox::new("http");
    sandbox.start();
    sandbox.deploy("misuses-link");
    std::fs::write(sandbox.path("misuse"), "odd-reason").expect("a file");
    for round in 0..11 {
        let reason = sandbox.restart_aborts().reason.expect("a reason");
        assert!(reason.len() > 1_000 && !reason.contains('\u{1}'), "{round}: {reason:?}");
        assert_eq!(sandbox.status().restarts.len(), (round + 1).min(10), "{round}");
    }
    sandbox.stop();
}

/// A restart with a configuration that is larger than a message is aborted with the reason.
#[test]
fn oversized_settings_are_refused() {
    let mut sandbox = Sandbox::new("http");
    sandbox.start();
    sandbox.set("DAEMON_CONFIG", sandbox.path("app.toml").display().to_string());
    sandbox.stop();
    for text in ["[app]\nx = 1\n".to_owned(), format!("[app]\nx = \"{}\"\n", "x".repeat(140_000))] {
        std::fs::write(sandbox.path("app.toml"), text).expect("a file");
        if !sandbox.pidfile().exists() {
            sandbox.start();
            continue;
        }
        let report = sandbox.restart_aborts();
        let reason = report.reason.expect("a reason");
        assert!(
            reason.contains("more than the limit of 131072") && reason.contains("`app`"),
            "{reason}"
        );
    }
    // More mistakes than fit in a message.
    let mistakes: String =
        (0..900).map(|n| format!("mistake_{n}_{} = 1\n", "x".repeat(100))).collect();
    std::fs::write(sandbox.path("app.toml"), mistakes).expect("a file");
    let reason = sandbox.restart_aborts().reason.expect("a reason");
    assert!(reason.contains("mistake_0_"), "{reason}");
    sandbox.stop();
}

/// A stopped worker does not read its orders, more of which are sent than its link holds. A restart replaces
/// it, and reports its connection as lost.
#[test]
fn stopped_worker_is_replaced_by_a_restart() {
    let mut sandbox = Sandbox::new("http");
    sandbox.set("DAEMON_DRAIN_TIMEOUT", "500ms");
    let target = sandbox.start().target("http");
    let mut connection = Connection::open(&target).expect("a connection");
    connection.get("/").expect("a response");
    let (supervisor, worker) = (sandbox.supervisor(), sandbox.worker());
    worker.signal(Signal::STOP);
    eventually("it is stopped", SOON, || worker.state() == Some('T'));
    for _ in 0..400 {
        std::fs::remove_file(sandbox.log_file()).expect("a log");
        supervisor.signal(Signal::USR1);
        eventually("the log is opened again", SOON, || sandbox.log_file().exists());
    }
    assert_eq!(sandbox.status().serving().pid, worker.pid());
    let begun = Instant::now();
    let report = sandbox.restart();
    report.ledger().assert_balanced();
    assert_eq!((report.ledger().accepted, report.ledger().lost), (1, 1), "{report:?}");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert!(!worker.is_alive());
    sandbox.get("/").expect("a response");
    sandbox.stop();
}

/// A program that reports its status is not blocked while its supervisor is stopped.
#[test]
fn stopped_supervisor_does_not_block_workers() {
    let sandbox = Sandbox::new("hostile");
    let target = sandbox.start().target("http");
    let supervisor = sandbox.supervisor();
    supervisor.signal(Signal::STOP);
    eventually("it is stopped", SOON, || supervisor.state() == Some('T'));
    let mut connection = Connection::open(&target).expect("a connection");
    for round in 0..1_000 {
        let response = connection.get(&format!("/say/{round}")).expect("a response");
        assert_eq!(response.status, 200, "{round}");
    }
    supervisor.signal(Signal::CONT);
    sandbox.restart();
    drop(connection);
    sandbox.stop();
}
