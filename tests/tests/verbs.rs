//! The verbs as a new user uses them, including mistakes.

#![allow(clippy::expect_used)]

use std::fs;
use std::time::Duration;

use unbroken_tests::{Bed, Child, Output, eventually};

const SOON: Duration = Duration::from_secs(20);

/// Asserts that all of these words are in the output, in either stream and in any case.
#[track_caller]
fn says(output: &Output, words: &[&str]) {
    let text = output.text().to_lowercase();
    for word in words {
        assert!(text.contains(&word.to_lowercase()), "`{word}`\n{output}");
    }
}

#[test]
fn start_status_restart_stop() {
    let bed = Bed::new("http");
    bed.verb(["status"]).expect_code(3);
    bed.verb(["start"]).expect_code(0);
    says(
        &bed.verb(["status"]).expect_code(0),
        &["app", "running", "generation 1", "http", "127.0.0.1:"],
    );
    says(&bed.verb(["restart"]).expect_code(0), &["generation 2"]);
    says(&bed.verb(["status"]).expect_code(0), &["generation 2"]);
    bed.verb(["stop"]).expect_code(0);
    bed.verb(["status"]).expect_code(3);
    bed.assert_nothing_left();
}

#[test]
fn verbs_report_that_nothing_runs() {
    let bed = Bed::new("http");
    says(&bed.verb(["restart"]).expect_code(1), &["not running", "start"]);
    says(&bed.verb(["stop"]), &["not running"]);
    says(&bed.verb(["status"]).expect_code(3), &["not running"]);
    bed.assert_nothing_left();
}

#[test]
fn wrong_options_are_refused() {
    let bed = Bed::new("http");
    for (arguments, words) in [
        (&["start", "--frobnicate"][..], &["--frobnicate"][..]),
        (&["start", "--set"], &["--set"]),
        (&["start", "--set", "drain_timeout"], &["drain_timeout", "="]),
        (&["status", "--jsno"], &["--jsno", "--json"]),
        (&["stop", "now"], &["now"]),
    ] {
        says(&bed.verb(arguments).expect_code(2), words);
    }
    bed.assert_nothing_left();
}

/// `--set` for a running daemon is refused, because a verb cannot change its settings.
#[test]
fn set_is_refused_for_a_running_daemon() {
    let bed = Bed::new("http");
    let pid = bed.start().serving().pid;
    for verb in ["restart", "stop", "status"] {
        let output = bed.verb([verb, "--set", "drain_timeout=1s"]).expect_code(2);
        says(&output, &["drain_timeout", "configuration file"]);
    }
    assert_eq!(bed.status().serving().pid, pid);
    let place = format!("pidfile={}", bed.pidfile().display());
    bed.verb(["stop", "--set", &place]).expect_code(0);
    bed.assert_nothing_left();
}

#[test]
fn every_verb_has_help() {
    let bed = Bed::new("http");
    for verb in ["run", "start", "stop", "restart", "status", "logs", "check", "unit"] {
        says(&bed.verb([verb, "--help"]).expect_code(0), &["usage", verb]);
    }
}

/// A wrong value is reported with its source, and nothing is started.
#[test]
fn wrong_values_are_reported_with_their_source() {
    for verb in ["start", "run", "check"] {
        let mut bed = Bed::new("http");
        let wrong = |bed: &Bed, arguments: &[&str], words: &[&str]| {
            let arguments = std::iter::once(&verb).chain(arguments);
            says(&bed.verb(arguments).expect_code(78), words);
            bed.assert_nothing_left();
        };
        wrong(&bed, &["--set", "drain_timeout=soon"], &["drain_timeout", "soon", "--set"]);
        wrong(&bed, &["--set", "drian_timeout=1s"], &["drian_timeout", "drain_timeout"]);
        wrong(&bed, &["--set", "listen.http=db.local:80"], &["listen.http", "db.local"]);
        bed.set("DAEMON_DRAIN_TIMEOUT", "soon");
        wrong(&bed, &[], &["DAEMON_DRAIN_TIMEOUT", "soon"]);
        bed.unset("DAEMON_DRAIN_TIMEOUT").set("DAEMON_DRIAN_TIMEOUT", "1s");
        wrong(&bed, &[], &["DAEMON_DRIAN_TIMEOUT", "DRAIN_TIMEOUT"]);
        bed.unset("DAEMON_DRIAN_TIMEOUT").set("DAEMON_CONFIG", "app.toml");
        wrong(&bed, &[], &["app.toml"]);
        fs::write(bed.path("app.toml"), "drain_timeout = 'soon'").expect("a file");
        wrong(&bed, &[], &["app.toml", "drain_timeout", "soon"]);
        fs::write(bed.path("app.toml"), "[listen\n").expect("a file");
        wrong(&bed, &[], &["app.toml"]);
    }
}

