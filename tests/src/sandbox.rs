//! A temporary directory with one daemon in it, and what a test can do with that daemon.
//!
//! Every process that is started here carries a variable with the path of the directory. By that variable
//! [`Sandbox`] finds all processes of its daemon, whatever their parents are, and kills them when it is dropped.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use tempfile::TempDir;

use crate::http::{Connection, Response, Target};
use crate::{Child, Output, Process, Report, Signal, Status, eventually, program};

/// The time a verb may take. A verb that takes longer counts as hung, is killed, and fails the test.
pub const PATIENCE: Duration = Duration::from_secs(40);

/// The variable that marks every process of a sandbox; its value is the directory.
const MARK: &str = "UNBROKEN_TEST_SANDBOX";

/// A file that cannot be the next generation's image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bad {
    /// No file.
    Missing,
    /// A good binary without the permission.
    NotExecutable,
    /// A binary of another processor.
    WrongArchitecture,
    /// A `#!` script.
    Script,
    /// A file without content.
    Empty,
    /// The first 4 KiB of a good binary.
    Truncated,
    /// A directory.
    Directory,
}

/// A temporary directory with one daemon in it. Dropping it kills all processes of the daemon.
#[derive(Debug)]
pub struct Sandbox {
    dir: TempDir,
    variables: BTreeMap<String, String>,
    /// The addresses of the listeners in the last `status` that was read.
    targets: Mutex<Vec<Target>>,
}

impl Sandbox {
    /// Creates a sandbox with a fixture at the image's path.
    pub fn new(fixture: &str) -> Self {
        let sandbox = Self::empty();
        sandbox.deploy(fixture);
        sandbox
    }

    /// Creates a sandbox without an image.
    pub fn empty() -> Self {
        let dir = tempfile::Builder::new().prefix("sandbox-").tempdir().expect("a directory");
        let mut sandbox = Self { dir, variables: BTreeMap::new(), targets: Mutex::new(Vec::new()) };
        sandbox.set(MARK, sandbox.dir().display().to_string());
        sandbox.set("PATH", std::env::var("PATH").unwrap_or_default());
        // Where coverage is measured, the instrumented program reads this variable.
        if let Ok(profile) = std::env::var("LLVM_PROFILE_FILE") {
            sandbox.set("LLVM_PROFILE_FILE", profile);
        }
        sandbox.set("DAEMON_RUNTIME_DIR", sandbox.runtime_dir().display().to_string());
        sandbox.set("DAEMON_PIDFILE", sandbox.pidfile().display().to_string());
        sandbox.set("DAEMON_LOG", sandbox.log_file().display().to_string());
        sandbox
    }

    /// Sets an environment variable for the processes started from now on.
    pub fn set(&mut self, name: &str, value: impl Into<String>) -> &mut Self {
        self.variables.insert(name.into(), value.into());
        self
    }

    /// Removes an environment variable for the processes started from now on.
    pub fn unset(&mut self, name: &str) -> &mut Self {
        self.variables.remove(name);
        self
    }

