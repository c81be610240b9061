//! Hints at a daemon that a verb does not find, and at the working directory of a started daemon.

#![allow(clippy::expect_used)]

use std::time::Duration;

use unbroken_tests::{Child, Output, Sandbox, Signal, skip};

const SOON: Duration = Duration::from_secs(60);

fn start_in(sandbox: &Sandbox, dir: &std::path::Path) -> Output {
    Child::spawn(sandbox.command(["start"]).current_dir(dir)).wait(SOON)
}

/// `start` names the daemon's working directory only if it differs from the caller's.
#[test]
fn start_names_another_working_directory() {
    for fixture in ["http", "solo-http"] {
        let mut sandbox = Sandbox::new(fixture);
        let dir = sandbox.dir().to_owned();
        let assert_started = |output: &Output, pid: u32, within: &str| {
            let line = format!("app started as process {pid}{within}, serving http 127.0.0.1:");
            assert!(output.stdout.starts_with(&line), "{line}\n{output}");
        };
        let output = start_in(&sandbox, &dir).expect_code(0);
        assert_started(&output, sandbox.status().pid, ", in /");
        sandbox.stop();
        let output = start_in(&sandbox, "/".as_ref()).expect_code(0);
        assert_started(&output, sandbox.status().pid, "");
        sandbox.stop();
        sandbox.set("DAEMON_WORKDIR", dir.display().to_string());
        let output = start_in(&sandbox, &dir).expect_code(0);
        assert_started(&output, sandbox.status().pid, "");
        sandbox.stop();
        let output = start_in(&sandbox, "/".as_ref()).expect_code(0);
        assert_started(&output, sandbox.status().pid, &format!(", in {}", dir.display()));
        sandbox.stop();
    }
}

/// If a program fails in another directory than the caller's, the error advises to set `workdir`: often it
/// could not open a relative path.
#[test]
fn failed_start_in_another_directory_advises_workdir() {
    let advice = "it ran in the directory /; if it uses relative paths, set `workdir`";
    for fixture in ["fails-at-start", "exits", "panics-at-start"] {
        let mut sandbox = Sandbox::new(fixture);
        let dir = sandbox.dir().to_owned();
        let failed = |sandbox: &Sandbox, dir: &std::path::Path| {
            let output = start_in(sandbox, dir);
            assert_ne!(output.code(), 0, "{output}");
            output.stderr
        };
        let message = failed(&sandbox, &dir);
        assert!(message.contains(advice), "{message}");
        let message = failed(&sandbox, "/".as_ref());
        assert!(!message.contains("workdir"), "{message}");
        sandbox.set("DAEMON_WORKDIR", "/");
        let message = failed(&sandbox, &dir);
        assert!(!message.contains("workdir"), "somebody has thought of it: {message}");
    }
    // An error before the program has started does not mention the directory.
    let mut sandbox = Sandbox::new("http");
    sandbox.set("DAEMON_LISTEN_HTTP", "unix:/no/such/directory/app.sock");
    let message = start_in(&sandbox, sandbox.dir()).expect_code(1).stderr;
    assert!(!message.contains("workdir"), "{message}");
    let sandbox = Sandbox::new("bad-config");
    let message = start_in(&sandbox, sandbox.dir()).stderr;
    assert!(!message.contains("workdir"), "{message}");
}

/// Runs a script in a mount namespace with its own `/run` and `/tmp`, and the image in `/run/bin`.
fn with_own_run(script: &str) -> Option<(Sandbox, Output)> {
    if !rustix::process::geteuid().is_root() {
        skip("needs root");
        return None;
    }
    let mut sandbox = Sandbox::new("http");
    for variable in ["DAEMON_RUNTIME_DIR", "DAEMON_PIDFILE", "DAEMON_LOG"] {
        sandbox.unset(variable);
    }
    let prelude = "set -e; mount -t tmpfs -o mode=755 none /run; mount -t tmpfs -o mode=1777 none /tmp; \
                   mkdir -p /run/bin /run/user/4007; chown 4007:4007 /run/user/4007; cp /proc/self/fd/3 /run/bin/app; \
                   export DAEMON_LOG=/dev/null; app=/run/bin/app; \
                   as() { setpriv --reuid=4007 --regid=4007 --clear-groups \"$@\"; }; ";
    let script = format!("{prelude}{script}");
    let image = sandbox.image();
    let outer = "exec 3<\"$1\"; exec unshare --mount --propagation private sh -c \"$2\"";
    let mut command = sandbox.command_of("sh", ["-c", outer, "sh"]);
    command.arg(image).arg(script).current_dir("/");
    let output = Child::spawn(&mut command).wait(SOON);
    Some((sandbox, output))
}