/// Later sources take precedence: attribute, file, environment, command line.
#[test]
fn later_sources_take_precedence() {
    let mut bed = Bed::new("http");
    let check = |bed: &Bed, arguments: &[&str], words: &[&str]| {
        let arguments = std::iter::once(&"check").chain(arguments);
        let output = bed.verb(arguments).expect_code(0);
        let line = output.text();
        let line = line.lines().find(|line| line.contains("drain_timeout"));
        let line = line.unwrap_or_else(|| panic!("no drain_timeout\n{output}"));
        for word in words {
            assert!(line.contains(word), "`{word}`\n{output}");
        }
    };
    check(&bed, &[], &["10s"]);
    fs::write(bed.path("app.toml"), "drain_timeout = '11s'").expect("a file");
    bed.set("DAEMON_CONFIG", "app.toml");
    check(&bed, &[], &["11s", "app.toml"]);
    bed.set("DAEMON_DRAIN_TIMEOUT", "12s");
    check(&bed, &[], &["12s", "DAEMON_DRAIN_TIMEOUT"]);
    check(&bed, &["--set", "drain_timeout=13s"], &["13s", "--set"]);
    bed.assert_nothing_left();
}

/// Arguments after `--`, and arguments without a verb, are passed to the program.
#[test]
fn program_gets_its_own_arguments() {
    let bed = Bed::new("leaky");
    for (arguments, wanted) in [
        (&["run", "--", "stop", "--json"][..], &["stop", "--json"][..]),
        (&["frob", "--nicate", "--", "x"], &["frob", "--nicate", "--", "x"]),
        (&["--", "start"], &["--", "start"]),
        (&[], &[]),
    ] {
        let daemon = bed.spawn(arguments);
        bed.wait_serving();
        let text = bed.get("/self").expect("a response").text();
        let seen: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("arg ")).collect();
        assert_eq!(seen[1..], *wanted, "{arguments:?}");
        bed.restart();
        let text = bed.get("/self").expect("a response").text();
        let seen: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("arg ")).collect();
        assert_eq!(seen[1..], *wanted, "{arguments:?}, after a restart");
        bed.verb(["stop"]).expect_code(0);
        daemon.wait(SOON).expect_code(0);
    }
}

/// The verbs of a renamed binary find the daemon by its pidfile.
#[test]
fn renamed_binary_finds_its_daemon() {
    let bed = Bed::new("http");
    let pid = bed.start().pid;
    fs::rename(bed.image(), bed.path("other")).expect("an image");
    let verb = |verb: &str| {
        let mut command = bed.command_of(bed.path("other"), [verb]);
        unbroken_tests::Child::spawn(&mut command).wait(SOON)
    };
    says(&verb("status").expect_code(0), &[&pid.to_string()]);
    verb("stop").expect_code(0);
    bed.assert_nothing_left();
}

/// Clients that disconnect before the answer, or send no request, do not affect the daemon.
#[test]
fn clients_that_disconnect_do_no_harm() {
    let bed = Bed::new("http");
    let status = bed.start();
    for verb in ["restart", "status"] {
        for delay in [0, 5, 20, 50] {
            let child = bed.spawn([verb]);
            child.process().wait_gone(Duration::from_millis(delay));
            drop(child);
        }
    }
    let silent: Vec<_> = (0..20)
        .filter_map(|_| {
            use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, connect, socket};
            let kind = SocketType::SEQPACKET;
            let socket = socket(AddressFamily::UNIX, kind, None).ok()?;
            connect(&socket, &SocketAddrUnix::new(bed.socket()).ok()?).ok()?;
            Some(socket)
        })
        .collect();
    assert_eq!(bed.status().pid, status.pid);
    bed.restart();
    drop(silent);
    bed.stop();
}

