//! P8: the log file is rotated without losing a line, and no fault of it stops the service.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use unbroken_tests::sandbox::PATIENCE;
use unbroken_tests::{Child, Sandbox, Signal, eventually, skip};

const SOON: Duration = Duration::from_secs(20);

const REOPENED: &str = "the log was reopened";

/// The log and its rotated files.
fn files(sandbox: &Sandbox) -> Vec<PathBuf> {
    let entries = fs::read_dir(sandbox.dir()).unwrap().flatten().map(|entry| entry.path());
    let name = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().starts_with("app.log");
    entries.filter(name).collect()
}

fn all_lines(sandbox: &Sandbox) -> Vec<String> {
    let texts = files(sandbox).into_iter().map(|path| fs::read_to_string(path).unwrap());
    texts.flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>()).collect()
}

/// Returns the number of lines that the workers wrote.
///
/// # Panics
///
/// If one of the lines is missing or there twice.
#[track_caller]
fn assert_complete(lines: &[String]) -> usize {
    let mut numbers: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    let mut totals: BTreeMap<u32, usize> = BTreeMap::new();
    for line in lines {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["line", generation, number] => {
                let number = number.parse().unwrap();
                numbers.entry(generation.parse().unwrap()).or_default().push(number);
            }
            ["lines", generation, total] => {
                totals.insert(generation.parse().unwrap(), total.parse().unwrap());
            }
            _ => {}
        }
    }
    assert_eq!(
        numbers.keys().collect::<Vec<_>>(),
        totals.keys().collect::<Vec<_>>(),
        "each worker reported its total"
    );
    for (generation, numbers) in &mut numbers {
        numbers.sort_unstable();
        let total = totals[generation];
        let lost: Vec<usize> =
            (0..total).filter(|number| numbers.binary_search(number).is_err()).collect();
        assert!(
            lost.is_empty(),
            "generation {generation} lost {} of {total}: {lost:?}",
            lost.len()
        );
        assert_eq!(numbers.len(), total, "generation {generation} has lines twice");
    }
    totals.values().sum()
}

fn writing() -> Sandbox {
    let mut sandbox = Sandbox::new("logs");
    sandbox.set("WRITE_LINES", "yes");
    sandbox
}

/// Returns a function that runs logrotate with a configuration for this sandbox. Reports a skipped test and
/// returns `None` if logrotate is not installed.
fn logrotate(sandbox: &Sandbox, how: &str) -> Option<impl Fn()> {
    let found = Command::new("logrotate").arg("--version").stderr(Stdio::null()).output();
    if found.is_err() {
        skip("logrotate is not installed: install it from your distribution");
        return None;
    }
    let config = sandbox.path("rotate.conf");
    let log = sandbox.log_file();
    let text =
        format!("{} {{\n  rotate 1000\n  nocompress\n  missingok\n  {how}\n}}\n", log.display());
    fs::write(&config, text).unwrap();
    fs::set_permissions(&config, fs::Permissions::from_mode(0o644)).unwrap();
    let state = sandbox.path("rotate.state");
    Some(move || {
        let mut command = Command::new("logrotate");
        command.arg("--force").arg("--state").arg(&state).arg(&config);
        Child::spawn(&mut command).wait(PATIENCE).expect_code(0);
    })
}

#[test]
fn no_line_is_lost_when_logrotate_renames() {
    let sandbox = writing();
    let how = format!(
        "create 0604\n  postrotate\n    kill -USR1 $(cat {})\n  endscript",
        sandbox.pidfile().display()
    );
    let Some(rotate) = logrotate(&sandbox, &how) else { return };
    sandbox.start();
    const ROTATIONS: usize = 30;
    for turn in 0..ROTATIONS {
        rotate();
        eventually("the new file is in use", SOON, || {
            let log = sandbox.log();
            log.contains(REOPENED) && log.contains("line ")
        });
        if turn % 5 == 4 {
            sandbox.restart();
        }
    }
    let mode = fs::metadata(sandbox.log_file()).unwrap().mode() & 0o777;
    assert_eq!(mode, 0o604, "as logrotate made it");
    sandbox.stop();
    let lines = all_lines(&sandbox);
    assert_eq!(files(&sandbox).len(), ROTATIONS + 1);
    let written = assert_complete(&lines);
    assert!(written > 1000, "{written}");
    let count = |text: &str| lines.iter().filter(|line| line.contains(text)).count();
    assert_eq!(count(REOPENED), ROTATIONS, "the supervisor's own");
    assert_eq!(count(" serves"), 1 + ROTATIONS / 5);
    assert_eq!(count(" drained after "), ROTATIONS / 5);
    eprintln!("{written} lines of workers in {} files", ROTATIONS + 1);
}

