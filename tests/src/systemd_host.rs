//! A Debian with a real systemd as PID 1 of namespaces of its own, which `tests/systemd/box` creates.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::{Child, Output, Process, eventually, skip};

/// The time that booting, or a command in the machine, may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// The variable in which `.ci/run` gives the reason why no machine can be booted here. If it is set, the
/// tests are skipped even where `UNBROKEN_REQUIRE_ALL` is set.
const IMPOSSIBLE: &str = "UNBROKEN_NO_SYSTEMD";

/// A booted machine. The fixtures are in its `/box`.
///
/// The machine ends with the test process, even if that is killed: the keeper, a shell script outside of the
/// machine, ends it at the end of its input, which is a pipe from the test.
#[derive(Debug)]
pub struct SystemdHost {
    suite: &'static str,
    init: u32,
    keeper: std::process::Child,
    _input: ChildStdin,
}

impl SystemdHost {
    /// Boots a Debian of this suite. Reports a skipped test and returns `None` if that is not possible here.
    pub fn boot(suite: &'static str) -> Option<SystemdHost> {
        if let Ok(why) = std::env::var(IMPOSSIBLE) {
            // `eprintln!` would be captured, and not shown for a test that passes.
            let _ = writeln!(io::stderr(), "\n!!! SKIPPED: no systemd of {suite}: {why}");
            return None;
        }
        let possible = Child::spawn(&mut script(["probe"])).wait(PATIENCE);
        if possible.code() != 0 {
            skip(&format!("no systemd of {suite}: {}", possible.stderr.trim()));
            return None;
        }
        let fixtures = fixtures();
        let mut keeper = script(["boot".as_ref(), suite.as_ref(), fixtures.as_os_str()]);
        keeper.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut keeper = keeper.spawn().expect("bash");
        let input = keeper.stdin.take().expect("piped");
        let output = keeper.stdout.take().expect("piped");
        let mut line = String::new();
        let read = BufReader::new(output).read_line(&mut line);
        let Some(init) = read.ok().and_then(|_| line.trim().parse().ok()) else {
            let failed = keeper.wait_with_output().expect("our own child");
            skip(&format!("no {suite}: {}", String::from_utf8_lossy(&failed.stderr).trim()));
            return None;
        };
        let machine = SystemdHost { suite, init, keeper, _input: input };
        eventually(&format!("{suite} is booted"), PATIENCE, || {
            let state = machine.run(["systemctl", "is-system-running"]).stdout;
            ["running", "degraded"].contains(&state.trim())
        });
        Some(machine)
    }

    /// The Debian suite, for example `bookworm`.
    pub fn suite(&self) -> &'static str {
        self.suite
    }

    /// The machine's PID 1.
    pub fn init(&self) -> Process {
        Process::open(self.init).expect("a machine that runs")
    }

    /// The process outside of the machine that ends the machine.
    pub fn keeper(&self) -> Process {
        Process::open(self.keeper.id()).expect("our own child")
    }

    /// The path at which the host reaches a file of the machine.
    pub fn path(&self, path: &str) -> PathBuf {
        format!("/proc/{}/root{path}", self.init).into()
    }

    /// Runs a command in the machine as root.
    #[track_caller]
    pub fn run<A: AsRef<std::ffi::OsStr>>(&self, command: impl IntoIterator<Item = A>) -> Output {
        self.spawn(command).wait(PATIENCE)
    }

    /// Starts a command in the machine as root. The command gets a cgroup of its own, because systemd owns
    /// the others.
    pub fn spawn<A: AsRef<std::ffi::OsStr>>(&self, command: impl IntoIterator<Item = A>) -> Child {
        let mut enter = Command::new("nsenter");
        enter.args(["--target", &self.init.to_string(), "--all", "--", "/bin/sh", "-c"]).args([
            "mkdir -p /sys/fs/cgroup/tests && echo 0 > /sys/fs/cgroup/tests/cgroup.procs && exec \"$@\"",
            "sh",
        ]);
        enter.args(command).env_clear().env("LANG", "C.UTF-8").env("SYSTEMD_PAGER", "cat");
        enter.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        Child::spawn(&mut enter)
    }

    /// Runs a shell script in the machine as root.
    #[track_caller]
    pub fn shell(&self, script: &str) -> Output {
        self.run(["/bin/sh", "-euc", script])
    }

    /// Calls `f` on a thread in the machine's network namespace. Sockets and threads that `f` creates stay in
    /// that namespace.
    pub fn in_network<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        let network = File::open(format!("/proc/{}/ns/net", self.init)).expect("its network");
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let kind = Some(LinkNameSpaceType::Network);
                move_into_link_name_space(network.as_fd(), kind).expect("root may");
                f()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

/// A command that runs `tests/systemd/box`. It has a session of its own: Ctrl-C in a terminal then ends only
/// the test, and the script ends the machine when its input closes.
fn script<A: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = A>) -> Command {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd/box");
    let mut command = Command::new("setsid");
    command.arg("bash").arg(script).args(arguments);
    command
}

/// The directory in which cargo put the fixtures: the parent of the running test's directory.
fn fixtures() -> PathBuf {
    let test = std::env::current_exe().expect("the path of this test");
    test.parent().and_then(Path::parent).expect("a target directory").to_owned()
}
