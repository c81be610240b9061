//! P8: `logs` shows the daemon's log, or says where the output goes.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::io::Write;
use std::process::Stdio;
use std::time::Duration;

use unbroken_tests::{Bed, Child, Signal, Terminal};

const SOON: Duration = Duration::from_secs(20);

#[test]
fn logs_shows_the_last_lines_of_running_and_dead_daemons() {
    let mut bed = Bed::new("logs");
    bed.verb(["logs"]).expect_code(1).expect_text("is not running and left no log at");
    bed.start();
    for number in 0..20 {
        bed.get(&format!("/raw/number-{number}")).unwrap();
    }
    let out = bed.verb(["logs"]).expect_code(0);
    let expected: String = (10..20).map(|number| format!("number-{number}\n")).collect();
    assert_eq!(out.stdout, expected);
    assert_eq!(bed.verb(["logs", "-n", "1"]).expect_code(0).stdout, "number-19\n");
    assert_eq!(bed.verb(["logs", "-n0"]).expect_code(0).stdout, "");
    assert_eq!(bed.verb(["logs", "--lines", "1000"]).expect_code(0).stdout, bed.log());
    // The path that the running daemon reports takes precedence over a changed configuration.
    bed.set("DAEMON_LOG", "/nowhere");
    assert_eq!(bed.verb(["logs", "-n1"]).expect_code(0).stdout, "number-19\n");
    bed.set("DAEMON_LOG", bed.log_file().display().to_string());
    // Mistakes in other keys do not matter.
    bed.set("DAEMON_DRAIN_TIMEOUT", "soon");
    bed.verb(["logs", "-n1"]).expect_code(0);
    bed.kill_all();
    assert_eq!(bed.verb(["logs", "-n1"]).expect_code(0).stdout, "number-19\n");
    bed.verb(["logs", "-n", "many"]).expect_code(2);
    bed.verb(["logs", "--set", "drain_timeout=1s"]).expect_code(2).expect_text("drain_timeout");
    let log = bed.log_file().display().to_string();
    bed.unset("DAEMON_LOG");
    let set = format!("log={log}");
    assert_eq!(bed.verb(["logs", "-n1", "--set", &set]).expect_code(0).stdout, "number-19\n");
}

#[test]
fn logs_follows_rotations() {
    let bed = Bed::new("logs");
    bed.start();
    let follower = bed.spawn(["logs", "-f", "-n", "0"]);
    let say = |text: &str| {
        bed.get(&format!("/raw/{text}")).unwrap();
        follower.wait_for_stdout(&format!("{text}\n"), SOON);
    };
    // The first lines may be written before the follower has opened the log.
    while !follower.stdout().contains("here\n") {
        bed.get("/raw/here").unwrap();
    }
    say("before");
    fs::rename(bed.log_file(), bed.path("app.log.1")).unwrap();
    say("renamed");
    bed.supervisor().signal(Signal::USR1);
    follower.wait_for_stdout("the log was reopened", SOON);
    say("rotated");
    // A process still writes to the old file.
    let mut old = fs::OpenOptions::new().append(true).open(bed.path("app.log.1")).unwrap();
    old.write_all(b"late\n").unwrap();
    follower.wait_for_stdout("late\n", SOON);
    // A rotation with copytruncate.
    fs::File::options().write(true).truncate(true).open(bed.log_file()).unwrap();
    say("truncated");
    let once = |text: &str| assert_eq!(follower.stdout().matches(text).count(), 1, "{text}");
    ["before\n", "renamed\n", "rotated\n", "late\n", "truncated\n"].iter().for_each(|it| once(it));
    drop(follower);
    bed.stop();
}

#[test]
fn logs_ends_with_its_reader() {
    let bed = Bed::new("logs");
    bed.start();
    let (reader, writer) = std::io::pipe().unwrap();
    let mut command = bed.command(["logs", "-f"]);
    command.stdin(Stdio::null()).stdout(writer).stderr(Stdio::piped());
    let follower = Child::spawn_as_is(&mut command);
    drop(command);
    drop(reader);
    // Although nothing is written to the log.
    follower.wait(SOON).expect_code(0);
    bed.stop();
}

#[test]
fn logs_of_a_foreground_daemon_says_where_to_look() {
    let mut bed = Bed::new("logs");
    bed.unset("DAEMON_LOG");
    let own = std::process::id();
    let child = bed.foreground();
    let pid = child.pid();
    let text = format!(
        "runs in the foreground as process {pid} and writes to a pipe that process {own} ("
    );
    bed.verb(["logs"]).expect_code(1).expect_text(&text);
    bed.stop();

    let terminal = Terminal::spawn(&bed.command(["run"]));
    bed.wait_serving();
    bed.verb(["logs"]).expect_code(1).expect_text("writes to the terminal /dev/pts/");
    bed.stop();
    drop(terminal);

    // If a shell has redirected stderr to a file, `logs` shows that file.
    let mut command = bed.command(["run"]);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command.stderr(fs::File::create(bed.path("shell.log")).unwrap());
    let _child = Child::spawn_as_is(&mut command);
    bed.wait_serving();
    bed.verb(["logs"]).expect_code(0).expect_text("generation 1 serves");
    bed.stop();

    command.stderr(Stdio::null());
    let _child = Child::spawn_as_is(&mut command);
    bed.wait_serving();
    bed.verb(["logs"]).expect_code(1).expect_text("/dev/null, which discards it");
    bed.stop();
}
