//! The verbs as a new user uses them, including mistakes.

#![allow(clippy::expect_used)]

use std::fs;
use std::time::Duration;

use unbroken_tests::{Child, Output, Sandbox, eventually};

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
    let sandbox = Sandbox::new("http");
    sandbox.verb(["status"]).expect_code(3);
    sandbox.verb(["start"]).expect_code(0);
    says(
        &sandbox.verb(["status"]).expect_code(0),
        &["app", "running", "generation 1", "http", "127.0.0.1:"],
    );
    says(&sandbox.verb(["restart"]).expect_code(0), &["generation 2"]);
    says(&sandbox.verb(["status"]).expect_code(0), &["generation 2"]);
    sandbox.verb(["stop"]).expect_code(0);
    sandbox.verb(["status"]).expect_code(3);
    sandbox.assert_nothing_left();
}

#[test]
fn verbs_report_that_nothing_runs() {
    let sandbox = Sandbox::new("http");
    says(&sandbox.verb(["restart"]).expect_code(1), &["not running", "start"]);
    says(&sandbox.verb(["stop"]), &["not running"]);
    says(&sandbox.verb(["status"]).expect_code(3), &["not running"]);
    sandbox.assert_nothing_left();
}

#[test]
fn wrong_options_are_refused() {
    let sandbox = Sandbox::new("http");
    for (arguments, words) in [
        (&["start", "--frobnicate"][..], &["--frobnicate"][..]),
        (&["start", "--set"], &["--set"]),
        (&["start", "--set", "drain_timeout"], &["drain_timeout", "="]),
        (&["status", "--jsno"], &["--jsno", "--json"]),
        (&["stop", "now"], &["now"]),
    ] {
        says(&sandbox.verb(arguments).expect_code(2), words);
    }
    sandbox.assert_nothing_left();
}

/// `--set` for a running daemon is refused, because a verb cannot change its settings.
#[test]
fn set_is_refused_for_a_running_daemon() {
    let sandbox = Sandbox::new("http");
    let pid = sandbox.start().serving().pid;
    for verb in ["restart", "stop", "status"] {
        let output = sandbox.verb([verb, "--set", "drain_timeout=1s"]).expect_code(2);
        says(&output, &["drain_timeout", "configuration file"]);
    }
    assert_eq!(sandbox.status().serving().pid, pid);
    let place = format!("pidfile={}", sandbox.pidfile().display());
    sandbox.verb(["stop", "--set", &place]).expect_code(0);
    sandbox.assert_nothing_left();
}

#[test]
fn every_verb_has_help() {
    let sandbox = Sandbox::new("http");
    for verb in ["run", "start", "stop", "restart", "status", "logs", "check", "unit"] {
        says(&sandbox.verb([verb, "--help"]).expect_code(0), &["usage", verb]);
    }
}

/// A wrong value is reported with its source, and nothing is started.
#[test]
fn wrong_values_are_reported_with_their_source() {
    for verb in ["start", "run", "check"] {
        let mut sandbox = Sandbox::new("http");
        let wrong = |sandbox: &Sandbox, arguments: &[&str], words: &[&str]| {
            let arguments = std::iter::once(&verb).chain(arguments);
            says(&sandbox.verb(arguments).expect_code(78), words);
            sandbox.assert_nothing_left();
        };
        wrong(&sandbox, &["--set", "drain_timeout=soon"], &["drain_timeout", "soon", "--set"]);
        wrong(&sandbox, &["--set", "drian_timeout=1s"], &["drian_timeout", "drain_timeout"]);
        wrong(&sandbox, &["--set", "listen.http=db.local:80"], &["listen.http", "db.local"]);
        sandbox.set("DAEMON_DRAIN_TIMEOUT", "soon");
        wrong(&sandbox, &[], &["DAEMON_DRAIN_TIMEOUT", "soon"]);
        sandbox.unset("DAEMON_DRAIN_TIMEOUT").set("DAEMON_DRIAN_TIMEOUT", "1s");
        wrong(&sandbox, &[], &["DAEMON_DRIAN_TIMEOUT", "DRAIN_TIMEOUT"]);
        sandbox.unset("DAEMON_DRIAN_TIMEOUT").set("DAEMON_CONFIG", "app.toml");
        wrong(&sandbox, &[], &["app.toml"]);
        fs::write(sandbox.path("app.toml"), "drain_timeout = 'soon'").expect("a file");
        wrong(&sandbox, &[], &["app.toml", "drain_timeout", "soon"]);
        fs::write(sandbox.path("app.toml"), "[listen\n").expect("a file");
        wrong(&sandbox, &[], &["app.toml"]);
    }
}

