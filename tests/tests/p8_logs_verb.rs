//! P8: `logs` shows the daemon's log, or says where the output goes.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::io::Write;
use std::process::Stdio;
use std::time::Duration;

use unbroken_tests::{Child, Sandbox, Signal, Terminal};

const SOON: Duration = Duration::from_secs(20);

#[test]
fn logs_shows_the_last_lines_of_running_and_dead_daemons() {
    let mut sandbox = Sandbox::new("logs");
    sandbox.verb(["logs"]).expect_code(1).expect_text("is not running and left no log at");
    sandbox.start();
    for number in 0..20 {
        sandbox.get(&format!("/raw/number-{number}")).unwrap();
    }
    let out = sandbox.verb(["logs"]).expect_code(0);
    let expected: String = (10..20).map(|number| format!("number-{number}\n")).collect();
    assert_eq!(out.stdout, expected);
    assert_eq!(sandbox.verb(["logs", "-n", "1"]).expect_code(0).stdout, "number-19\n");
    assert_eq!(sandbox.verb(["logs", "-n0"]).expect_code(0).stdout, "");
    assert_eq!(sandbox.verb(["logs", "--lines", "1000"]).expect_code(0).stdout, sandbox.log());
    // The path that the running daemon reports takes precedence over a changed configuration.
    sandbox.set("DAEMON_LOG", "/nowhere");
    assert_eq!(sandbox.verb(["logs", "-n1"]).expect_code(0).stdout, "number-19\n");
    sandbox.set("DAEMON_LOG", sandbox.log_file().display().to_string());
    // Mistakes in other keys do not matter.
    sandbox.set("DAEMON_DRAIN_TIMEOUT", "soon");
    sandbox.verb(["logs", "-n1"]).expect_code(0);
    sandbox.kill_all();
    assert_eq!(sandbox.verb(["logs", "-n1"]).expect_code(0).stdout, "number-19\n");
    sandbox.verb(["logs", "-n", "many"]).expect_code(2);
    sandbox.verb(["logs", "--set", "drain_timeout=1s"]).expect_code(2).expect_text("drain_timeout");
    let log = sandbox.log_file().display().to_string();
    sandbox.unset("DAEMON_LOG");
    let set = format!("log={log}");
    assert_eq!(sandbox.verb(["logs", "-n1", "--set", &set]).expect_code(0).stdout, "number-19\n");
}

#[test]
fn logs_follows_rotations() {
    let sandbox = Sandbox::new("logs");
    sandbox.start();
    let follower = sandbox.spawn(["logs", "-f", "-n", "0"]);
    let say = |text: &str| {
        sandbox.get(&format!("/raw/{text}")).unwrap();
        follower.wait_for_stdout(&format!("{text}\n"), SOON);
    };
    // The first lines may be written before the follower has opened the log.
    while !follower.stdout().contains("here\n") {
        sandbox.get("/raw/here").unwrap();
    }
    say("before");
    fs::rename(sandbox.log_file(), sandbox.path("app.log.1")).unwrap();
    say("renamed");
    sandbox.supervisor().signal(Signal::USR1);
    follower.wait_for_stdout("the log was reopened", SOON);
    say("rotated");
    // A process still writes to the old file.
    let mut old = fs::OpenOptions::new().append(true).open(sandbox.path("app.log.1")).unwrap();
    old.write_all(b"late\n").unwrap();
    follower.wait_for_stdout("late\n", SOON);
    // A rotation with copytruncate.
    fs::File::options().write(true).truncate(true).open(sandbox.log_file()).unwrap();
    say("truncated");
    let once = |text: &str| assert_eq!(follower.stdout().matches(text).count(), 1, "{text}");
    ["before\n", "renamed\n", "rotated\n", "late\n", "truncated\n"].iter().for_each(|it| once(it));
    drop(follower);
    sandbox.stop();
}

#[test]
fn logs_ends_with_its_reader() {
    let sandbox = Sandbox::new("logs");
    sandbox.start();
    let (reader, writer) = std::io::pipe().unwrap();
    let mut command = sandbox.command(["logs", "-f"]);
    command.stdin(Stdio::null()).stdout(writer).stderr(Stdio::piped());
    let follower = Child::spawn_as_is(&mut command);
    drop(command);
    drop(reader);
    // Although nothing is written to the log.
    follower.wait(SOON).expect_code(0);
    sandbox.stop();
}

#[test]
fn logs_of_a_foreground_daemon_says_where_to_look() {
    let mut sandbox = Sandbox::new("logs");
    sandbox.unset("DAEMON_LOG");
    let own = std::process::id();
    let child = sandbox.foreground();
    let pid = child.pid();
    let text = format!(
        "runs in the foreground as process {pid} and writes to a pipe that process {own} ("
    );
    sandbox.verb(["logs"]).expect_code(1).expect_text(&text);
    sandbox.stop();

    let terminal = Terminal::spawn(&sandbox.command(["run"]));
    sandbox.wait_serving();
    sandbox.verb(["logs"]).expect_code(1).expect_text("writes to the terminal /dev/pts/");
    sandbox.stop();
    drop(terminal);

    // If a shell has redirected stderr to a file, `logs` shows that file.
    let mut command = sandbox.command(["run"]);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command.stderr(fs::File::create(sandbox.path("shell.log")).unwrap());
    let _child = Child::spawn_as_is(&mut command);
    sandbox.wait_serving();
    sandbox.verb(["logs"]).expect_code(0).expect_text("generation 1 serves");
    sandbox.stop();

    command.stderr(Stdio::null());
    let _child = Child::spawn_as_is(&mut command);
    sandbox.wait_serving();
    sandbox.verb(["logs"]).expect_code(1).expect_text("/dev/null, which discards it");
    sandbox.stop();
}
