//! P6: `start` tells the truth: it returns 0 only if the daemon is ready, and the reason otherwise.

#![allow(clippy::expect_used)]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::time::{Duration, Instant};

use rustix::process::geteuid;
use unbroken_tests::{Child, Process, Sandbox, Terminal};

const SOON: Duration = Duration::from_secs(20);

#[test]
fn start_returns_when_the_daemon_serves() {
    let sandbox = Sandbox::new("http");
    sandbox.verb(["start"]).expect_code(0);
    // Without waiting: the daemon serves as soon as `start` has returned.
    let status = sandbox.status();
    assert_eq!((status.state.as_str(), status.mode.as_str()), ("running", "supervised"));
    assert_eq!((status.name.as_str(), status.generation), ("app", Some(1)));
    assert_eq!(
        sandbox.get("/").expect("a response").number("pid"),
        Some(status.serving().pid.into())
    );
    assert_eq!(
        fs::read_to_string(sandbox.pidfile()).expect("a pidfile").trim(),
        status.pid.to_string()
    );
    sandbox.stop();
}

/// A started daemon has no controlling terminal, leads no session, and holds no pipe of the process that
/// started it.
#[test]
fn started_daemon_is_detached() {
    let sandbox = Sandbox::new("http");
    sandbox.start();
    for process in [sandbox.supervisor(), sandbox.worker()] {
        let stat = fs::read_to_string(format!("/proc/{}/stat", process.pid())).expect("stat");
        let fields: Vec<_> = stat.rsplit(") ").next().expect("fields").split(' ').collect();
        assert_eq!(fields[4], "0", "a terminal: {stat}");
        assert_ne!(fields[3], process.pid().to_string(), "a session leader: {stat}");
        let pipes: Vec<_> = process
            .descriptors()
            .into_iter()
            .filter(|(number, target)| *number < 3 && target.starts_with("pipe:"))
            .collect();
        assert!(pipes.is_empty(), "{pipes:?}");
    }
    assert_eq!(sandbox.supervisor().threads(), 1);
    sandbox.stop();
}

/// Asserts that the start fails with this code and these reasons, and leaves nothing behind.
#[track_caller]
fn fails(sandbox: &Sandbox, code: i32, reasons: &[&str]) {
    let output = sandbox.verb(["start"]).expect_code(code);
    for reason in reasons {
        assert!(output.text().contains(reason), "`{reason}`\n{output}");
    }
    sandbox.assert_nothing_left();
}

#[test]
fn start_reports_an_error_from_main() {
    fails(
        &Sandbox::new("fails-at-start"),
        1,
        &["cannot open the database", "opening the database"],
    );
}

#[test]
fn start_reports_a_panic() {
    fails(&Sandbox::new("panics-at-start"), 101, &["the schema is from the future"]);
}

#[test]
fn start_returns_the_exit_code() {
    let mut sandbox = Sandbox::new("exits");
    sandbox.set("APP_EXIT", "42");
    fails(&sandbox, 42, &["opening the database"]);
}

#[test]
fn start_fails_when_main_exits_with_success() {
    let mut sandbox = Sandbox::new("exits");
    sandbox.set("APP_EXIT", "0");
    fails(&sandbox, 1, &["opening the database"]);
}

#[test]
fn start_reports_a_signal() {
    fails(&Sandbox::new("aborts-at-start"), 134, &["SIGABRT", "opening the database"]);
}

#[test]
fn start_reports_a_hang() {
    for fixture in ["hangs-at-start", "hangs-sync"] {
        let mut sandbox = Sandbox::new(fixture);
        sandbox.set("DAEMON_READY_TIMEOUT", "1s");
        let begun = Instant::now();
        fails(&sandbox, 1, &["1 s", "`http`", "waiting for the database"]);
        assert!(begun.elapsed() < Duration::from_secs(5));
    }
}

#[test]
fn start_reports_a_missing_configuration_file() {
    fails(&Sandbox::new("bad-config"), 78, &["no-such-file.toml"]);
}

/// `$(app start)` returns, because the daemon does not keep the pipe open.
#[test]
fn command_substitution_of_start_returns() {
    let sandbox = Sandbox::new("http");
    let begun = Instant::now();
    let output = sandbox.shell("out=$(\"$1\" start 2>&1); echo \"code $?\"").expect_code(0);
    assert_eq!(output.stdout, "code 0\n", "{output}");
    assert!(begun.elapsed() < SOON);
    sandbox.shell("\"$1\" status | cat").expect_text("running");
    sandbox.stop();
}