/// Later sources take precedence: attribute, file, environment, command line.
#[test]
fn later_sources_take_precedence() {
    let mut sandbox = Sandbox::new("http");
    let check = |sandbox: &Sandbox, arguments: &[&str], words: &[&str]| {
        let arguments = std::iter::once(&"check").chain(arguments);
        let output = sandbox.verb(arguments).expect_code(0);
        let line = output.text();
        let line = line.lines().find(|line| line.contains("drain_timeout"));
        let line = line.unwrap_or_else(|| panic!("no drain_timeout\n{output}"));
        for word in words {
            assert!(line.contains(word), "`{word}`\n{output}");
        }
    };
    check(&sandbox, &[], &["10s"]);
    fs::write(sandbox.path("app.toml"), "drain_timeout = '11s'").expect("a file");
    sandbox.set("DAEMON_CONFIG", "app.toml");
    check(&sandbox, &[], &["11s", "app.toml"]);
    sandbox.set("DAEMON_DRAIN_TIMEOUT", "12s");
    check(&sandbox, &[], &["12s", "DAEMON_DRAIN_TIMEOUT"]);
    check(&sandbox, &["--set", "drain_timeout=13s"], &["13s", "--set"]);
    sandbox.assert_nothing_left();
}

/// Arguments after `--`, and arguments without a verb, are passed to the program.
#[test]
fn program_gets_its_own_arguments() {
    let sandbox = Sandbox::new("leaky");
    for (arguments, wanted) in [
        (&["run", "--", "stop", "--json"][..], &["stop", "--json"][..]),
        (&["frob", "--nicate", "--", "x"], &["frob", "--nicate", "--", "x"]),
        (&["--", "start"], &["--", "start"]),
        (&[], &[]),
    ] {
        let daemon = sandbox.spawn(arguments);
        sandbox.wait_serving();
        let text = sandbox.get("/self").expect("a response").text();
        let seen: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("arg ")).collect();
        assert_eq!(seen[1..], *wanted, "{arguments:?}");
        sandbox.restart();
        let text = sandbox.get("/self").expect("a response").text();
        let seen: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("arg ")).collect();
        assert_eq!(seen[1..], *wanted, "{arguments:?}, after a restart");
        sandbox.verb(["stop"]).expect_code(0);
        daemon.wait(SOON).expect_code(0);
    }
}

/// The verbs of a renamed binary find the daemon by its pidfile.
#[test]
fn renamed_binary_finds_its_daemon() {
    let sandbox = Sandbox::new("http");
    let pid = sandbox.start().pid;
    fs::rename(sandbox.image(), sandbox.path("other")).expect("an image");
    let verb = |verb: &str| {
        let mut command = sandbox.command_of(sandbox.path("other"), [verb]);
        unbroken_tests::Child::spawn(&mut command).wait(SOON)
    };
    says(&verb("status").expect_code(0), &[&pid.to_string()]);
    verb("stop").expect_code(0);
    sandbox.assert_nothing_left();
}

/// Clients that disconnect before the answer, or send no request, do not affect the daemon.
#[test]
fn clients_that_disconnect_do_no_harm() {
    let sandbox = Sandbox::new("http");
    let status = sandbox.start();
    for verb in ["restart", "status"] {
        for delay in [0, 5, 20, 50] {
            let child = sandbox.spawn([verb]);
            child.process().wait_gone(Duration::from_millis(delay));
            drop(child);
        }
    }
    let silent: Vec<_> = (0..20)
        .filter_map(|_| {
            use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, connect, socket};
            let kind = SocketType::SEQPACKET;
            let socket = socket(AddressFamily::UNIX, kind, None).ok()?;
            connect(&socket, &SocketAddrUnix::new(sandbox.socket()).ok()?).ok()?;
            Some(socket)
        })
        .collect();
    assert_eq!(sandbox.status().pid, status.pid);
    sandbox.restart();
    drop(silent);
    sandbox.stop();
}

