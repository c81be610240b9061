//! A directory in which one daemon lives, and everything a test does to it.

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

/// How long a verb may take, unless a test says otherwise.
pub const PATIENCE: Duration = Duration::from_secs(40);

/// The variable that marks every process of a bed.
const MARK: &str = "UNBROKEN_TEST_BED";

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

/// A directory in which one daemon lives. Dropped, it kills all of the daemon's processes.
#[derive(Debug)]
pub struct Bed {
    dir: TempDir,
    variables: BTreeMap<String, String>,
    /// Where the daemon was last seen listening.
    targets: Mutex<Vec<Target>>,
}

impl Bed {
    /// A bed with a fixture at the image's path.
    pub fn new(fixture: &str) -> Self {
        let bed = Self::empty();
        bed.deploy(fixture);
        bed
    }

    /// A bed without an image.
    pub fn empty() -> Self {
        let dir = tempfile::Builder::new().prefix("bed-").tempdir().expect("a directory");
        let mut bed = Self { dir, variables: BTreeMap::new(), targets: Mutex::new(Vec::new()) };
        bed.set(MARK, bed.dir().display().to_string());
        bed.set("PATH", std::env::var("PATH").unwrap_or_default());
        // What coverage needs, where it is measured.
        if let Ok(profile) = std::env::var("LLVM_PROFILE_FILE") {
            bed.set("LLVM_PROFILE_FILE", profile);
        }
        bed.set("DAEMON_RUNTIME_DIR", bed.runtime_dir().display().to_string());
        bed.set("DAEMON_PIDFILE", bed.pidfile().display().to_string());
        bed.set("DAEMON_LOG", bed.log_file().display().to_string());
        bed
    }

    /// Sets a variable of the processes started from now on.
    pub fn set(&mut self, name: &str, value: impl Into<String>) -> &mut Self {
        self.variables.insert(name.into(), value.into());
        self
    }

    /// Takes a variable away.
    pub fn unset(&mut self, name: &str) -> &mut Self {
        self.variables.remove(name);
        self
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A path in the directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir().join(name)
    }

    /// The image's path.
    pub fn image(&self) -> PathBuf {
        self.path("app")
    }

    /// The runtime directory.
    pub fn runtime_dir(&self) -> PathBuf {
        self.path("run")
    }

    /// The pidfile.
    pub fn pidfile(&self) -> PathBuf {
        self.path("run/app.pid")
    }

    /// The control socket.
    pub fn socket(&self) -> PathBuf {
        self.path("run/app.sock")
    }

    /// The log file.
    pub fn log_file(&self) -> PathBuf {
        self.path("app.log")
    }

    /// The log so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    // Images.

    /// Puts a fixture at the image's path, as a deployment does it: aside, then renamed.
    pub fn deploy(&self, fixture: &str) {
        self.place("cp --reflink=auto \"$1\" \"$2\"", fixture);
    }

    /// Puts something at the image's path that is no good.
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

    /// Puts any program at the image's path, changed on the way by a script for sed(1).
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

    /// The daemon's program with these arguments, in this bed's environment and nothing of ours.
    pub fn command<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Command {
        self.command_of(self.image(), arguments)
    }

    /// Another program, as [`command`](Self::command).
    pub fn command_of<A: AsRef<OsStr>>(
        &self,
        program: impl AsRef<OsStr>,
        arguments: impl IntoIterator<Item = A>,
    ) -> Command {
        let mut command = Command::new(program);
        command.args(arguments).env_clear().envs(&self.variables).current_dir(self.dir());
        command
    }

    /// Runs a shell script in this bed, with the image's path as `$1`.
    pub fn shell(&self, script: &str) -> Output {
        let image = self.image();
        let arguments = ["-c".as_ref(), script.as_ref(), "sh".as_ref(), image.as_os_str()];
        Child::spawn(&mut self.command_of("sh", arguments)).wait(PATIENCE)
    }

    /// A program for which a directory of this bed is a disk without a free byte. Needs root.
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

    /// A program for which a directory of this bed is a file system mounted noexec, with the image in it as
    /// `app`. Needs root.
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

    /// Starts a verb. Those that speak to a running daemon are run by a program that is good, whatever
    /// was deployed: an operator has one, and the image may be anything.
    pub fn spawn<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Child {
        let arguments: Vec<_> = arguments.into_iter().map(|it| it.as_ref().to_owned()).collect();
        let speaks = ["status", "stop", "restart"];
        let spoken = arguments.first().is_some_and(|verb| speaks.iter().any(|it| verb == it));
        let program = if spoken { fixture_path("http") } else { self.image() };
        Child::spawn(&mut self.command_of(program, arguments))
    }