#[test]
fn log_has_no_hole_when_logrotate_copies() {
    let sandbox = writing();
    let Some(rotate) = logrotate(&sandbox, "copytruncate") else { return };
    sandbox.start();
    for _ in 0..10 {
        eventually("there is something to rotate", SOON, || sandbox.log().lines().count() > 200);
        let before = fs::metadata(sandbox.log_file()).unwrap();
        rotate();
        eventually("writing goes on", SOON, || sandbox.log().contains("line "));
        let after = fs::metadata(sandbox.log_file()).unwrap();
        assert_eq!(after.ino(), before.ino());
    }
    sandbox.stop();
    for file in files(&sandbox) {
        let bytes = fs::read(&file).unwrap();
        assert!(!bytes.contains(&0), "{} has a hole", file.display());
    }
    // Lines written between copy and truncation are lost. The others are there once.
    let mut lines: Vec<String> =
        all_lines(&sandbox).into_iter().filter(|line| line.starts_with("line ")).collect();
    let all = lines.len();
    lines.sort_unstable();
    lines.dedup();
    assert_eq!(lines.len(), all);
}

#[test]
fn solo_daemon_reopens_its_log() {
    let mut sandbox = Sandbox::new("logs-solo");
    sandbox.set("WRITE_LINES", "yes");
    sandbox.start();
    for turn in 0..10 {
        fs::rename(sandbox.log_file(), sandbox.path(&format!("app.log.{turn}"))).unwrap();
        sandbox.supervisor().signal(Signal::USR1);
        eventually("the new file is in use", SOON, || sandbox.log().contains(REOPENED));
    }
    sandbox.stop();
    assert!(assert_complete(&all_lines(&sandbox)) > 0);
}

#[test]
fn panics_children_and_libraries_write_to_the_log() {
    let mut sandbox = Sandbox::new("logs");
    sandbox.set("DAEMON_LOG_MODE", "0600");
    sandbox.start();
    assert_eq!(fs::metadata(sandbox.log_file()).unwrap().mode() & 0o777, 0o600);
    fs::rename(sandbox.log_file(), sandbox.path("app.log.1")).unwrap();
    sandbox.supervisor().signal(Signal::USR1);
    eventually("the new file is in use", SOON, || sandbox.log().contains(REOPENED));
    assert_eq!(fs::metadata(sandbox.log_file()).unwrap().mode() & 0o777, 0o600);
    for path in ["/panic", "/child", "/raw/by-the-number"] {
        sandbox.get(path).unwrap();
    }
    eventually("all of it is there", SOON, || {
        let log = sandbox.log();
        ["a thread's panic", "the stderr of a child", "on its stdout", "by-the-number"]
            .iter()
            .all(|text| log.contains(text))
    });
    sandbox.stop();
}

#[test]
fn log_directory_is_created_again_or_the_old_file_kept() {
    let mut sandbox = writing();
    let log = sandbox.path("logs/app.log");
    sandbox.set("DAEMON_LOG", log.display().to_string());
    sandbox.start();
    let text = |path: &Path| fs::read_to_string(path).unwrap_or_default();

    fs::rename(sandbox.path("logs"), sandbox.path("gone")).unwrap();
    sandbox.supervisor().signal(Signal::USR1);
    eventually("the directory is there again", SOON, || {
        text(&log).contains(REOPENED) && text(&log).contains("line ")
    });

    fs::rename(sandbox.path("logs"), sandbox.path("gone-too")).unwrap();
    fs::write(sandbox.path("logs"), "no directory").unwrap();
    let old = sandbox.path("gone-too/app.log");
    sandbox.supervisor().signal(Signal::USR1);
    eventually("the old file is kept", SOON, || {
        text(&old).contains("; still writing to the old file")
    });
    let length = fs::metadata(&old).unwrap().len();
    eventually("and written to", SOON, || fs::metadata(&old).unwrap().len() > length + 100);
    assert_eq!(sandbox.get("/").unwrap().status, 200);
    sandbox.stop();
}

