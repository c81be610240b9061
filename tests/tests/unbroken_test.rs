//! The crate `unbroken-test`: it starts daemons apart from each other, finds what a restart loses, and leaves
//! nothing behind.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use unbroken_test::{Address, LoadReport, Program, TestDaemon, program};
use unbroken_tests::{Child, Process, eventually};

const SOON: Duration = Duration::from_secs(20);

fn http() -> Program {
    program(env!("CARGO_BIN_EXE_fixture-http"))
}

/// The processes of a daemon, found without the crate's help.
fn processes(daemon: &TestDaemon) -> Vec<Process> {
    Process::with_variable("UNBROKEN_TEST_DIR", &daemon.dir().display().to_string())
}

/// The message of a panic.
fn panics(test: impl FnOnce()) -> String {
    let panic = catch_unwind(AssertUnwindSafe(test)).expect_err("a panic");
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).expect("a message")
}

#[test]
fn restart_under_load_loses_nothing() {
    let app = http().start();
    let load = app.load("http").start();
    assert_eq!(app.generation(), 1);
    let restart = app.restart();
    assert_eq!((restart.generation(), app.generation()), (Some(2), 2));
    restart.assert_drained_within(SOON);
    let report = load.finish();
    report.assert_nothing_lost();
    assert!(report.connections() >= 4 && report.requests() >= 8, "{report}");
    assert!(report.latency(0.5) <= report.latency(1.0), "{report}");
    assert!(restart.ledger().requests > 0, "{restart}");
    app.stop().assert_drained_within(Duration::from_secs(5));
}

#[test]
fn lost_requests_are_found() {
    let app = program(env!("CARGO_BIN_EXE_fixture-loses-requests")).start();
    let load = app.load("http").start();
    app.restart();
    let report = load.finish();
    assert!(report.failed() > 0, "{report}");
    let failure = &report.failures()[0];
    assert!(failure.error.contains("of a connection: "), "{report}");
    let message = panics(|| _ = report.assert_nothing_lost());
    let expected = format!("{} of {} requests failed", report.failed(), report.requests());
    assert!(message.starts_with(&expected) && message.contains(&failure.error), "{message}");
}

#[test]
fn requests_lost_with_a_killed_worker_are_found() {
    let app = program(env!("CARGO_BIN_EXE_fixture-loses-requests")).start();
    let load = app.load("http").start();
    let worker = app.status()["workers"][0]["pid"].clone();
    app.kill_worker();
    app.wait_serving();
    let status = app.status();
    assert_ne!(status["workers"][0]["pid"], worker, "{status:#}");
    assert_eq!((app.generation(), status["ledger"]["lost"].as_u64() > Some(0)), (1, true));
    let report: LoadReport = load.finish();
    assert!(report.failed() > 0, "{report}");
}

#[test]
fn refused_connections_are_failures() {
    let app = http().start();
    let load = app.load("http").keep_alive(0).start();
    app.stop();
    let report = load.finish();
    assert!(report.failed() >= 2, "{report}");
    assert!(report.to_string().contains("cannot connect: Connection refused"), "{report}");
}

#[test]
fn responses_with_an_error_status_are_failures() {
    let app = http().start();
    let report = app.load("http").path("/nowhere").start().finish();
    assert_eq!(report.failed(), report.requests());
    assert!(report.failures()[0].error.ends_with("status 404 for /nowhere"), "{report}");
}

#[test]
fn drain_that_does_not_end_by_itself_is_found() {
    let app = program(env!("CARGO_BIN_EXE_fixture-ignores-drain")).start();
    let stop = app.stop();
    let message = panics(|| _ = stop.assert_drained_within(SOON));
    assert!(message.contains("did not end by itself"), "{message}");

    let app = http().start();
    let stop = app.stop();
    let message = panics(|| _ = stop.assert_drained_within(Duration::ZERO));
    assert!(message.contains("took longer than 0ns"), "{message}");
}

