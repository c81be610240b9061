//! P6: `start` tells the truth.

#![allow(clippy::expect_used)]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::time::{Duration, Instant};

use rustix::process::geteuid;
use unbroken_tests::{Bed, Child, Process, Terminal};

const SOON: Duration = Duration::from_secs(20);

#[test]
fn ready_means_ready() {
    let bed = Bed::new("http");
    bed.verb(["start"]).expect_code(0);
    // No waiting: it serves now.
    let status = bed.status();
    assert_eq!((status.state.as_str(), status.mode.as_str()), ("running", "supervised"));
    assert_eq!((status.name.as_str(), status.generation), ("app", Some(1)));
    assert_eq!(bed.get("/").expect("a response").number("pid"), Some(status.serving().pid.into()));
    assert_eq!(
        fs::read_to_string(bed.pidfile()).expect("a pidfile").trim(),
        status.pid.to_string()
    );
    bed.stop();
}

/// What the daemon is: detached, and holding nothing of whoever started it.
#[test]
fn detached() {
    let bed = Bed::new("http");
    bed.start();
    for process in [bed.supervisor(), bed.worker()] {
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
    assert_eq!(bed.supervisor().threads(), 1);
    bed.stop();
}

/// A start that fails leaves nothing and says why.
#[track_caller]
fn fails(bed: &Bed, code: i32, reasons: &[&str]) {
    let output = bed.verb(["start"]).expect_code(code);
    for reason in reasons {
        assert!(output.text().contains(reason), "`{reason}`\n{output}");
    }
    bed.assert_nothing_left();
}

#[test]
fn an_error() {
    fails(&Bed::new("fails-at-start"), 1, &["cannot open the database", "opening the database"]);
}

#[test]
fn a_panic() {
    fails(&Bed::new("panics-at-start"), 101, &["the schema is from the future"]);
}

#[test]
fn an_exit_code() {
    let mut bed = Bed::new("exits");
    bed.set("APP_EXIT", "42");
    fails(&bed, 42, &["opening the database"]);
}

#[test]
fn success_that_is_none() {
    let mut bed = Bed::new("exits");
    bed.set("APP_EXIT", "0");
    fails(&bed, 1, &["opening the database"]);
}

#[test]
fn a_signal() {
    fails(&Bed::new("aborts-at-start"), 134, &["SIGABRT", "opening the database"]);
}

#[test]
fn a_hang() {
    for fixture in ["hangs-at-start", "hangs-sync"] {
        let mut bed = Bed::new(fixture);
        bed.set("DAEMON_READY_TIMEOUT", "1s");
        let begun = Instant::now();
        fails(&bed, 1, &["1 s", "`http`", "waiting for the database"]);
        assert!(begun.elapsed() < Duration::from_secs(5));
    }
}

#[test]
fn a_configuration_that_is_not_there() {
    fails(&Bed::new("bad-config"), 78, &["no-such-file.toml"]);
}

/// `$(app start)` returns: nobody keeps its pipe.
#[test]
fn in_a_command_substitution() {
    let bed = Bed::new("http");
    let begun = Instant::now();
    let output = bed.shell("out=$(\"$1\" start 2>&1); echo \"code $?\"").expect_code(0);
    assert_eq!(output.stdout, "code 0\n", "{output}");
    assert!(begun.elapsed() < SOON);
    bed.shell("\"$1\" status | cat").expect_text("running");
    bed.stop();
}

#[test]
fn a_second_start() {
    let bed = Bed::new("http");
    let pid = bed.start().pid;
    let output = bed.verb(["start"]).expect_code(1);
    let year = this_year();
    for reason in ["already running", &pid.to_string(), "since", &year] {
        assert!(output.text().contains(reason), "`{reason}`\n{output}");
    }
    bed.verb(["run"]).expect_code(1).expect_text("already running");
    assert_eq!(bed.status().pid, pid);
    bed.stop();
}

/// The year, as `date` says it.
fn this_year() -> String {
    let bed = Bed::empty();
    bed.shell("date -u +%Y").stdout.trim().to_owned()
}

#[test]
fn fifty_at_once() {
    let bed = Bed::new("http");
    let starts: Vec<_> = (0..50).map(|_| bed.spawn(["start"])).collect();
    let outputs: Vec<_> = starts.into_iter().map(|start| start.wait(SOON * 3)).collect();
    let (well, other): (Vec<_>, Vec<_>) = outputs.iter().partition(|output| output.code() == 0);
    assert_eq!(well.len(), 1, "{outputs:#?}");
    for output in other {
        assert!(output.code() == 1 && output.text().contains("already running"), "{output}");
    }
    // Nothing is there that `status` does not know.
    let status = bed.status();
    assert_eq!((status.workers.len(), bed.processes().len()), (1, 2));
    bed.stop();
}

#[test]
fn after_everything_was_killed() {
    let bed = Bed::new("http");
    for _ in 0..3 {
        bed.start();
        bed.kill_all();
        assert!(bed.pidfile().exists(), "nobody was left to remove it");
        bed.verb(["status"]).expect_code(1);
    }
    bed.start();
    bed.stop();
}

/// The PID in a stale pidfile may be anybody's by now.
#[test]
fn a_recycled_pid() {
    let bed = Bed::new("http");
    let stranger = Child::spawn(&mut bed.command_of("sleep", ["1000"]));
    fs::create_dir(bed.runtime_dir()).expect("a directory");
    fs::set_permissions(bed.runtime_dir(), fs::Permissions::from_mode(0o700)).expect("its mode");
    fs::write(bed.pidfile(), format!("{}\n", stranger.pid())).expect("a pidfile");
    bed.verb(["status"]).expect_code(1);
    bed.verb(["stop"]);
    assert!(stranger.process().is_alive());
    bed.start();
    assert!(stranger.process().is_alive());
    bed.verb(["stop"]).expect_code(0);
    assert!(stranger.process().is_alive());
}

#[test]
fn rubbish_in_the_pidfile() {
    for rubbish in ["", "\n", "-1\n", "0\n", "1\n", "99999999999999999999\n", "\u{0}\u{0}", "pid"] {
        let bed = Bed::new("http");
        fs::create_dir(bed.runtime_dir()).expect("a directory");
        fs::write(bed.pidfile(), rubbish).expect("a pidfile");
        fs::set_permissions(bed.runtime_dir(), fs::Permissions::from_mode(0o700)).expect("a mode");
        bed.start();
        bed.stop();
    }
}

/// Somebody may have prepared a link for us to write through.
#[test]
fn a_symlink_as_pidfile() {
    let bed = Bed::new("http");
    fs::write(bed.path("victim"), "precious").expect("a file");
    fs::create_dir(bed.runtime_dir()).expect("a directory");
    fs::set_permissions(bed.runtime_dir(), fs::Permissions::from_mode(0o700)).expect("a mode");
    symlink(bed.path("victim"), bed.pidfile()).expect("a link");
    bed.verb(["start"]).expect_code(1).expect_text("app.pid");
    assert_eq!(fs::read_to_string(bed.path("victim")).expect("a file"), "precious");
    assert!(bed.processes().is_empty());
}

#[test]
fn a_directory_as_pidfile() {
    let bed = Bed::new("http");
    fs::create_dir_all(bed.pidfile()).expect("a directory");
    fs::set_permissions(bed.runtime_dir(), fs::Permissions::from_mode(0o700)).expect("a mode");
    bed.verb(["start"]).expect_code(1).expect_text("app.pid");
    assert!(bed.processes().is_empty());
}

#[test]
fn a_directory_one_may_not_write() {
    let bed = Bed::new("http");
    fs::create_dir(bed.runtime_dir()).expect("a directory");
    let output = if geteuid().is_root() {
        fs::set_permissions(bed.dir(), fs::Permissions::from_mode(0o755)).expect("a mode");
        let nobody = ["--reuid", "65534", "--regid", "65534", "--clear-groups", "--"];
        let mut command = bed.command_of("setpriv", nobody);
        command.arg(bed.image()).arg("start");
        Child::spawn(&mut command).wait(SOON)
    } else {
        fs::set_permissions(bed.runtime_dir(), fs::Permissions::from_mode(0o500)).expect("a mode");
        bed.verb(["start"])
    };
    assert!(output.code() != 0, "{output}");
    output.expect_text(&bed.runtime_dir().display().to_string());
    assert!(bed.processes().is_empty());
}

#[test]
fn a_full_disk() {
    if !geteuid().is_root() {
        eprintln!("skipped: mounting needs root");
        return;
    }
    let bed = Bed::new("http");
    fs::create_dir(bed.runtime_dir()).expect("a directory");
    let mut start = bed.on_full_disk("run", bed.image(), ["start"]);
    let output = Child::spawn(&mut start).wait(SOON).expect_code(1);
    output.expect_text("app.pid").expect_text("o space left");
    assert!(bed.processes().is_empty());
}

/// The log's disk may be full as well: that is no reason not to serve, nor to die.
#[test]
fn a_log_one_cannot_open() {
    let mut bed = Bed::new("http");
    bed.set("DAEMON_LOG", bed.path("no/such/dir/app.log").display().to_string());
    let output = bed.verb(["start"]);
    if output.code() == 0 {
        bed.stop();
    } else {
        output.expect_text("app.log");
        bed.assert_nothing_left();
    }
}

/// The terminal one started it from is closed: the daemon stays.
#[test]
fn survives_its_terminal() {
    let bed = Bed::new("http");
    let script = "\"$1\" start && echo started; while :; do sleep 0.05; done";
    let image = bed.image();
    let arguments = ["-c".as_ref(), script.as_ref(), "sh".as_ref(), image.as_os_str()];
    let mut terminal = Terminal::spawn(&bed.command_of("sh", arguments));
    terminal.wait_for("started", SOON);
    let (supervisor, worker) = (bed.supervisor(), bed.worker());
    terminal.hang_up();
    terminal.wait(SOON).expect_code(129);
    assert!(!supervisor.wait_gone(Duration::from_millis(300)));
    assert!(worker.is_alive());
    assert_eq!(bed.get("/").expect("a response").status, 200);
    assert_eq!((bed.supervisor().pid(), bed.worker().pid()), (supervisor.pid(), worker.pid()));
    bed.stop();
}

/// What a worker leaves behind does not keep the pidfile locked, nor a listener bound.
#[test]
fn a_worker_s_child_holds_nothing() {
    let bed = Bed::new("http");
    let target = bed.start().target("http");
    let response = bed.get("/child").expect("a response");
    let child =
        response.number("child").and_then(|pid| Process::open(pid as u32)).expect("a child");
    // Its loader has a library open for a moment.
    unbroken_tests::eventually("it has nothing but the standard streams", SOON, || {
        child.descriptors().iter().all(|(number, _)| *number < 3)
    });
    bed.supervisor().kill();
    bed.processes().iter().filter(|process| process.pid() != child.pid()).for_each(Process::kill);
    assert!(!target.accepts());
    bed.start();
    bed.verb(["stop"]).expect_code(0);
    assert!(child.is_alive());
}

/// Interrupted while it waits, `start` does not leave half a daemon.
#[test]
fn an_interrupted_start() {
    let bed = Bed::new("hangs-at-start");
    let terminal = Terminal::spawn(&bed.command(["start"]));
    unbroken_tests::eventually("a worker", SOON, || bed.log().contains("waiting"));
    terminal.keys("\x03");
    terminal.wait(SOON).expect_code(130);
    bed.wait_empty(SOON);
}

/// Whoever starts it may ignore the ends of children, which a daemon would inherit.
#[test]
fn started_by_one_who_ignores_children() {
    for fixture in ["http", "solo-http"] {
        let bed = Bed::new(fixture);
        let image = bed.image();
        let arguments = ["--ignore-signal=CHLD".as_ref(), image.as_os_str(), "start".as_ref()];
        let mut start = bed.command_of("env", arguments);
        unbroken_tests::Child::spawn(&mut start).wait(SOON).expect_code(0);
        if fixture == "http" {
            bed.restart();
        }
        bed.stop();
    }
}