#[test]
fn second_start_is_refused() {
    let sandbox = Sandbox::new("http");
    let pid = sandbox.start().pid;
    let output = sandbox.verb(["start"]).expect_code(1);
    let year = this_year();
    for reason in ["already running", &pid.to_string(), "since", &year] {
        assert!(output.text().contains(reason), "`{reason}`\n{output}");
    }
    sandbox.verb(["run"]).expect_code(1).expect_text("already running");
    assert_eq!(sandbox.status().pid, pid);
    sandbox.stop();
}

/// The current year.
fn this_year() -> String {
    let sandbox = Sandbox::empty();
    sandbox.shell("date -u +%Y").stdout.trim().to_owned()
}

#[test]
fn one_of_fifty_starts_succeeds() {
    let sandbox = Sandbox::new("http");
    let starts: Vec<_> = (0..50).map(|_| sandbox.spawn(["start"])).collect();
    let outputs: Vec<_> = starts.into_iter().map(|start| start.wait(SOON * 3)).collect();
    let (well, other): (Vec<_>, Vec<_>) = outputs.iter().partition(|output| output.code() == 0);
    assert_eq!(well.len(), 1, "{outputs:#?}");
    for output in other {
        assert!(output.code() == 1 && output.text().contains("already running"), "{output}");
    }
    // There are no processes other than those in `status`.
    let status = sandbox.status();
    assert_eq!((status.workers.len(), sandbox.processes().len()), (1, 2));
    sandbox.stop();
}

#[test]
fn daemon_starts_after_everything_was_killed() {
    let sandbox = Sandbox::new("http");
    for _ in 0..3 {
        sandbox.start();
        sandbox.kill_all();
        assert!(sandbox.pidfile().exists(), "nobody was left to remove it");
        sandbox.verb(["status"]).expect_code(1);
    }
    sandbox.start();
    sandbox.stop();
}

/// The process whose PID is in a stale pidfile is never signalled.
#[test]
fn process_with_a_recycled_pid_is_left_alone() {
    let sandbox = Sandbox::new("http");
    let stranger = Child::spawn(&mut sandbox.command_of("sleep", ["1000"]));
    fs::create_dir(sandbox.runtime_dir()).expect("a directory");
    fs::set_permissions(sandbox.runtime_dir(), fs::Permissions::from_mode(0o700))
        .expect("its mode");
    fs::write(sandbox.pidfile(), format!("{}\n", stranger.pid())).expect("a pidfile");
    sandbox.verb(["status"]).expect_code(1);
    sandbox.verb(["stop"]);
    assert!(stranger.process().is_alive());
    sandbox.start();
    assert!(stranger.process().is_alive());
    sandbox.verb(["stop"]).expect_code(0);
    assert!(stranger.process().is_alive());
}

#[test]
fn rubbish_in_the_pidfile_is_ignored() {
    for rubbish in ["", "\n", "-1\n", "0\n", "1\n", "99999999999999999999\n", "\u{0}\u{0}", "pid"] {
        let sandbox = Sandbox::new("http");
        fs::create_dir(sandbox.runtime_dir()).expect("a directory");
        fs::write(sandbox.pidfile(), rubbish).expect("a pidfile");
        fs::set_permissions(sandbox.runtime_dir(), fs::Permissions::from_mode(0o700))
            .expect("a mode");
        sandbox.start();
        sandbox.stop();
    }
}

/// A symbolic link in place of the pidfile is refused, and its target is not written.
#[test]
fn symlink_as_pidfile_is_refused() {
    let sandbox = Sandbox::new("http");
    fs::write(sandbox.path("victim"), "precious").expect("a file");
    fs::create_dir(sandbox.runtime_dir()).expect("a directory");
    fs::set_permissions(sandbox.runtime_dir(), fs::Permissions::from_mode(0o700)).expect("a mode");
    symlink(sandbox.path("victim"), sandbox.pidfile()).expect("a link");
    sandbox.verb(["start"]).expect_code(1).expect_text("app.pid");
    assert_eq!(fs::read_to_string(sandbox.path("victim")).expect("a file"), "precious");
    assert!(sandbox.processes().is_empty());
}

#[test]
fn directory_as_pidfile_is_refused() {
    let sandbox = Sandbox::new("http");
    fs::create_dir_all(sandbox.pidfile()).expect("a directory");
    fs::set_permissions(sandbox.runtime_dir(), fs::Permissions::from_mode(0o700)).expect("a mode");
    sandbox.verb(["start"]).expect_code(1).expect_text("app.pid");
    assert!(sandbox.processes().is_empty());
}