#[test]
fn aborted_restart_gives_the_reason() {
    let app = http().start();
    let load = app.load("http").start();
    let error = app.try_restart_with(env!("CARGO_BIN_EXE_fixture-fails-at-start")).unwrap_err();
    assert!(error.reason().contains("exited with code 1 before it was ready"), "{error}");
    assert_eq!(error.code(), Some(1));
    assert!(error.output().iter().any(|it| it.contains("cannot open the database")), "{error}");
    assert!(error.to_string().starts_with("`fixture-http restart` failed"), "{error}");
    let message = panics(|| _ = app.restart_with("/nowhere/app"));
    assert!(message.contains("/nowhere/app"), "{message}");
    assert_eq!(app.generation(), 1);
    load.finish().assert_nothing_lost();
    app.restart_with(env!("CARGO_BIN_EXE_fixture-http-v2"));
    assert!(app.connect("http").get("/").unwrap().text().contains("version=2"));
}

#[test]
fn failed_start_gives_the_reason() {
    let fails = program(env!("CARGO_BIN_EXE_fixture-fails-at-start"));
    let error = fails.try_start().unwrap_err();
    assert!(error.reason().contains("cannot open the database"), "{error}");
    let error = http().set("drain_timeout", "soon").try_start().unwrap_err();
    assert!(error.reason().contains("drain_timeout"), "{error}");
    assert_eq!(error.code(), Some(78));
    let error = program("/nowhere/app").try_start().unwrap_err();
    assert!(error.to_string().contains("CARGO_BIN_EXE_<name>"), "{error}");
    let message = panics(|| _ = fails.start());
    assert!(message.contains("cannot open the database"), "{message}");
}

#[test]
fn start_that_takes_too_long_is_killed() {
    let hangs = program(env!("CARGO_BIN_EXE_fixture-hangs-at-start"));
    let error = hangs.timeout(Duration::from_secs(1)).try_start().unwrap_err();
    assert!(error.reason().starts_with("not done after 1s, killed"), "{error}");
}

#[test]
fn killed_supervisor_leaves_a_daemon_that_starts_again() {
    let app = http().start();
    app.kill_supervisor();
    assert!(app.try_status().is_err());
    app.start();
    app.wait_serving();
    assert_eq!(app.connect("http").get("/").unwrap().status, 200);
}

#[test]
fn solo_daemon_stops_and_cannot_restart() {
    let app = program(env!("CARGO_BIN_EXE_fixture-solo-http")).start();
    let load = app.load("http").start();
    let error = app.try_restart().unwrap_err();
    assert!(error.reason().contains("graceful_restart"), "{error}");
    load.finish().assert_nothing_lost();
    app.stop().assert_drained_within(Duration::from_secs(5));
    let message = panics(|| app.kill_worker());
    assert!(message.ends_with("the daemon is not running but stopped"), "{message}");
}

#[test]
fn nothing_is_left_after_a_panic() {
    let mut left = Vec::new();
    let mut dir = None;
    let message = panics(|| {
        let app = http().start();
        let _load = app.load("http").start();
        left = processes(&app);
        dir = Some(app.dir().to_owned());
        panic!("of the test");
    });
    assert_eq!((message.as_str(), left.len()), ("of the test", 2));
    assert!(left.iter().all(|process| !process.is_alive()));
    assert!(!dir.unwrap().exists());
}

#[test]
fn nothing_is_left_without_a_stop() {
    let app = http().start();
    let (left, dir) = (processes(&app), app.dir().to_owned());
    drop(app);
    assert!(left.iter().all(|process| !process.is_alive()));
    assert!(!dir.exists());
}