/// Starts the daemon in the foreground by a shell script that executes `"$@"`, with this standard error.
fn within(sandbox: &Sandbox, script: &str, stderr: Stdio) -> Child {
    let mut command = sandbox.command_of("sh", ["-c", script, "sh"]);
    command
        .arg(sandbox.image())
        .arg("run")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(stderr);
    let child = Child::spawn_as_is(&mut command);
    sandbox.wait_serving();
    child
}

/// Asserts that the daemon restarts, replaces a worker, answers and stops, while all processes write to the
/// log.
#[track_caller]
fn assert_serves(sandbox: &Sandbox) {
    sandbox.restart();
    assert_eq!(sandbox.get("/").unwrap().status, 200);
    sandbox.get("/events").unwrap();
    let worker = sandbox.worker();
    worker.signal(Signal::TERM);
    eventually("another worker serves", SOON, || {
        sandbox.status().workers.iter().any(|it| it.state == "serving" && it.pid != worker.pid())
    });
    assert_eq!(sandbox.get("/").unwrap().status, 200);
    sandbox.stop();
}

fn foreground(fixture: &str) -> Sandbox {
    let mut sandbox = Sandbox::new(fixture);
    sandbox.unset("DAEMON_LOG").set("DAEMON_LOG_FORMAT", "json");
    sandbox
}

#[test]
fn full_device_stops_nothing() {
    for fixture in ["logs", "http"] {
        let mut sandbox = foreground(fixture);
        if fixture == "http" {
            sandbox.unset("DAEMON_LOG_FORMAT");
        }
        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let _child = within(&sandbox, "exec \"$@\"", full.into());
        sandbox.restart();
        assert_eq!(sandbox.get("/").unwrap().status, 200);
        sandbox.stop();
    }
}

#[test]
fn file_size_limit_stops_nothing() {
    let sandbox = foreground("logs");
    let file = fs::File::create(sandbox.path("small")).unwrap();
    // Past the limit a write raises SIGXFSZ, which kills by default. The first lines fit.
    let _child = within(&sandbox, "ulimit -f 1 && exec \"$@\"", file.into());
    for _ in 0..20 {
        sandbox.get("/events").unwrap();
    }
    assert_serves(&sandbox);
    let length = fs::metadata(sandbox.path("small")).unwrap().len();
    assert!((400..=1024).contains(&length), "it was full: {length}");
}

#[test]
fn closed_pipe_stops_nothing() {
    let sandbox = foreground("logs");
    let (reader, writer) = std::io::pipe().unwrap();
    let _child = within(&sandbox, "exec \"$@\"", writer.into());
    drop(reader);
    assert_serves(&sandbox);
}

#[test]
fn full_disk_stops_nothing_and_dropped_lines_are_counted() {
    if !rustix::process::geteuid().is_root() {
        skip("a disk can be mounted by root alone");
        return;
    }
    let mut sandbox = Sandbox::new("logs");
    fs::create_dir(sandbox.path("disk")).unwrap();
    sandbox.set("DAEMON_LOG", sandbox.path("disk/app.log").display().to_string());
    sandbox.set("DAEMON_LOG_FORMAT", "text");
    let mut command = sandbox.on_full_disk("disk", sandbox.image(), ["run"]);
    let child = Child::spawn(&mut command);
    sandbox.wait_serving();
    sandbox.restart();
    assert_eq!(sandbox.get("/events").unwrap().status, 200);
    assert_eq!(sandbox.status().generation, Some(2));
    // Free the disk, which is mounted in the daemon's namespace only.
    let root = format!("/proc/{}/root{}", child.pid(), sandbox.path("disk").display());
    fs::remove_file(format!("{root}/filler")).unwrap();
    sandbox.restart();
    let log = fs::read_to_string(format!("{root}/app.log")).unwrap();
    assert!(log.contains(" lines dropped because they could not be written to stderr"), "{log}");
    assert!(log.contains("generation 2 drained"), "{log}");
    sandbox.stop();
}

