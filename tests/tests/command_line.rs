//! A program's own command line, commands and settings.

#![allow(clippy::expect_used)]

use std::fs;
use std::net::TcpListener;
use std::time::Duration;

use unbroken_tests::{Output, Sandbox, eventually};

const SOON: Duration = Duration::from_secs(20);

/// Asserts that all of these words are in the output, in either stream.
#[track_caller]
fn says(output: &Output, words: &[&str]) {
    let text = output.text();
    for word in words {
        assert!(text.contains(word), "`{word}`\n{output}");
    }
}

/// A port that is free, at least until another test takes it.
fn free_port() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address").port().to_string()
}

/// Runs what needs no daemon, with the same result whether it runs or not.
fn answers_without_the_daemon(sandbox: &Sandbox) {
    let version = sandbox.verb(["--version"]).expect_code(0);
    assert_eq!(version.text().trim(), "app 7.8.9", "{version}");
    let help = sandbox.verb(["--help"]).expect_code(0);
    says(
        &help,
        &["Usage: app", "--greeting", "More in app(1).", "Verbs of the daemon:", "restart"],
    );
    says(&sandbox.verb(["help"]).expect_code(0), &["Usage: app", "Verbs of the daemon:"]);
    says(&sandbox.verb(["help", "migrate"]).expect_code(0), &["Migrate the database"]);
    says(&sandbox.verb(["help", "restart"]).expect_code(0), &["--no-wait"]);
    says(&sandbox.verb(["--greting", "x"]).expect_code(2), &["--greting", "Usage: app"]);
    says(&sandbox.verb(["stats"]).expect_code(2), &["stats", "did you mean the verb `status`"]);
    says(&sandbox.verb(["statu"]).expect_code(0), &["statistics"]);
    says(&sandbox.verb(["migrate"]).expect_code(0), &["migrated `main`"]);
    says(&sandbox.verb(["run", "--", "migrate"]).expect_code(0), &["migrated `main`"]);
    says(&sandbox.verb(["start", "--", "--port"]).expect_code(2), &["--port"]);
}

#[test]
fn command_line_is_answered_at_any_time() {
    let mut sandbox = Sandbox::new("command-line");
    sandbox.set("DAEMON_APP__DATABASE", "main");
    answers_without_the_daemon(&sandbox);
    assert!(!sandbox.runtime_dir().exists(), "a command has left a runtime directory");
    sandbox.start();
    answers_without_the_daemon(&sandbox);
    assert_eq!(sandbox.status().serving().generation, 1);
    sandbox.stop();
    sandbox.assert_nothing_left();
}

#[test]
fn command_fails_with_its_error() {
    let mut sandbox = Sandbox::new("command-line");
    sandbox.set("DAEMON_APP__DATABASE", "broken");
    says(&sandbox.verb(["migrate"]).expect_code(1), &["the database is broken"]);
    sandbox.set("DAEMON_DRAIN_TIMEOUT", "soon");
    says(&sandbox.verb(["migrate"]).expect_code(1), &["DAEMON_DRAIN_TIMEOUT"]);
    // This one does not look at the configuration.
    sandbox.verb(["statu"]).expect_code(0);
    sandbox.assert_nothing_left();
}

#[test]
fn command_reads_the_files_of_variables() {
    let mut sandbox = Sandbox::new("command-line");
    let file = sandbox.path("variables");
    fs::write(&file, "APP_PORT=17\nDAEMON_APP__DATABASE=filed\n").expect("a file");
    sandbox.set("DAEMON_ENV_FILE", file.display().to_string());
    says(&sandbox.verb(["migrate"]).expect_code(0), &["migrated `filed`, port `17`"]);
}

#[test]
fn every_worker_gets_the_arguments_of_the_start() {
    let sandbox = Sandbox::new("command-line");
    sandbox.verb(["start", "--", "--greeting", "good day"]).expect_code(0);
    let greeting = || sandbox.get("/").ok().map(|response| response.text());
    assert_eq!(greeting().as_deref(), Some("good day"));
    sandbox.restart();
    assert_eq!(greeting().as_deref(), Some("good day"));
    let old = sandbox.worker();
    old.kill();
    eventually("a respawned worker", SOON, || {
        sandbox.try_status().is_some_and(|status| {
            status.workers.iter().any(|worker| worker.pid != old.pid() && worker.state == "serving")
        })
    });
    assert_eq!(greeting().as_deref(), Some("good day"));
    sandbox.stop();
    sandbox.assert_nothing_left();
}

