//! P3: a bad binary cannot take the service down.

#![allow(clippy::expect_used)]

use std::time::Duration;

use unbroken_tests::{Bad, Load, Sandbox};

/// Restarts under load after `spoil` has replaced the image: the restart fails in time, with a reason that
/// contains all of `reasons`, and no request fails. Then restarts with a good image.
fn survives(sandbox: &mut Sandbox, spoil: impl FnOnce(&Sandbox), reasons: &[&str]) {
    sandbox.set("DAEMON_READY_TIMEOUT", "2s");
    let status = sandbox.start();
    let load = Load::on(status.target("http")).keep_alive(4).start();
    load.wait_for(50);

    spoil(sandbox);
    let output = sandbox.verb(["restart", "--json"]).expect_code(1);
    assert!(output.elapsed < Duration::from_secs(5), "{output}");
    let report: unbroken_tests::Report = serde_json::from_str(&output.stdout).expect("a report");
    assert_eq!(report.result, "aborted", "{output}");
    let reason = report.reason.unwrap_or_default();
    let text = format!("{reason}\n{}", report.output.join("\n"));
    for wanted in reasons {
        assert!(text.contains(wanted), "`{wanted}` is not in: {text}");
    }
    // The output without `--json` has the same reasons.
    let output = sandbox.verb(["restart"]).expect_code(1);
    for wanted in reasons {
        assert!(output.text().contains(wanted), "`{wanted}`\n{output}");
    }

    load.wait_for(50);
    let now = sandbox.status();
    assert_eq!(now.serving().pid, status.serving().pid);
    assert_eq!((now.pid, now.generation), (status.pid, status.generation));
    assert_eq!(now.workers.len(), 1, "{now:?}");
    let last = now.last_restart().expect("a restart");
    assert_eq!(last.result, "aborted");
    assert!(last.reason.is_some());

    if sandbox.image().is_dir() {
        std::fs::remove_dir(sandbox.image()).expect("a directory");
    }
    sandbox.deploy("http-v2");
    let generation = sandbox.restart().generation.expect("a generation");
    load.wait_for_generation(generation);
    load.stop().assert_nothing_failed();
    sandbox.stop();
}

fn survives_file(bad: Bad, reasons: &[&str]) {
    survives(&mut Sandbox::new("http"), |sandbox| sandbox.deploy_bad(bad), reasons);
}

fn survives_program(fixture: &str, reasons: &[&str]) {
    survives(&mut Sandbox::new("http"), |sandbox| sandbox.deploy(fixture), reasons);
}

#[test]
fn missing_file_aborts() {
    survives_file(Bad::Missing, &["/app"]);
}

#[test]
fn file_without_permission_aborts() {
    survives_file(Bad::NotExecutable, &["/app", "execut"]);
}

#[test]
fn other_architecture_aborts() {
    survives_file(Bad::WrongArchitecture, &["/app"]);
}

#[test]
fn script_aborts() {
    survives_file(Bad::Script, &["/app", "script"]);
}

#[test]
fn empty_file_aborts() {
    survives_file(Bad::Empty, &["/app"]);
}

#[test]
fn truncated_file_aborts() {
    survives_file(Bad::Truncated, &[]);
}

#[test]
fn directory_aborts() {
    survives_file(Bad::Directory, &["/app"]);
}

#[test]
fn error_from_main_aborts() {
    survives_program("fails-at-start", &["cannot open the database"]);
}

/// The reason of a worker that binds an address of the old one comes before its backtrace, and names the keys
/// that help.
#[test]
fn own_bind_of_a_taken_address_aborts() {
    let mut sandbox = Sandbox::new("own-address");
    let metrics = sandbox.path("metrics.sock").display().to_string();
    sandbox.set("RUST_BACKTRACE", "1").set("OWN_ADDRESS", metrics);
    let pid = sandbox.start().serving().pid;
    let report = sandbox.restart_aborts();
    let reason = report.reason.as_deref().unwrap_or_default();
    assert!(reason.contains("declare it with `listen` or set `exclusive`"), "{report:?}");
    let expected = ["Error: cannot export metrics", "", "Caused by:"].map(str::to_owned);
    assert_eq!(report.output.get(..3), Some(&expected[..]), "{report:?}");
    // The text before the number is that of the C library.
    assert!(report.output[3].ends_with("(os error 98)"), "{report:?}");
    let log = sandbox.log();
    assert!(log.contains("tack backtrace:") && log.contains("set `exclusive`"), "{log}");
    assert_eq!(sandbox.status().serving().pid, pid);

    // The advice is right: with `exclusive` the restart works.
    sandbox.stop();
    std::fs::remove_file(sandbox.path("metrics.sock")).expect("a socket");
    sandbox.set("DAEMON_EXCLUSIVE", "true");
    sandbox.start();
    std::fs::remove_file(sandbox.path("metrics.sock")).expect("a socket");
    sandbox.restart();
    sandbox.stop();
}

#[test]
fn exit_at_start_aborts() {
    survives_program("exits", &["1"]);
}

#[test]
fn panic_at_start_aborts() {
    survives_program("panics-at-start", &["the schema is from the future"]);
}

/// A reason of nearly the size of a message is reported, and `status` continues to answer.
#[test]
fn panic_with_a_long_message_aborts() {
    survives_program("panics-at-length", &["the schema is from the future"]);
}

#[test]
fn signal_at_start_aborts() {
    survives_program("aborts-at-start", &["SIGABRT"]);
}

#[test]
fn hang_at_start_aborts() {
    survives_program("hangs-at-start", &["http", "never polled", "2 s"]);
}

#[test]
fn hang_of_a_sync_main_aborts() {
    survives_program("hangs-sync", &["http", "2 s"]);
}

#[test]
fn missing_configuration_file_aborts() {
    survives_program("bad-config", &["no-such-file.toml"]);
}

/// A configuration file that has become invalid aborts the restart, with the key and the file.
#[test]
fn invalid_configuration_aborts() {
    let mut sandbox = Sandbox::new("http");
    let file = sandbox.path("app.toml");
    std::fs::write(&file, "drain_timeout = \"5s\"\n").expect("a file");
    sandbox.set("DAEMON_CONFIG", file.display().to_string());
    let spoil = |_: &Sandbox| std::fs::write(&file, "drain_timeout = \"soon\"\n").expect("a file");
    sandbox.set("DAEMON_READY_TIMEOUT", "2s");
    let pid = sandbox.start().serving().pid;
    spoil(&sandbox);
    let output = sandbox.verb(["restart"]).expect_code(1);
    output.expect_text("drain_timeout").expect_text("app.toml");
    assert_eq!(sandbox.status().serving().pid, pid);
    std::fs::write(&file, "drain_timeout = \"6s\"\n").expect("a file");
    sandbox.restart();
    sandbox.stop();
}

/// A changed `name` aborts the restart: it needs a stop and a start.
#[test]
fn changed_name_aborts() {
    let mut sandbox = Sandbox::new("http");
    let file = sandbox.path("app.toml");
    std::fs::write(&file, "").expect("a file");
    sandbox.set("DAEMON_CONFIG", file.display().to_string());
    let pid = sandbox.start().serving().pid;
    std::fs::write(&file, "name = \"other\"\n").expect("a file");
    sandbox.verb(["restart"]).expect_code(1).expect_text("name").expect_text("start");
    assert_eq!(sandbox.status().serving().pid, pid);
    sandbox.stop();
}