#[test]
fn daemons_of_one_program_do_not_meet() {
    let daemons: Vec<TestDaemon> = std::thread::scope(|scope| {
        let starts: Vec<_> = (0..4).map(|_| scope.spawn(|| http().start())).collect();
        starts.into_iter().map(|start| start.join().unwrap()).collect()
    });
    let addrs: BTreeSet<_> = daemons.iter().map(|daemon| daemon.addr("http").tcp()).collect();
    assert_eq!(addrs.len(), 4);
    let [first, second, ..] = &daemons[..] else { panic!("four daemons") };
    first.restart();
    first.kill_supervisor();
    assert_eq!((second.generation(), processes(second).len()), (1, 2));
}

#[test]
fn declared_addresses_are_replaced() {
    // Addresses that cannot be bound, of every kind.
    let config = "[listen]\nhttp = \"192.0.2.1:80\"\n\
                  several = [\"192.0.2.1:81\", \"unix:/nowhere/several.sock\"]\n\
                  [listen.local]\naddr = \"unix:/nowhere/local.sock\"\nmode = \"0600\"\n";
    let app = program(env!("CARGO_BIN_EXE_fixture-logs")).config(config);
    let error = app.clone().set("listen.http", "192.0.2.1:80").try_start().unwrap_err();
    assert!(error.reason().contains("192.0.2.1:80"), "{error}");
    // The program does not accept on those that its attribute does not declare.
    let app = app.set("ready_timeout", "1s").try_start().unwrap_err();
    assert!(app.reason().contains("local") && app.reason().contains("several"), "{app}");
}

#[test]
fn unix_listener_is_in_the_directory() {
    let app = http().set("listen.http", "unix:http.sock").start();
    assert_eq!(app.addr("http"), Address::Unix(app.dir().join("http.sock")));
    let load = app.load("http").start();
    app.restart();
    load.finish().assert_nothing_lost();
    let message = panics(|| _ = app.url("http"));
    assert!(message.contains("is a unix socket"), "{message}");
    assert!(panics(|| _ = app.addr("grpc")).contains("no listener `grpc`, only [\"http\"]"));
}

#[test]
fn environment_and_arguments_are_the_tests_own() {
    let app = http().arg("--one").args(["two"]).env("GREETING", "hi").env_remove("HOME").start();
    let worker = app.status()["workers"][0]["pid"].as_u64();
    let processes = processes(&app);
    let worker = processes.iter().find(|it| Some(it.pid().into()) == worker).expect("a worker");
    let environment = worker.environment();
    let has = |name: &str| environment.iter().any(|it| it.split('=').next() == Some(name));
    assert!(has("GREETING") && has("PATH") && !has("HOME"), "{environment:?}");
    assert_eq!(worker.arguments()[1..], ["--one", "two"]);
    let error = http().env("DAEMON_DRAIN_TIMEOUT", "nonsense").try_start().unwrap_err();
    assert!(error.reason().contains("nonsense"), "{error}");
}

/// Runs another test of this file in an environment in which each start would fail.
#[test]
fn configuration_in_the_environment_of_the_test_has_no_effect() {
    let test = std::env::current_exe().unwrap();
    let mut test = std::process::Command::new(test);
    test.args(["environment_and_arguments_are_the_tests_own", "--exact"]);
    test.env("DAEMON_DRAIN_TIMEOUT", "nonsense").env("LISTEN_FDS", "1").env("LISTEN_PID", "x");
    let output = Child::spawn(&mut test).wait(SOON).expect_code(0);
    assert!(output.stdout.contains("1 passed"), "{output}");
}

#[test]
fn program_with_a_prefix_of_its_own() {
    let prefixed = program(env!("CARGO_BIN_EXE_fixture-prefixed")).env_prefix("HELLO");
    let app = prefixed.clone().env("HELLO_DRAIN_TIMEOUT", "7s").start();
    app.stop();
    let error = prefixed.env("HELLO_DRAIN_TIMEOUT", "soon").try_start().unwrap_err();
    assert!(error.reason().contains("HELLO_DRAIN_TIMEOUT"), "{error}");
}