#[test]
fn unwritable_runtime_directory_is_reported() {
    let sandbox = Sandbox::new("http");
    fs::create_dir(sandbox.runtime_dir()).expect("a directory");
    let output = if geteuid().is_root() {
        fs::set_permissions(sandbox.dir(), fs::Permissions::from_mode(0o755)).expect("a mode");
        let nobody = ["--reuid", "65534", "--regid", "65534", "--clear-groups", "--"];
        let mut command = sandbox.command_of("setpriv", nobody);
        command.arg(sandbox.image()).arg("start");
        Child::spawn(&mut command).wait(SOON)
    } else {
        fs::set_permissions(sandbox.runtime_dir(), fs::Permissions::from_mode(0o500))
            .expect("a mode");
        sandbox.verb(["start"])
    };
    assert!(output.code() != 0, "{output}");
    output.expect_text(&sandbox.runtime_dir().display().to_string());
    assert!(sandbox.processes().is_empty());
}

#[test]
fn full_disk_is_reported() {
    if !geteuid().is_root() {
        eprintln!("skipped: mounting needs root");
        return;
    }
    let sandbox = Sandbox::new("http");
    fs::create_dir(sandbox.runtime_dir()).expect("a directory");
    let mut start = sandbox.on_full_disk("run", sandbox.image(), ["start"]);
    let output = Child::spawn(&mut start).wait(SOON).expect_code(1);
    output.expect_text("app.pid").expect_text("o space left");
    assert!(sandbox.processes().is_empty());
}

/// If the log cannot be opened, `start` either succeeds or names the log.
#[test]
fn unusable_log_is_reported_or_harmless() {
    let mut sandbox = Sandbox::new("http");
    sandbox.set("DAEMON_LOG", sandbox.path("no/such/dir/app.log").display().to_string());
    let output = sandbox.verb(["start"]);
    if output.code() == 0 {
        sandbox.stop();
    } else {
        output.expect_text("app.log");
        sandbox.assert_nothing_left();
    }
}

/// A started daemon survives the hangup of the terminal from which it was started.
#[test]
fn daemon_survives_its_terminal() {
    let sandbox = Sandbox::new("http");
    let script = "\"$1\" start && echo started; while :; do sleep 0.05; done";
    let image = sandbox.image();
    let arguments = ["-c".as_ref(), script.as_ref(), "sh".as_ref(), image.as_os_str()];
    let mut terminal = Terminal::spawn(&sandbox.command_of("sh", arguments));
    terminal.wait_for("started", SOON);
    let (supervisor, worker) = (sandbox.supervisor(), sandbox.worker());
    terminal.hang_up();
    terminal.wait(SOON).expect_code(129);
    assert!(!supervisor.wait_gone(Duration::from_millis(300)));
    assert!(worker.is_alive());
    assert_eq!(sandbox.get("/").expect("a response").status, 200);
    assert_eq!(
        (sandbox.supervisor().pid(), sandbox.worker().pid()),
        (supervisor.pid(), worker.pid())
    );
    sandbox.stop();
}

/// A child that a worker leaves behind does not keep the pidfile locked, nor a listener open.
#[test]
fn child_of_a_worker_holds_nothing() {
    let sandbox = Sandbox::new("http");
    let target = sandbox.start().target("http");
    let response = sandbox.get("/child").expect("a response");
    let child =
        response.number("child").and_then(|pid| Process::open(pid as u32)).expect("a child");
    // The dynamic loader has a library open for a moment.
    unbroken_tests::eventually("it has nothing but the standard streams", SOON, || {
        child.descriptors().iter().all(|(number, _)| *number < 3)
    });
    sandbox.supervisor().kill();
    sandbox
        .processes()
        .iter()
        .filter(|process| process.pid() != child.pid())
        .for_each(Process::kill);
    assert!(!target.accepts());
    sandbox.start();
    sandbox.verb(["stop"]).expect_code(0);
    assert!(child.is_alive());
}

/// `start`, interrupted while it waits, leaves no process behind.
#[test]
fn interrupted_start_leaves_nothing() {
    let sandbox = Sandbox::new("hangs-at-start");
    let terminal = Terminal::spawn(&sandbox.command(["start"]));
    unbroken_tests::eventually("a worker", SOON, || sandbox.log().contains("waiting"));
    terminal.keys("\x03");
    terminal.wait(SOON).expect_code(130);
    sandbox.wait_empty(SOON);
}

/// A daemon that inherits an ignored SIGCHLD, which would discard the exit status of its workers, works.
#[test]
fn ignored_sigchld_is_no_obstacle() {
    for fixture in ["http", "solo-http"] {
        let sandbox = Sandbox::new(fixture);
        let image = sandbox.image();
        let arguments = ["--ignore-signal=CHLD".as_ref(), image.as_os_str(), "start".as_ref()];
        let mut start = sandbox.command_of("env", arguments);
        unbroken_tests::Child::spawn(&mut start).wait(SOON).expect_code(0);
        if fixture == "http" {
            sandbox.restart();
        }
        sandbox.stop();
    }
}