/// Clients for which there is no descriptor wait, and do not fill the log with messages.
#[test]
fn excess_clients_do_not_fill_the_log() {
    for fixture in ["http", "solo-http"] {
        let sandbox = Sandbox::new(fixture);
        let image = sandbox.image();
        let arguments = ["--nofile=32".as_ref(), image.as_os_str(), "start".as_ref()];
        Child::spawn(&mut sandbox.command_of("prlimit", arguments)).wait(SOON).expect_code(0);
        let silent: Vec<_> = (0..40).filter_map(|_| silent(&sandbox)).collect();
        assert_eq!(silent.len(), 40);
        std::thread::sleep(Duration::from_secs(1));
        let complaints = sandbox.log().matches("control client").count();
        assert!(complaints < 10, "{complaints}");
        drop(silent);
        sandbox.stop();
    }
}

/// A connection to the control socket without a request.
fn silent(sandbox: &Sandbox) -> Option<std::os::fd::OwnedFd> {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, connect, socket};
    let socket = socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).ok()?;
    connect(&socket, &SocketAddrUnix::new(sandbox.socket()).ok()?).ok()?;
    Some(socket)
}

/// `status` shows the last restart that has ended, not one that is running.
#[test]
fn last_restart_excludes_the_current_one() {
    let sandbox = Sandbox::new("http");
    sandbox.start();
    sandbox.restart();
    let at = || sandbox.status().last_restart().expect("a restart").at;
    let before = at();
    std::thread::sleep(Duration::from_millis(1100));
    sandbox.deploy("hangs-at-start");
    let restart = sandbox.spawn(["restart"]);
    eventually("two workers", SOON, || sandbox.status().workers.len() == 2);
    assert_eq!(at(), before);
    drop(restart);
    sandbox.supervisor().signal(unbroken_tests::Signal::QUIT);
    sandbox.wait_empty(SOON);
}

/// Two daemons of the same program, with different pidfiles, are independent.
#[test]
fn two_daemons_of_one_program_are_independent() {
    let (one, other) = (Sandbox::new("http"), Sandbox::new("http"));
    let (first, second) = (one.start(), other.start());
    assert_ne!(first.pid, second.pid);
    one.stop();
    assert_eq!(other.status().pid, second.pid);
    other.stop();
}

/// Relative paths remain relative to the starting directory.
#[test]
fn relative_paths_stay_relative_to_the_starting_directory() {
    let mut sandbox = Sandbox::new("http");
    sandbox.set("DAEMON_RUNTIME_DIR", "run").set("DAEMON_PIDFILE", "run/app.pid");
    sandbox.set("DAEMON_LOG", "app.log");
    sandbox.shell("./app start").expect_code(0);
    assert!(sandbox.pidfile().exists() && sandbox.log_file().exists());
    sandbox.deploy("http-v2");
    sandbox.restart();
    assert_eq!(sandbox.get("/").expect("a response").number("version"), Some(2));
    sandbox.stop();
}

/// A restart after a symbolic link was switched runs the other release.
#[test]
fn switched_symlink_is_deployed() {
    let sandbox = Sandbox::new("http");
    let releases = sandbox.path("releases");
    fs::create_dir(&releases).expect("a directory");
    fs::rename(sandbox.image(), releases.join("1")).expect("an image");
    sandbox.deploy("http-v2");
    fs::rename(sandbox.image(), releases.join("2")).expect("an image");
    std::os::unix::fs::symlink("releases/1", sandbox.image()).expect("a link");
    sandbox.start();
    assert_eq!(sandbox.get("/").expect("a response").number("version"), Some(1));
    std::os::unix::fs::symlink("releases/2", sandbox.path("next")).expect("a link");
    fs::rename(sandbox.path("next"), sandbox.image()).expect("a link");
    sandbox.restart();
    assert_eq!(sandbox.get("/").expect("a response").number("version"), Some(2));
    sandbox.stop();
}