/// Clients for which there is no descriptor wait, and do not fill the log with messages.
#[test]
fn excess_clients_do_not_fill_the_log() {
    for fixture in ["http", "solo-http"] {
        let bed = Bed::new(fixture);
        let image = bed.image();
        let arguments = ["--nofile=32".as_ref(), image.as_os_str(), "start".as_ref()];
        Child::spawn(&mut bed.command_of("prlimit", arguments)).wait(SOON).expect_code(0);
        let silent: Vec<_> = (0..40).filter_map(|_| silent(&bed)).collect();
        assert_eq!(silent.len(), 40);
        std::thread::sleep(Duration::from_secs(1));
        let complaints = bed.log().matches("control client").count();
        assert!(complaints < 10, "{complaints}");
        drop(silent);
        bed.stop();
    }
}

/// A connection to the control socket without a request.
fn silent(bed: &Bed) -> Option<std::os::fd::OwnedFd> {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, connect, socket};
    let socket = socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).ok()?;
    connect(&socket, &SocketAddrUnix::new(bed.socket()).ok()?).ok()?;
    Some(socket)
}

/// `status` shows the last restart that has ended, not one that is running.
#[test]
fn last_restart_excludes_the_current_one() {
    let bed = Bed::new("http");
    bed.start();
    bed.restart();
    let at = || bed.status().last_restart().expect("a restart").at;
    let before = at();
    std::thread::sleep(Duration::from_millis(1100));
    bed.deploy("hangs-at-start");
    let restart = bed.spawn(["restart"]);
    eventually("two workers", SOON, || bed.status().workers.len() == 2);
    assert_eq!(at(), before);
    drop(restart);
    bed.supervisor().signal(unbroken_tests::Signal::QUIT);
    bed.wait_empty(SOON);
}

/// Two daemons of the same program, with different pidfiles, are independent.
#[test]
fn two_daemons_of_one_program_are_independent() {
    let (one, other) = (Bed::new("http"), Bed::new("http"));
    let (first, second) = (one.start(), other.start());
    assert_ne!(first.pid, second.pid);
    one.stop();
    assert_eq!(other.status().pid, second.pid);
    other.stop();
}

/// Relative paths remain relative to the starting directory.
#[test]
fn relative_paths_stay_relative_to_the_starting_directory() {
    let mut bed = Bed::new("http");
    bed.set("DAEMON_RUNTIME_DIR", "run").set("DAEMON_PIDFILE", "run/app.pid");
    bed.set("DAEMON_LOG", "app.log");
    bed.shell("./app start").expect_code(0);
    assert!(bed.pidfile().exists() && bed.log_file().exists());
    bed.deploy("http-v2");
    bed.restart();
    assert_eq!(bed.get("/").expect("a response").number("version"), Some(2));
    bed.stop();
}

/// A restart after a symbolic link was switched runs the other release.
#[test]
fn switched_symlink_is_deployed() {
    let bed = Bed::new("http");
    let releases = bed.path("releases");
    fs::create_dir(&releases).expect("a directory");
    fs::rename(bed.image(), releases.join("1")).expect("an image");
    bed.deploy("http-v2");
    fs::rename(bed.image(), releases.join("2")).expect("an image");
    std::os::unix::fs::symlink("releases/1", bed.image()).expect("a link");
    bed.start();
    assert_eq!(bed.get("/").expect("a response").number("version"), Some(1));
    std::os::unix::fs::symlink("releases/2", bed.path("next")).expect("a link");
    fs::rename(bed.path("next"), bed.image()).expect("a link");
    bed.restart();
    assert_eq!(bed.get("/").expect("a response").number("version"), Some(2));
    bed.stop();
}