#[test]
fn configuration_file_is_read_at_a_restart() {
    let app = program(env!("CARGO_BIN_EXE_fixture-app-config"));
    let app = app.config("[app]\ngreeting = \"one\"").start();
    let greeting = || app.connect("http").get("/").unwrap().text();
    assert_eq!(greeting(), "one");
    app.write_config("[app]\ngreeting = \"two\"");
    app.restart();
    assert_eq!(greeting(), "two");
    app.write_config("[app]\ngreeting = 3");
    let error = app.try_restart().unwrap_err();
    assert!(error.to_string().contains("`app.greeting` in"), "{error}");
    assert_eq!(greeting(), "two");
    assert!(panics(|| http().start().write_config("")).contains("Program::config"));
}

#[test]
fn load_of_another_protocol() {
    let app = program(env!("CARGO_BIN_EXE_fixture-echo")).start();
    let load = app.load("echo").keep_alive(0).exchange(|connection| {
        connection.write_all(b"hello\n")?;
        let mut line = String::new();
        BufReader::new(connection).read_line(&mut line)?;
        if line.ends_with(" hello\n") { Ok(()) } else { Err(line.into()) }
    });
    let call = app.load("echo").call(|addr| {
        let mut stream = TcpStream::connect(addr.tcp())?;
        stream.set_read_timeout(Some(SOON))?;
        stream.write_all(b"hello\n")?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line)?;
        if line.is_empty() { Err("nothing".into()) } else { Ok(()) }
    });
    let (load, call) = (load.start(), call.start());
    app.restart_with(env!("CARGO_BIN_EXE_fixture-echo"));
    for report in [load.finish(), call.finish()] {
        assert!(report.requests() > 4, "{report}");
    }
    let fails = app.load("echo").exchange(|_| Err("of the test".into())).start().finish();
    assert_eq!(fails.failed(), fails.requests());
    assert!(fails.failures()[0].error.ends_with("1 of a connection: of the test"), "{fails}");
    let panicking = app.load("echo").exchange(|_| panic!("of a client")).start();
    assert!(panics(|| _ = panicking.finish()).contains("a request of the load panicked"));
}

#[test]
fn silence_is_a_failure() {
    let app = program(env!("CARGO_BIN_EXE_fixture-echo")).start();
    let load = app.load("echo").timeout(Duration::from_millis(50)).start();
    let report = load.finish();
    assert!(report.failures()[0].error.contains("malformed"), "{report}");
    let load = app.load("echo").timeout(Duration::from_millis(50)).exchange(|connection| {
        BufReader::new(connection).read_line(&mut String::new())?;
        Ok(())
    });
    let report = load.start().finish();
    assert!(report.failures()[0].error.contains("nothing was received for 50ms"), "{report}");
}

#[test]
fn closed_idle_connections_are_no_failures() {
    let app = http().set("listen.http.idle_timeout", "50ms").start();
    let load = app.load("http").keep_alive(1).new_connections(0).pause(Duration::from_millis(300));
    let load = load.start();
    eventually("more requests", SOON, || load.report().requests() > 2);
    let report = load.finish();
    report.assert_nothing_lost();
    assert!(report.reopened() > 0 && report.connections() == report.reopened() + 1, "{report}");
}

#[test]
#[ignore = "fails on purpose, for the test below"]
fn fails() {
    let app = http().start();
    let _load = app.load("http").path("/log/written-by-the-program").start();
    panic!("of the test");
}

#[test]
fn log_and_report_of_a_failed_test_are_printed() {
    let mut test = std::process::Command::new(std::env::current_exe().unwrap());
    test.args(["fails", "--exact", "--ignored"]);
    let output = Child::spawn(&mut test).wait(SOON).expect_code(101);
    for text in ["--- load on `http`", ", 0 failed", "--- log of the daemon", "written-by-the-prog"]
    {
        assert!(output.stdout.contains(text), "{text}\n{output}");
    }
}