/// The program reads its own section `[app]`, and a wrong value aborts a restart.
#[test]
fn app_section_is_read() {
    let mut sandbox = Sandbox::new("app-config");
    let output = sandbox.verb(["start"]);
    assert_ne!(output.code(), 0);
    says(&output, &["greeting"]);
    sandbox.assert_nothing_left();

    fs::write(sandbox.path("app.toml"), "[app]\ngreeting = 'hi'\n").expect("a file");
    sandbox.set("DAEMON_CONFIG", sandbox.path("app.toml").display().to_string());
    sandbox.set("DAEMON_APP__TIMES", "2");
    sandbox.start();
    assert_eq!(sandbox.get("/").expect("a response").text(), "hihi");
    fs::write(sandbox.path("app.toml"), "[app]\ngreeting = 'ho'\n").expect("a file");
    sandbox.restart();
    assert_eq!(sandbox.get("/").expect("a response").text(), "hoho");
    fs::write(sandbox.path("app.toml"), "[app]\ngreeting = 3\n").expect("a file");
    says(&sandbox.verb(["restart"]).expect_code(1), &["greeting"]);
    assert_eq!(sandbox.get("/").expect("a response").text(), "hoho");
    sandbox.stop();
}

/// Verbs for a daemon of another user fail and say who may use them.
#[test]
fn daemon_of_another_user_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    let sandbox = Sandbox::new("http");
    fs::set_permissions(sandbox.dir(), fs::Permissions::from_mode(0o755)).expect("a mode");
    let pid = sandbox.start().pid;
    let image = sandbox.image();
    for verb in ["status", "stop", "restart"] {
        let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups"].map(AsRef::as_ref);
        let arguments = nobody.into_iter().chain([image.as_os_str(), verb.as_ref()]);
        let output = Child::spawn(&mut sandbox.command_of("setpriv", arguments)).wait(SOON);
        says(&output.expect_code(1), &["app.pid", "another user", "root"]);
    }
    assert_eq!(sandbox.status().pid, pid);
    sandbox.stop();
}

/// A misspelt verb with options is refused with a suggestion, and not passed to the program.
#[test]
fn misspelt_verb_with_options_is_refused() {
    let sandbox = Sandbox::new("http");
    for arguments in [["restrat", "--no-wait"], ["staus", "--json"], ["strt", "--set=name=b"]] {
        says(&sandbox.verb(arguments).expect_code(2), &[arguments[0], "did you mean"]);
    }
    sandbox.assert_nothing_left();
}

/// Verbs of other programs, such as `reload`, are refused with a suggestion, and start nothing.
#[test]
fn verbs_of_other_programs_are_refused() {
    let sandbox = Sandbox::new("leaky");
    for (arguments, verb) in [
        (&["reload"][..], "-leaky restart`"),
        (&["kill", "4711"], "-leaky stop`"),
        (&["quit"], "-leaky stop`"),
        (&["ps"], "-leaky status`"),
        (&["version"], "-leaky help`"),
        (&["upgrade", "--now"], "-leaky restart`"),
    ] {
        let output = sandbox.verb(arguments).expect_code(2);
        says(&output, &["did you mean", verb, &format!("run -- {}", arguments[0])]);
    }
    sandbox.assert_nothing_left();
    let daemon = sandbox.spawn(["run", "--", "reload", "version"]);
    sandbox.wait_serving();
    let text = sandbox.get("/self").expect("a response").text();
    let seen: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("arg ")).collect();
    assert_eq!(seen[1..], ["reload", "version"]);
    sandbox.verb(["stop"]).expect_code(0);
    daemon.wait(SOON).expect_code(0);
}

/// Arguments for the program are refused by verbs that do not start it.
#[test]
fn arguments_are_refused_by_verbs_that_start_nothing() {
    let sandbox = Sandbox::new("leaky");
    let hint = "start -- --greeting 'hello world'";
    says(
        &sandbox.verb(["start", "--greeting", "hello world"]).expect_code(2),
        &["--greeting", hint],
    );
    sandbox.assert_nothing_left();
    sandbox.verb(["start", "--", "--greeting", "hello world"]).expect_code(0);
    let pid = sandbox.status().serving().pid;
    for verb in ["restart", "stop", "status", "logs"] {
        let output = sandbox.verb([verb, "--", "--greeting", "two"]).expect_code(2);
        says(&output, &["-- --greeting two", "no effect on a running daemon"]);
    }
    says(&sandbox.verb(["check", "--", "two"]).expect_code(2), &["-- two"]);
    assert_eq!(sandbox.status().serving().pid, pid);
    sandbox.stop();
}