/// The program reads its own section `[app]`, and a wrong value aborts a restart.
#[test]
fn app_section_is_read() {
    let mut bed = Bed::new("app-config");
    let output = bed.verb(["start"]);
    assert_ne!(output.code(), 0);
    says(&output, &["greeting"]);
    bed.assert_nothing_left();

    fs::write(bed.path("app.toml"), "[app]\ngreeting = 'hi'\n").expect("a file");
    bed.set("DAEMON_CONFIG", bed.path("app.toml").display().to_string());
    bed.set("DAEMON_APP__TIMES", "2");
    bed.start();
    assert_eq!(bed.get("/").expect("a response").text(), "hihi");
    fs::write(bed.path("app.toml"), "[app]\ngreeting = 'ho'\n").expect("a file");
    bed.restart();
    assert_eq!(bed.get("/").expect("a response").text(), "hoho");
    fs::write(bed.path("app.toml"), "[app]\ngreeting = 3\n").expect("a file");
    says(&bed.verb(["restart"]).expect_code(1), &["greeting"]);
    assert_eq!(bed.get("/").expect("a response").text(), "hoho");
    bed.stop();
}

/// Verbs for a daemon of another user fail and say who may use them.
#[test]
fn daemon_of_another_user_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    let bed = Bed::new("http");
    fs::set_permissions(bed.dir(), fs::Permissions::from_mode(0o755)).expect("a mode");
    let pid = bed.start().pid;
    let image = bed.image();
    for verb in ["status", "stop", "restart"] {
        let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups"].map(AsRef::as_ref);
        let arguments = nobody.into_iter().chain([image.as_os_str(), verb.as_ref()]);
        let output = Child::spawn(&mut bed.command_of("setpriv", arguments)).wait(SOON);
        says(&output.expect_code(1), &["app.pid", "another user", "root"]);
    }
    assert_eq!(bed.status().pid, pid);
    bed.stop();
}

/// A misspelt verb with options is refused with a suggestion, and not passed to the program.
#[test]
fn misspelt_verb_with_options_is_refused() {
    let bed = Bed::new("http");
    for arguments in [["restrat", "--no-wait"], ["staus", "--json"], ["strt", "--set=name=b"]] {
        says(&bed.verb(arguments).expect_code(2), &[arguments[0], "did you mean"]);
    }
    bed.assert_nothing_left();
}

/// Verbs of other programs, such as `reload`, are refused with a suggestion, and start nothing.
#[test]
fn verbs_of_other_programs_are_refused() {
    let bed = Bed::new("leaky");
    for (arguments, verb) in [
        (&["reload"][..], "-leaky restart`"),
        (&["kill", "4711"], "-leaky stop`"),
        (&["quit"], "-leaky stop`"),
        (&["ps"], "-leaky status`"),
        (&["version"], "-leaky help`"),
        (&["upgrade", "--now"], "-leaky restart`"),
    ] {
        let output = bed.verb(arguments).expect_code(2);
        says(&output, &["did you mean", verb, &format!("run -- {}", arguments[0])]);
    }
    bed.assert_nothing_left();
    let daemon = bed.spawn(["run", "--", "reload", "version"]);
    bed.wait_serving();
    let text = bed.get("/self").expect("a response").text();
    let seen: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("arg ")).collect();
    assert_eq!(seen[1..], ["reload", "version"]);
    bed.verb(["stop"]).expect_code(0);
    daemon.wait(SOON).expect_code(0);
}

/// Arguments for the program are refused by verbs that do not start it.
#[test]
fn arguments_are_refused_by_verbs_that_start_nothing() {
    let bed = Bed::new("leaky");
    let hint = "start -- --greeting 'hello world'";
    says(&bed.verb(["start", "--greeting", "hello world"]).expect_code(2), &["--greeting", hint]);
    bed.assert_nothing_left();
    bed.verb(["start", "--", "--greeting", "hello world"]).expect_code(0);
    let pid = bed.status().serving().pid;
    for verb in ["restart", "stop", "status", "logs"] {
        let output = bed.verb([verb, "--", "--greeting", "two"]).expect_code(2);
        says(&output, &["-- --greeting two", "no effect on a running daemon"]);
    }
    says(&bed.verb(["check", "--", "two"]).expect_code(2), &["-- two"]);
    assert_eq!(bed.status().serving().pid, pid);
    bed.stop();
}
