//! The top of `main`: decides which role this process has, before any thread or user code exists.
//!
//! A process that was exec'd by another process of the daemon finds its role in a marker in its environment
//! (see [`role`]): worker, solo daemon, supervisor after an upgrade, or preflight. A process without a marker
//! was started from outside, by a shell or a service manager, and does what its command line asks for: it
//! runs a control command, or becomes the daemon in the foreground ([`begin`]) or in the background
//! ([`detach`], which reports the outcome through a [`startup_pipe`]).

use std::ffi::OsString;
use std::future::Future;
use std::io::Write;
use std::path::PathBuf;
use std::process::{ExitCode, Termination};

use nix::sys::signal::Signal;

use self::begin::{LaunchContext, become_daemon};
use self::role::{LaunchOrigin, Role, RoleMarker};
use crate::cli::{self, Command, Line, Parsed};
use crate::config::{Configuration, LOCATION, Prefix, Surroundings};
use crate::error::{Error, ErrorKind, Result};
use crate::launch::startup_pipe::StartupNotifier;
use crate::solo;
use crate::spec::Spec;
use crate::supervisor::driver::Driver;
use crate::supervisor::upgrade::{preflight, takeover};
use crate::sys::{descriptors, limits, process, signals};
use crate::systemd::activation;
use crate::worker::daemon::Daemon;
use crate::worker::lifecycle::{self, WorkerRuntime};

mod begin;
mod detach;
pub(crate) mod role;
pub(crate) mod startup_pipe;
pub(crate) mod until_started;