    /// The sandbox's directory.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A path in the sandbox's directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir().join(name)
    }

    /// The path of the image.
    pub fn image(&self) -> PathBuf {
        self.path("app")
    }

    /// The path of the daemon's runtime directory.
    pub fn runtime_dir(&self) -> PathBuf {
        self.path("run")
    }

    /// The path of the pidfile.
    pub fn pidfile(&self) -> PathBuf {
        self.path("run/app.pid")
    }

    /// The path of the control socket.
    pub fn socket(&self) -> PathBuf {
        self.path("run/app.sock")
    }

    /// The path of the log file.
    pub fn log_file(&self) -> PathBuf {
        self.path("app.log")
    }

    /// The contents of the log so far; empty if there is no log.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    // Images.

    /// Installs a fixture as the image, as a deployment does: it writes a new file and renames it.
    pub fn deploy(&self, fixture: &str) {
        self.place("cp --reflink=auto \"$1\" \"$2\"", fixture);
    }

    /// Puts a file at the image's path that cannot be executed or is no good program.
    pub fn deploy_bad(&self, bad: Bad) {
        let machine = if cfg!(target_arch = "x86_64") { "\\267\\000" } else { "\\076\\000" };
        let script = match bad {
            Bad::Missing => return fs::remove_file(self.image()).expect("an image to remove"),
            Bad::NotExecutable => "cp \"$1\" \"$2\" && chmod 644 \"$2\"".to_owned(),
            Bad::WrongArchitecture => format!(
                "cp \"$1\" \"$2\" && printf '{machine}' | \
                 dd of=\"$2\" bs=1 seek=18 conv=notrunc status=none"
            ),
            Bad::Script => {
                "printf '#!/bin/sh\\nexec sleep 1000\\n' > \"$2\" && chmod 755 \"$2\"".to_owned()
            }
            Bad::Empty => ": > \"$2\" && chmod 755 \"$2\"".to_owned(),
            Bad::Truncated => "head -c 4096 \"$1\" > \"$2\" && chmod 755 \"$2\"".to_owned(),
            Bad::Directory => {
                fs::remove_file(self.image()).expect("an image to remove");
                "mkdir \"$2\"".to_owned()
            }
        };
        self.place(&script, "bare-http");
    }

    /// Installs a program as the image, changed by a script for sed(1).
    pub fn deploy_changed(&self, program: &Path, script: &str) {
        self.place_file(&format!("sed '{script}' \"$1\" > \"$2\" && chmod 755 \"$2\""), program);
    }

    fn place(&self, script: &str, fixture: &str) {
        self.place_file(script, &fixture_path(fixture));
    }

    fn place_file(&self, script: &str, file: &Path) {
        let next = self.path("app.next");
        program::made_by(script, file, &next);
        fs::rename(next, self.image()).expect("the image replaced");
    }

    // Verbs.

    /// A command that runs the image with these arguments, in the sandbox's environment only.
    pub fn command<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Command {
        self.command_of(self.image(), arguments)
    }

    /// A command that runs another program, as [`command`](Self::command) does the image.
    pub fn command_of<A: AsRef<OsStr>>(
        &self,
        program: impl AsRef<OsStr>,
        arguments: impl IntoIterator<Item = A>,
    ) -> Command {
        let mut command = Command::new(program);
        command.args(arguments).env_clear().envs(&self.variables).current_dir(self.dir());
        command
    }

    /// Runs a shell script in the sandbox's directory and environment, with the image's path as `$1`.
    pub fn shell(&self, script: &str) -> Output {
        let image = self.image();
        let arguments = ["-c".as_ref(), script.as_ref(), "sh".as_ref(), image.as_os_str()];
        Child::spawn(&mut self.command_of("sh", arguments)).wait(PATIENCE)
    }

    /// A command that runs a program for which a directory of the sandbox is a full file system. Needs root.
    pub fn on_full_disk<A: AsRef<OsStr>>(
        &self,
        dir: &str,
        program: impl AsRef<OsStr>,
        arguments: impl IntoIterator<Item = A>,
    ) -> Command {
        let script = "mount -t tmpfs -o size=4k,mode=700 none \"$1\" && \
                      head -c 4096 /dev/zero > \"$1/filler\" && shift && exec \"$@\"";
        let mut command = self.command_of("unshare", ["--mount", "--propagation", "private"]);
        command.args(["sh", "-c", script, "sh", dir]).arg(program).args(arguments);
        command
    }

    /// A command that runs a program for which a directory of the sandbox is mounted noexec, with the image in it
    /// as `app`. Needs root.
    pub fn on_noexec<A: AsRef<OsStr>>(
        &self,
        dir: &str,
        program: impl AsRef<OsStr>,
        arguments: impl IntoIterator<Item = A>,
    ) -> Command {
        let script = "mkdir -p \"$2\" && mount -t tmpfs -o noexec,mode=755 none \"$2\" && \
                      cp \"$1\" \"$2/app\" && shift 2 && exec \"$@\"";
        let mut command = self.command_of("unshare", ["--mount", "--propagation", "private"]);
        command.args(["sh", "-c", script, "sh"]).arg(self.image()).arg(dir);
        command.arg(program).args(arguments);
        command
    }

    /// Starts a verb. `status`, `stop` and `restart` are run by the fixture `http` instead of the image: they
    /// talk to the running daemon, and the deployed image may be one that cannot run.
    pub fn spawn<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Child {
        let arguments: Vec<_> = arguments.into_iter().map(|it| it.as_ref().to_owned()).collect();
        let speaks = ["status", "stop", "restart"];
        let spoken = arguments.first().is_some_and(|verb| speaks.iter().any(|it| verb == it));
        let program = if spoken { fixture_path("http") } else { self.image() };
        Child::spawn(&mut self.command_of(program, arguments))
    }

    /// Runs a verb and waits for its end.
    #[track_caller]
    pub fn verb<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Output {
        self.spawn(arguments).wait(PATIENCE)
    }

    /// Runs `start`, which must succeed, and returns the status.
    #[track_caller]
    pub fn start(&self) -> Status {
        self.verb(["start"]).expect_code(0);
        self.status()
    }

    /// Starts the daemon in the foreground and waits until it serves.
    #[track_caller]
    pub fn foreground(&self) -> Child {
        let child = self.spawn(["run"]);
        self.wait_serving();
        child
    }

    /// Waits until the daemon runs, if it was not started by `start`, which waits itself.
    #[track_caller]
    pub fn wait_serving(&self) {
        let serves = || self.try_status().is_some_and(|status| status.state == "running");
        eventually("the daemon runs", PATIENCE, serves);
    }

    /// Runs `status --json`. Returns `None` if no daemon runs.
    pub fn try_status(&self) -> Option<Status> {
        let output = self.verb(["status", "--json"]);
        if output.code() != 0 {
            return None;
        }
        let parsed = serde_json::from_str(&output.stdout);
        let status: Status = parsed.unwrap_or_else(|error| panic!("{error}\n{output}"));
        let targets = status.listeners.iter().filter_map(|listener| listener.addr.parse().ok());
        *self.targets.lock().expect("not poisoned") = targets.collect();
        Some(status)
    }

    /// Runs `status --json` for a daemon that runs.
    #[track_caller]
    pub fn status(&self) -> Status {
        self.try_status().expect("a daemon that runs")
    }

    /// Runs `restart --json`, which must succeed.
    #[track_caller]
    pub fn restart(&self) -> Report {
        let output = self.verb(["restart", "--json"]).expect_code(0);
        let report = report(&output);
        assert_eq!(report.result, "ok", "{output}");
        report
    }

    /// Runs `restart --json`, which must be aborted with a reason.
    #[track_caller]
    pub fn restart_aborts(&self) -> Report {
        let output = self.verb(["restart", "--json"]).expect_code(1);
        let report = report(&output);
        assert_eq!(report.result, "aborted", "{output}");
        assert!(report.reason.is_some(), "no reason\n{output}");
        report
    }

    /// Runs `stop --json`, which must succeed and leave nothing behind.
    #[track_caller]
    pub fn stop(&self) -> Report {
        let output = self.verb(["stop", "--json"]).expect_code(0);
        let report = report(&output);
        assert_eq!(report.result, "stopped", "{output}");
        self.assert_nothing_left();
        report
    }

    // Processes and listeners.

    /// The address to which a listener is bound.
    #[track_caller]
    pub fn target(&self, name: &str) -> Target {
        self.status().target(name)
    }

    /// Sends one request over a new connection to the listener `http`.
    pub fn get(&self, path: &str) -> io::Result<Response> {
        Connection::open(&self.target("http"))?.get(path)
    }

    /// The supervisor, or the one process of a solo daemon.
    #[track_caller]
    pub fn supervisor(&self) -> Process {
        Process::open(self.status().pid).expect("a supervisor that runs")
    }

    /// The serving worker.
    #[track_caller]
    pub fn worker(&self) -> Process {
        Process::open(self.status().serving().pid).expect("a worker that runs")
    }

    /// All processes of the sandbox, found by their environment.
    pub fn processes(&self) -> Vec<Process> {
        Process::with_variable(MARK, &self.dir().display().to_string())
    }

    /// Kills all processes of the sandbox at once, as the kernel does when it is out of memory.
    pub fn kill_all(&self) {
        // The supervisor, if it is killed last, may replace a worker that was killed first.
        loop {
            let processes = self.processes();
            if processes.is_empty() {
                return;
            }
            processes.iter().for_each(|process| process.signal(Signal::KILL));
            processes.iter().for_each(Process::kill);
        }
    }

    /// Waits until all processes of the sandbox have ended.
    #[track_caller]
    pub fn wait_empty(&self, within: Duration) {
        let what = "all processes have ended";
        eventually(what, within, || self.processes().is_empty());
    }

    /// # Panics
    ///
    /// If anything of the daemon is left: a process, the pidfile, the control socket, a listener or its file.
    #[track_caller]
    pub fn assert_nothing_left(&self) {
        let what = |process: &Process| format!("{} {:?}", process.pid(), process.arguments());
        let processes: Vec<_> = self.processes().iter().map(what).collect();
        assert!(processes.is_empty(), "processes are left: {processes:#?}\n{}", self.log());
        assert!(!self.pidfile().exists(), "the pidfile is left");
        assert!(!self.socket().exists(), "the control socket is left");
        for target in self.targets.lock().expect("not poisoned").iter() {
            assert!(!target.accepts(), "{target} still listens");
            if let Target::Unix(path) = target {
                assert!(!path.exists(), "{} is left", path.display());
            }
        }
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for process in self.processes() {
                eprintln!("left: {} {:?}", process.pid(), process.arguments());
            }
            eprintln!("--- log\n{}\n---", self.log());
        }
        self.kill_all();
    }
}

#[track_caller]
fn report(output: &Output) -> Report {
    let parsed = serde_json::from_str(&output.stdout);
    parsed.unwrap_or_else(|error| panic!("{error}\n{output}"))
}

/// The path of a fixture: in the parent of the running test's directory, where cargo put it, or in the
/// directory that `UNBROKEN_FIXTURES` names. The latter runs the tests on fixtures built in another way.
pub fn fixture_path(fixture: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the path of this test");
    let beside = || test.ancestors().nth(2).expect("a target directory").to_owned();
    let dir = std::env::var_os("UNBROKEN_FIXTURES").map_or_else(beside, PathBuf::from);
    let path = dir.join(format!("fixture-{fixture}"));
    assert!(path.exists(), "no {}: run `cargo test -p unbroken-tests`", path.display());
    path
}