#[test]
fn full_pipe_does_not_block_the_supervisor() {
    let sandbox = foreground("http");
    let (mut reader, writer) = std::io::pipe().unwrap();
    let _child = within(&sandbox, "exec \"$@\"", writer.try_clone().unwrap().into());
    // A separate open file, whose O_NONBLOCK does not affect the daemon's.
    let filler = fs::OpenOptions::new()
        .write(true)
        .custom_flags(rustix::fs::OFlags::NONBLOCK.bits().try_into().unwrap())
        .open(format!("/proc/self/fd/{}", writer.as_raw_fd()))
        .unwrap();
    let mut filled = 0;
    while let Ok(written) = (&filler).write(&[b'.'; 4096]) {
        filled += written;
    }
    for _ in 0..3 {
        sandbox.restart();
    }
    assert_eq!(sandbox.status().generation, Some(4));

    // One page of the pipe is free, so poll(2) reports it as writable, and a longer line follows. A blocking
    // write would wait forever for the rest.
    reader.read_exact(&mut [0; 4096]).unwrap();
    sandbox.deploy("misuses-link");
    fs::write(sandbox.path("misuse"), "doubled-reason").unwrap();
    for _ in 0..3 {
        let reason = sandbox.restart_aborts().reason.unwrap();
        // In the JSON log the reason is twice as long.
        assert!(reason.matches('\\').count() >= 2000, "{}", reason.len());
    }
    assert_eq!(sandbox.get("/").unwrap().status, 200);

    // Earlier lines are in the pipe before the filler.
    reader.read_exact(&mut vec![0; filled - 4096]).unwrap();
    sandbox.deploy("http");
    sandbox.restart();
    sandbox.stop();
    drop((writer, filler));
    let mut rest = String::new();
    reader.read_to_string(&mut rest).unwrap();
    let rest = rest.trim_start_matches('.');
    assert!(rest.contains(" lines dropped because they could not be written to stderr"), "{rest}");
    assert!(rest.contains("generation 4 drained"), "{rest}");
    assert!(rest.ends_with('\n'), "{rest}");
    for line in rest.lines() {
        assert!(serde_json::from_str::<serde_json::Value>(line).is_ok(), "torn: {line}\n{rest}");
    }
}

#[test]
fn failed_start_is_reported_on_the_terminal_and_in_the_log() {
    // An error of the supervisor.
    let mut sandbox = Sandbox::new("logs");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    sandbox.set("DAEMON_LISTEN_HTTP", taken.local_addr().unwrap().to_string());
    let reason = "cannot bind listener `http`";
    let out = sandbox.verb(["start"]).expect_code(1).expect_text(reason);
    assert_eq!(out.text().matches(reason).count(), 1, "{out}");
    assert!(sandbox.log().contains(reason), "{}", sandbox.log());

    // The same in JSON.
    sandbox.set("DAEMON_LOG_FORMAT", "json");
    let out = sandbox.verb(["start"]).expect_code(1).expect_text(reason);
    assert_eq!(out.text().matches(reason).count(), 1, "{out}");

    // An error of the program.
    let sandbox = Sandbox::new("panics-at-start");
    let out = sandbox.verb(["start"]);
    assert_ne!(out.code(), 0, "{out}");
    assert!(out.text().contains("panicked"), "{out}");
    assert!(sandbox.log().contains("panicked"), "{}", sandbox.log());

    // An error of the control socket, which is created after the log is opened.
    let sandbox = Sandbox::new("logs");
    fs::create_dir(sandbox.runtime_dir()).unwrap();
    fs::set_permissions(sandbox.runtime_dir(), fs::Permissions::from_mode(0o700)).unwrap();
    fs::create_dir(sandbox.socket()).unwrap();
    let out = sandbox.verb(["start"]);
    assert_ne!(out.code(), 0, "{out}");
    let line = out.stderr.lines().next().unwrap();
    let reason = line.strip_prefix("app: ").unwrap_or(line);
    assert!(sandbox.log().contains(reason), "{out}\n{}", sandbox.log());

    // An error before the log is known, and one of a second daemon, are not written to the log.
    let mut sandbox = Sandbox::new("logs");
    sandbox.set("DAEMON_DRAIN_TIMEOUT", "soon");
    sandbox.verb(["start"]).expect_code(78).expect_text("drain_timeout");
    assert!(!sandbox.log_file().exists());
    sandbox.unset("DAEMON_DRAIN_TIMEOUT");
    sandbox.start();
    let log = sandbox.log();
    sandbox.verb(["start"]).expect_code(1).expect_text("already running");
    assert_eq!(sandbox.log(), log);
    sandbox.stop();
}