#[test]
fn release_that_does_not_take_the_arguments_is_aborted() {
    let sandbox = Sandbox::new("command-line");
    sandbox.verb(["start", "--", "--greeting", "good day"]).expect_code(0);
    sandbox.deploy("command-line-v2");
    let report = sandbox.restart_aborts();
    let reason = report.reason.unwrap_or_default();
    for words in ["does not accept the arguments", "--greeting"] {
        assert!(reason.contains(words), "{reason}");
    }
    assert_eq!(sandbox.status().serving().generation, 1);
    sandbox.stop();
    sandbox.assert_nothing_left();
}

#[test]
fn solo_daemon_gets_its_arguments() {
    let sandbox = Sandbox::new("solo-command-line");
    says(&sandbox.verb(["start"]).expect_code(2), &["--greeting"]);
    // Without the required argument the other verbs work all the same.
    sandbox.verb(["status"]).expect_code(3);
    sandbox.verb(["check"]).expect_code(0);
    sandbox.verb(["start", "--", "--greeting=solo"]).expect_code(0);
    let body = sandbox.get("/").expect("a response").text();
    assert_eq!(body, "solo");
    sandbox.stop();
    sandbox.assert_nothing_left();
}

#[test]
fn program_sets_keys_above_the_file_and_below_variables() {
    let mut sandbox = Sandbox::new("command-line");
    sandbox.unset("DAEMON_LISTEN_HTTP");
    let file = sandbox.path("app.toml");
    fs::write(&file, "[listen]\nhttp = \"127.0.0.1:1\"\n").expect("a file");
    sandbox.set("DAEMON_CONFIG", file.display().to_string());
    let line = |sandbox: &Sandbox, words: &[&str]| {
        let output = sandbox.verb([&["check", "--"][..], words].concat());
        let text = output.stdout.clone();
        let line = text.lines().find(|line| line.starts_with("listen.http "));
        line.unwrap_or_else(|| panic!("{output}")).to_owned()
    };
    assert!(line(&sandbox, &[]).contains("127.0.0.1:1 "));
    let port = free_port();
    let with_port = line(&sandbox, &["--port", &port]);
    assert!(with_port.contains(&format!("127.0.0.1:{port} ")), "{with_port}");
    assert!(with_port.ends_with("# the program"), "{with_port}");
    sandbox.set("APP_PORT", port.clone());
    assert!(line(&sandbox, &[]).ends_with("# the program"));
    let other = free_port();
    sandbox.set("DAEMON_LISTEN_HTTP", format!("127.0.0.1:{other}"));
    assert!(line(&sandbox, &["--port", &port]).ends_with("# DAEMON_LISTEN_HTTP"));
}

#[test]
fn every_generation_listens_where_the_program_says() {
    let mut sandbox = Sandbox::new("command-line");
    sandbox.unset("DAEMON_LISTEN_HTTP");
    let port = free_port();
    sandbox.verb(["start", "--", "--port", &port]).expect_code(0);
    let address = format!("127.0.0.1:{port}");
    says(&sandbox.verb(["status"]).expect_code(0), &[&address]);
    sandbox.restart();
    says(&sandbox.verb(["status"]).expect_code(0), &[&address]);
    assert_eq!(sandbox.get("/").expect("a response").text(), "hello");
    sandbox.stop();
    sandbox.assert_nothing_left();
}

#[test]
fn mistakes_of_the_program_name_it() {
    let sandbox = Sandbox::new("command-line");
    for (words, expected) in [
        (&["--key", "lissten.http=1"][..], "`lissten.http` from the program is not a known key"),
        (&["--key", "drain_timeout=soon"], "`drain_timeout` from the program is"),
        (&["--key", "graceful_restart=true"], "belongs in the attribute"),
        (&["--reject"], "the program cannot read its own settings: own.toml is not there"),
    ] {
        let output = sandbox.verb([&["start", "--"][..], words].concat()).expect_code(78);
        says(&output, &[expected]);
    }
    sandbox.assert_nothing_left();
}

#[test]
fn standard_options_are_answered_without_a_command_line() {
    let sandbox = Sandbox::new("http");
    for running in [false, true] {
        let version = sandbox.verb(["--version"]).expect_code(0);
        assert!(version.stdout.contains(env!("CARGO_PKG_VERSION")), "{version}");
        sandbox.verb(["-V"]).expect_code(0);
        says(&sandbox.verb(["--help"]).expect_code(0), &["Verbs:", "restart"]);
        sandbox.verb(["-h"]).expect_code(0);
        if !running {
            assert!(!sandbox.runtime_dir().exists());
            sandbox.start();
        }
    }
    sandbox.stop();
    sandbox.assert_nothing_left();
}