fn says(output: &Output, what: &str) {
    let pattern: Vec<&str> = what.split('…').collect();
    let found = output.stdout.lines().any(|line| {
        let mut rest = Some(line);
        for piece in &pattern {
            rest = rest.and_then(|rest| Some(rest.split_once(piece)?.1));
        }
        rest.is_some()
    });
    assert!(found, "no line like `{what}`\n{output}");
}

#[test]
fn hint_names_the_runtime_directory_of_another_environment() {
    let script = "\
        $app start; code=0; $app status --set runtime_dir=/run/elsewhere || code=$?; echo code $code; \
        $app status --set runtime_dir=/run/app --set pidfile=/run/app/app.pid > /dev/null; \
        $app stop > /dev/null; \
        as env XDG_RUNTIME_DIR=/run/user/4007 $app start; \
        as $app status || true; \
        as $app restart 2>&1 || true; \
        as $app stop --set runtime_dir=/run/user/4007/app --set pidfile=/run/user/4007/app/app.pid > /dev/null";
    let Some((_bed, output)) = with_own_run(script) else { return };
    let output = output.expect_code(0);
    says(
        &output,
        "app is not running here (the pidfile /run/elsewhere/app.pid is not locked); process … of \
         user 0 holds /run/app/app.pid: to reach it, add `--set runtime_dir=/run/app --set \
         pidfile=/run/app/app.pid`",
    );
    says(&output, "code 3");
    says(
        &output,
        "app is not running here (the pidfile /tmp/app-4007/app.pid is not locked); process … of \
         user 4007 holds /run/user/4007/app/app.pid: to reach it, add `--set \
         runtime_dir=/run/user/4007/app --set pidfile=/run/user/4007/app/app.pid`",
    );
    says(&output, ": app is not running here");
}

#[test]
fn hint_names_the_daemon_of_another_user() {
    let script = "\
        as env XDG_RUNTIME_DIR=/run/user/4007 $app start; $app status || true; \
        as env XDG_RUNTIME_DIR=/run/user/4007 $app stop > /dev/null; \
        $app start; as env XDG_RUNTIME_DIR=/run/user/4007 $app status || true; $app stop > /dev/null";
    let Some((_bed, output)) = with_own_run(script) else { return };
    let output = output.expect_code(0);
    says(
        &output,
        "app is not running here (…/run/app/app.pid is not locked); process … of user 4007 holds \
         /run/user/4007/app/",
    );
    says(&output, "app is not running here (…); it may be running as root in /run/app: use `sudo`");
}

#[test]
fn hint_names_the_daemon_of_another_name() {
    let script = "\
        DAEMON_NAME=other $app start; $app status || true; \
        DAEMON_NAME=other $app stop > /dev/null; $app status || true";
    let Some((sandbox, output)) = with_own_run(script) else { return };
    let output = output.expect_code(0);
    says(
        &output,
        "app is not running here (…); process … of user 0 holds /run/other/other.pid: to reach it, \
         add",
    );
    says(&output, "app is not running (the pidfile /run/app/app.pid is not locked); `start` it");
    sandbox.wait_empty(SOON);
}

/// A verb finds out that the daemon is running although its pidfile is gone.
#[test]
fn daemon_without_its_pidfile_is_found() {
    let sandbox = Sandbox::new("http");
    sandbox.start();
    let supervisor = sandbox.supervisor();
    supervisor.signal(Signal::STOP);
    unbroken_tests::eventually("it is stopped", SOON, || supervisor.state() == Some('T'));
    std::fs::remove_file(sandbox.pidfile()).expect("a pidfile");
    let output = sandbox.verb(["restart"]).expect_code(1);
    let expected = format!("app is running as process {}, but its pidfile", supervisor.pid());
    output.expect_text(&expected);
    supervisor.signal(Signal::CONT);
    unbroken_tests::eventually("it is back", SOON, || sandbox.pidfile().exists());
    sandbox.stop();
}