    /// Runs a verb to its end.
    #[track_caller]
    pub fn verb<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Output {
        self.spawn(arguments).wait(PATIENCE)
    }

    /// `start`, which must succeed.
    #[track_caller]
    pub fn start(&self) -> Status {
        self.verb(["start"]).expect_code(0);
        self.status()
    }

    /// Starts in the foreground and waits until it serves.
    #[track_caller]
    pub fn foreground(&self) -> Child {
        let child = self.spawn(["run"]);
        self.wait_serving();
        child
    }

    /// Waits until the daemon runs, where `start` does not do the waiting.
    #[track_caller]
    pub fn wait_serving(&self) {
        let serves = || self.try_status().is_some_and(|status| status.state == "running");
        eventually("the daemon runs", PATIENCE, serves);
    }

    /// `status --json`. `None`: no daemon runs.
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

    /// `status --json` of a daemon that runs.
    #[track_caller]
    pub fn status(&self) -> Status {
        self.try_status().expect("a daemon that runs")
    }

    /// `restart --json`, which must succeed.
    #[track_caller]
    pub fn restart(&self) -> Report {
        let output = self.verb(["restart", "--json"]).expect_code(0);
        let report = report(&output);
        assert_eq!(report.result, "ok", "{output}");
        report
    }

    /// `restart --json`, which must be aborted.
    #[track_caller]
    pub fn restart_aborts(&self) -> Report {
        let output = self.verb(["restart", "--json"]).expect_code(1);
        let report = report(&output);
        assert_eq!(report.result, "aborted", "{output}");
        assert!(report.reason.is_some(), "no reason\n{output}");
        report
    }

    /// `stop --json`, which must succeed, and leave nothing.
    #[track_caller]
    pub fn stop(&self) -> Report {
        let output = self.verb(["stop", "--json"]).expect_code(0);
        let report = report(&output);
        assert_eq!(report.result, "stopped", "{output}");
        self.assert_nothing_left();
        report
    }

    // What runs.

    /// Where a listener is bound.
    #[track_caller]
    pub fn target(&self, name: &str) -> Target {
        self.status().target(name)
    }

    /// One request over a new connection to the listener `http`.
    pub fn get(&self, path: &str) -> io::Result<Response> {
        Connection::open(&self.target("http"))?.get(path)
    }

    /// The process whose PID stays.
    #[track_caller]
    pub fn supervisor(&self) -> Process {
        Process::open(self.status().pid).expect("a supervisor that runs")
    }

    /// The serving worker.
    #[track_caller]
    pub fn worker(&self) -> Process {
        Process::open(self.status().serving().pid).expect("a worker that runs")
    }

    /// All processes of this bed.
    pub fn processes(&self) -> Vec<Process> {
        Process::with_variable(MARK, &self.dir().display().to_string())
    }

    /// Kills all processes of this bed at once, as the kernel kills them when memory is short.
    pub fn kill_all(&self) {
        // Who is killed first may be replaced by who is killed last.
        loop {
            let processes = self.processes();
            if processes.is_empty() {
                return;
            }
            processes.iter().for_each(|process| process.signal(Signal::KILL));
            processes.iter().for_each(Process::kill);
        }
    }

    /// Waits until all processes of this bed have ended.
    #[track_caller]
    pub fn wait_empty(&self, within: Duration) {
        let what = "all processes have ended";
        eventually(what, within, || self.processes().is_empty());
    }

    /// # Panics
    ///
    /// If anything of the daemon is left: a process, the pidfile, the control socket, a listener.
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

impl Drop for Bed {
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

/// Where a fixture is: where cargo put it, beside the directory of the running test, or in the directory
/// that `UNBROKEN_FIXTURES` names, which is how the tests run on fixtures that were built another way.
pub fn fixture_path(fixture: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the path of this test");
    let beside = || test.ancestors().nth(2).expect("a target directory").to_owned();
    let dir = std::env::var_os("UNBROKEN_FIXTURES").map_or_else(beside, PathBuf::from);
    let path = dir.join(format!("fixture-{fixture}"));
    assert!(path.exists(), "no {}: run `cargo test -p unbroken-tests`", path.display());
    path
}