#[test]
fn program_that_ends_well_before_it_serves_has_not_failed_in_the_foreground() {
    for fixture in ["ends-well", "ends-well-solo"] {
        let mut sandbox = Sandbox::new(fixture);
        sandbox.unset("DAEMON_LOG");
        let output = sandbox.verb(["run"]).expect_code(0);
        assert_eq!(output.stdout.trim(), "nothing to do", "{output}");
        assert!(output.stderr.is_empty(), "{output}");
        says(&sandbox.verb(["start"]).expect_code(1), &["before it was ready"]);
        sandbox.assert_nothing_left();
    }
}

#[test]
fn main_written_by_hand_calls_the_daemon() {
    let sandbox = Sandbox::new("own-main");
    says(&sandbox.verb(["local"]).expect_code(0), &["usage: app"]);
    sandbox.verb(["--help"]).expect_code(2);
    sandbox.verb(["status"]).expect_code(3);
    sandbox.verb(["start", "--", "server", "--fast"]).expect_code(0);
    let body = || sandbox.get("/").expect("a response").text();
    assert_eq!(body(), "server --fast");
    sandbox.verb(["local"]).expect_code(0);
    sandbox.restart();
    assert_eq!(body(), "server --fast");
    assert_eq!(sandbox.status().serving().generation, 2);
    sandbox.stop();
    sandbox.assert_nothing_left();
}

#[test]
fn variable_of_a_listener_is_its_address_or_its_port() {
    let mut sandbox = Sandbox::new("own-main");
    sandbox.unset("DAEMON_LISTEN_HTTP");
    let check = |sandbox: &Sandbox| sandbox.verb(["check"]);
    let port = free_port();
    for value in [port.clone(), format!("127.0.0.1:{port}")] {
        sandbox.set("APP_ADDRESS", value);
        let expected = format!("127.0.0.1:{port}");
        says(&check(&sandbox).expect_code(0), &[&expected, "# APP_ADDRESS"]);
    }
    let unit = sandbox.verb(["unit", "--", "server"]).expect_code(0);
    says(&unit, &[&format!("Environment=APP_ADDRESS=127.0.0.1:{port}")]);
    sandbox.verb(["start", "--", "server"]).expect_code(0);
    sandbox.restart();
    says(&sandbox.verb(["status"]).expect_code(0), &[&format!("127.0.0.1:{port}")]);
    sandbox.stop();
    sandbox.set("APP_ADDRESS", "localhost");
    says(&check(&sandbox).expect_code(78), &["`listen.http` from APP_ADDRESS is"]);
    sandbox.set("DAEMON_LISTEN_HTTP", "127.0.0.1:0");
    says(&check(&sandbox).expect_code(78), &["DAEMON_LISTEN_HTTP", "APP_ADDRESS", "unset one"]);
    sandbox.set("APP_ADDRESS", "");
    check(&sandbox).expect_code(0);
    sandbox.assert_nothing_left();
}

#[test]
fn unit_names_the_variables_that_it_lacks() {
    let mut sandbox = Sandbox::new("command-line");
    sandbox.unset("DAEMON_LISTEN_HTTP");
    let port = free_port();
    sandbox.set("APP_PORT", port.clone());
    let unit = sandbox.verb(["unit"]).expect_code(0);
    says(
        &unit,
        &["does not contain these variables of the program: APP_PORT", "--environment-file"],
    );
    assert!(!unit.stdout.contains("APP_PORT"), "{unit}");
    let file = sandbox.path("variables");
    fs::write(&file, format!("APP_PORT={port}\nDAEMON_DRAIN_TIMEOUT=77s\n")).expect("a file");
    let file = file.display().to_string();
    let unit = sandbox.verb(["unit", "--environment-file", &file]).expect_code(0);
    says(&unit, &[&format!("EnvironmentFile={file}"), "TimeoutStopSec=92"]);
    assert!(unit.stderr.is_empty(), "{unit}");
    // A file that the daemon itself reads is as good.
    let unit = sandbox.verb(["unit", "--set", &format!("env_file={file}")]).expect_code(0);
    assert!(unit.stderr.is_empty(), "{unit}");
    let missing = sandbox.verb(["unit", "--environment-file", "/nonexistent/x"]).expect_code(78);
    says(&missing, &["/nonexistent/x", "--environment-file"]);
    let optional = sandbox.verb(["unit", "--environment-file=-/nonexistent/x"]).expect_code(0);
    says(&optional, &["EnvironmentFile=-/nonexistent/x"]);
}
