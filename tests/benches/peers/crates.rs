//! Peers that are crates for restartable programs, and a program without such a crate.

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use unbroken_tests::{Child, Process, Signal, eventually};

use super::peer::{Kind, PATIENCE, Peer, Place, Running, built};

pub(crate) const PINGORA: Kind = Kind {
    name: "pingora",
    options: "`--upgrade`, `grace_period_seconds: 10`, a thread for each processor",
    version: || version("pingora"),
    start: pingora,
};

pub(crate) const ECDYSIS: Kind = Kind {
    name: "ecdysis",
    options: "`StopOnShutdown::Yes`, axum's graceful shutdown",
    version: || version("ecdysis"),
    start: ecdysis,
};

pub(crate) const SHELLFLIP: Kind = Kind {
    name: "shellflip",
    options: "a socket as systemd gives it, axum's graceful shutdown",
    version: || version("shellflip"),
    start: shellflip,
};

pub(crate) const PLAIN: Kind = Kind {
    name: "stop and start",
    options: "axum's graceful shutdown",
    version: || version("axum"),
    start: plain,
};

/// A program that replaces itself upon a request, which differs from crate to crate.
struct Program {
    name: &'static str,
    /// The serving process if the benchmark starts each release, otherwise the first process.
    child: Child,
    /// Earlier processes that have not ended yet.
    before: Vec<Child>,
    restart: fn(&mut Program, &Place),
}

impl Peer for Program {
    fn deploy(&mut self, at: &Place, release: u64) {
        deploy(self.name, at, release);
    }

    fn restart(&mut self, at: &Place) {
        (self.restart)(self, at);
    }

    fn root(&self) -> Option<Process> {
        Process::open(self.child.pid())
    }
}

/// Deploys a release: a copy of the program with the number of the release appended, renamed into its place.
fn deploy(name: &str, at: &Place, release: u64) {
    let program = program(name).display().to_string();
    let script =
        format!("cp '{program}' app.next && printf ' {release}' >> app.next && mv app.next app");
    at.run("sh", &["-c", &script]);
}

fn start(
    name: &'static str,
    spawn: fn(&Place) -> Child,
    restart: fn(&mut Program, &Place),
) -> Running {
    let place = Place::new();
    deploy(name, &place, 1);
    let child = spawn(&place);
    Running::new(place, Program { name, child, before: Vec::new(), restart })
}

/// Starts pingora. At a restart a new process is started with `--upgrade`. The old one sends it the sockets
/// at SIGQUIT, and serves for some seconds more.
fn pingora() -> Running {
    let upgrade = |program: &mut Program, at: &Place| {
        let next = at.spawn("./app", &[&at.addr.to_string(), "--upgrade"]);
        program.child.process().signal(Signal::QUIT);
        wait_upgradable(&next);
        program.before.push(std::mem::replace(&mut program.child, next));
        program.before.retain(|child| child.process().is_alive());
    };
    let first = |at: &Place| {
        let child = spawn(at);
        wait_upgradable(&child);
        child
    };
    start("peer-pingora", first, upgrade)
}

/// Waits until the process handles SIGQUIT, which would kill it before.
fn wait_upgradable(child: &Child) {
    eventually("pingora handles SIGQUIT", PATIENCE, || {
        let caught = child.process().field("SigCgt").expect("a process that lives");
        let caught = u64::from_str_radix(&caught, 16).expect("a mask");
        caught >> (Signal::QUIT.as_raw() - 1) & 1 == 1
    });
}

/// Starts ecdysis. At SIGHUP it starts a child, which inherits the listener and reports that it is ready.
fn ecdysis() -> Running {
    let newest = |_: &mut Program, at: &Place| {
        let pid = std::fs::read_to_string(at.sandbox.path("pidfile")).expect("a pidfile");
        let pid = pid.trim().parse().expect("a process id");
        Process::open(pid).expect("a process that serves").signal(Signal::HUP);
    };
    start("peer-ecdysis", spawn, newest)
}

/// Starts shellflip. Its own program requests a restart over a socket.
fn shellflip() -> Running {
    let ask = |_: &mut Program, at: &Place| at.run("./app", &["restart"]);
    start("peer-shellflip", spawn_as_systemd, ask)
}

/// Starts the plain program. A restart stops it gracefully, waits for its end, and starts it again.
fn plain() -> Running {
    let again = |program: &mut Program, at: &Place| {
        program.child.process().signal(Signal::TERM);
        if !program.child.process().wait_gone(PATIENCE) {
            eprintln!("stop and start: it had to be killed");
        }
        program.child = spawn(at);
    };
    start("peer-plain", spawn, again)
}

fn spawn(at: &Place) -> Child {
    at.spawn("./app", &[&at.addr.to_string()])
}

/// Starts the program with the listener as descriptor 3, as systemd's socket activation does.
fn spawn_as_systemd(at: &Place) -> Child {
    let listener = TcpListener::bind(at.addr).expect("the address is free");
    let script = "export LISTEN_FDS=1 LISTEN_PID=$$; exec ./app 3<&0 0</dev/null";
    let mut command = at.sandbox.command_of("sh", ["-c", script]);
    command.stdin(OwnedFd::from(listener)).stdout(Stdio::null()).stderr(Stdio::inherit());
    Child::spawn_as_is(&mut command)
}

fn program(name: &str) -> PathBuf {
    built().join("release").join(name)
}

/// Builds the programs, outside of the workspace, and returns the release of a crate in them.
fn version(of: &str) -> Result<String, String> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peers/rust");
    let mut cargo = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".into()));
    cargo.args(["build", "--quiet", "--release", "--locked", "--target-dir"]).arg(built());
    // The virtual environment has cmake, if the machine has none.
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(":");
    path.push(built().join("venv/bin"));
    let status = cargo.current_dir(&dir).env("PATH", path).status();
    if !status.is_ok_and(|status| status.success()) {
        return Err(format!("{} does not build", dir.display()));
    }
    let lock =
        std::fs::read_to_string(dir.join("Cargo.lock")).map_err(|error| error.to_string())?;
    let after = lock.split_once(&format!("name = \"{of}\"\nversion = \"")).map(|(_, after)| after);
    let release = after.and_then(|it| it.split('"').next()).unwrap_or("?");
    Ok(if of == "axum" { format!("axum {release}") } else { release.to_owned() })
}