/// Runs an `async fn main` as `#[daemon]` asks for it; returns the exit code of this process.
pub fn run_async<F, Fut>(spec: &'static Spec, main: F) -> ExitCode
where
    F: FnOnce(Daemon) -> Fut,
    Fut: Future,
    Fut::Output: Termination,
{
    match enter(spec) {
        Ok(worker) => worker.run_async(spec, main),
        Err(code) => code,
    }
}

/// Runs a `fn main` without async as `#[daemon]` asks for it; returns the exit code of this process.
pub fn run_sync<F, T>(spec: &'static Spec, main: F) -> ExitCode
where
    F: FnOnce(Daemon) -> T,
    T: Termination,
{
    match enter(spec) {
        Ok(worker) => worker.run_sync(spec, main),
        Err(code) => code,
    }
}

/// Plays the role of this process.
///
/// Returns only in a process in which the program's `main` has to run, or with the exit code of any other
/// one.
fn enter(spec: &Spec) -> Result<WorkerRuntime, ExitCode> {
    let role = descriptors::fill_standard_streams()
        .map_err(|error| Error::io("cannot open /dev/null", error))
        .and_then(|()| {
            signals::ignore_sigxfsz().map_err(|error| Error::io("cannot catch a signal", error))
        })
        .and_then(|()| RoleMarker::take());
    let entered = match role {
        Ok(Some(Role::Worker { link, respawn, origin })) => {
            name_process(spec, &origin);
            join(spec, link, respawn, &origin)
        }
        Ok(Some(Role::Solo { state })) => solo::resume(state),
        Ok(Some(Role::Supervisor { state, back, generation })) => {
            return Err(supervise(spec, takeover::take_over(state, back, generation)));
        }
        Ok(Some(Role::Restored { state, failure, by })) => {
            return Err(supervise(spec, takeover::resume_old_image(state, &failure, &by)));
        }
        Ok(Some(Role::Preflight { state, echo })) => return Err(preflight::rehearse(state, echo)),
        Ok(None) => return Err(command(spec)),
        Err(error) => Err(error),
    };
    entered.map_err(|error| {
        print_error(spec, &error);
        ExitCode::from(error.exit_code())
    })
}

/// Continues as the supervisor that this process was before its last exec.
fn supervise(spec: &Spec, driver: Result<Driver>) -> ExitCode {
    // The previous image may be a release that did not raise the limit.
    limits::raise_descriptors();
    match driver {
        Ok(driver) => {
            name_process(spec, driver.origin());
            ExitCode::from(driver.run())
        }
        Err(error) => {
            print_error(spec, &error);
            ExitCode::from(error.exit_code())
        }
    }
}

/// Introduces this worker to its supervisor. A respawned worker computes no settings: it gets those of its
/// generation in *welcome*.
fn join(spec: &Spec, link: i32, respawn: bool, origin: &LaunchOrigin) -> Result<WorkerRuntime> {
    let link = role::adopt(link)?;
    if respawn {
        return lifecycle::handshake(link, None);
    }
    lifecycle::handshake(link, Some((spec, &surroundings(origin))))
}

/// Sets the process name (`comm`), which is the number of a descriptor after an exec by descriptor.
fn name_process(spec: &Spec, origin: &LaunchOrigin) {
    let file = origin.exe.file_name().and_then(|name| name.to_str());
    process::set_name(file.or(spec.bin).unwrap_or("daemon"));
}

/// Everything outside the program that its configuration depends on.
fn surroundings(origin: &LaunchOrigin) -> Surroundings {
    Surroundings {
        start_dir: origin.start_dir.clone(),
        vars: process::variables(),
        uid: rustix::process::geteuid().as_raw(),
        overrides: origin.overrides.clone(),
        exe: origin.exe.clone(),
    }
}

/// Prints the error to stderr, each of its lines prefixed with the program's name.
fn print_error(spec: &Spec, error: &Error) {
    for line in error.to_string().lines() {
        // A closed stderr leaves no other place for the message.
        let _ = writeln!(std::io::stderr(), "{}: {line}", spec.bin.unwrap_or("daemon"));
    }
}

/// Runs the verb of the command line, or the daemon where there is none.
fn command(spec: &Spec) -> ExitCode {
    let done = cli::parse(spec, process::arguments()).and_then(|line| match line {
        Line::Command(parsed) => run_verb(spec, parsed),
        Line::Help(text) => cli::print(&text).map(|()| ExitCode::SUCCESS),
    });
    done.unwrap_or_else(|error| {
        print_error(spec, &error);
        ExitCode::from(error.exit_code())
    })
}

fn run_verb(spec: &Spec, parsed: Parsed) -> Result<ExitCode> {
    let start_dir = start_dir()?;
    let overrides = parsed.overrides;
    let origin = LaunchOrigin { exe: process::initial_exe_path(), start_dir, overrides };
    let around = surroundings(&origin);
    match parsed.command {
        Command::Run { detach } => {
            let configuration = Configuration::load(spec, &around)?;
            let detach = detach.unwrap_or(configuration.settings.detach);
            let given = activation::take(!detach)?;
            if detach && !given.is_empty() {
                return Err(cannot_detach(given.len()));
            }
            Ok(run(spec, configuration, origin, parsed.args, given, detach))
        }
        Command::Client(inquiry) => {
            refuse_settings(&around.overrides, &LOCATION)?;
            cli::client::run(&Configuration::locate(spec, &around, &LOCATION)?, &inquiry)
        }
        Command::Logs(options) => {
            let keys = &cli::logs::KEYS;
            refuse_settings(&around.overrides, keys)?;
            cli::logs::run(&Configuration::locate(spec, &around, keys)?, &options)
        }
        Command::Check { json } => cli::check(&Configuration::load(spec, &around)?, json),
        Command::Unit(options) => {
            let around = cli::unit::surroundings(Prefix::of(spec), &around);
            let configuration = Configuration::load(spec, &around)?;
            cli::unit::run(&configuration, &around, &parsed.args, options)
        }
    }
}

/// The error of a detached start with passed sockets: systemd passes them to the process that it watches, and
/// that process is the launcher, which exits.
fn cannot_detach(given: usize) -> Error {
    Error::config(format!(
        "the service manager passed {given} sockets, but a daemon that goes to the background \
         loses them; use `run`, and Type=notify in its unit"
    ))
}

/// Refuses `--set` options other than those in `location`: a command cannot change the settings of a running
/// daemon, its options can only help to find it.
fn refuse_settings(overrides: &[String], location: &[&str]) -> Result<()> {
    let keys = overrides.iter().filter_map(|text| Some(text.split_once('=')?.0.trim()));
    match keys.into_iter().find(|key| !location.contains(key)) {
        None => Ok(()),
        Some(key) => Err(Error::new(
            ErrorKind::Usage,
            format!(
                "`--set {key}` has no effect on a running daemon; write it to its configuration \
                 file and `restart`, or `stop` it and `start` it with the option"
            ),
        )),
    }
}

fn start_dir() -> Result<PathBuf> {
    process::current_directory().map_err(|error| {
        Error::io("the current directory no longer exists; change to one that does", error)
    })
}

/// Becomes the daemon, in this process or in a detached one.
fn run(
    spec: &Spec,
    configuration: Configuration,
    origin: LaunchOrigin,
    args: Vec<OsString>,
    given: Vec<activation::Named>,
    detach: bool,
) -> ExitCode {
    // The parent may have left SIGCHLD ignored, and the children of a process that ignores it leave no exit
    // code (wait(2)).
    if let Err(error) = signals::default_action(&[Signal::SIGCHLD]) {
        let error = Error::io("cannot reset signals", error);
        print_error(spec, &error);
        return ExitCode::from(error.exit_code());
    }
    let log = configuration.settings.log_path(detach).map(std::path::Path::to_owned);
    let outset = LaunchContext { configuration, origin, args, given, log, detached: detach };
    if detach {
        return match detach::detach(outset) {
            Ok(code) => code,
            Err(error) => {
                print_error(spec, &error);
                ExitCode::from(error.exit_code())
            }
        };
    }
    ExitCode::from(become_daemon(outset, StartupNotifier::default()))
}
