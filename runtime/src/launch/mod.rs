//! The top of `main`: decides which role this process has, before any thread or user code exists.
//!
//! A process that was exec'd by another process of the daemon finds its role in a marker in its environment
//! (see [`role`]): worker, solo daemon, supervisor after an upgrade, or preflight. A process without a marker
//! was started from outside, by a shell or a service manager, and does what its command line asks for: it
//! runs a [`command`], or becomes the daemon in the foreground ([`begin`]) or in the background
//! ([`detach`], which reports the outcome through a [`startup_pipe`]).

use std::future::Future;
use std::io::Write;
use std::process::{ExitCode, Termination};

use self::role::{LaunchOrigin, Role, RoleMarker};
use crate::cli;
use crate::config::{Configuration, Surroundings};
use crate::error::{Error, ErrorKind, Result};
use crate::program::Program;
use crate::solo;
use crate::spec::Spec;
use crate::supervisor::driver::Driver;
use crate::supervisor::upgrade::{preflight, takeover};
use crate::sys::{descriptors, limits, process, signals};
use crate::worker::daemon::Daemon;
use crate::worker::lifecycle::{self, WorkerRuntime};

mod begin;
mod command;
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
    run_async_with(spec, Program::plain(), |daemon, ()| main(daemon))
}

/// Runs a `fn main` without async as `#[daemon]` asks for it; returns the exit code of this process.
pub fn run_sync<F, T>(spec: &'static Spec, main: F) -> ExitCode
where
    F: FnOnce(Daemon) -> T,
    T: Termination,
{
    run_sync_with(spec, Program::plain(), |daemon, ()| main(daemon))
}

/// [`run_async`] for a program with a command line or functions of its own.
pub fn run_async_with<A, F, Fut>(spec: &'static Spec, program: Program<A>, main: F) -> ExitCode
where
    F: FnOnce(Daemon, A) -> Fut,
    Fut: Future,
    Fut::Output: Termination,
{
    match enter(spec, &program) {
        Ok((worker, args)) => worker.run_async(spec, |daemon| main(daemon, args)),
        Err(code) => code,
    }
}

/// [`run_sync`] for a program with a command line or functions of its own.
pub fn run_sync_with<A, F, T>(spec: &'static Spec, program: Program<A>, main: F) -> ExitCode
where
    F: FnOnce(Daemon, A) -> T,
    T: Termination,
{
    match enter(spec, &program) {
        Ok((worker, args)) => worker.run_sync(spec, |daemon| main(daemon, args)),
        Err(code) => code,
    }
}

/// Returns whether this process belongs to the daemon: its first argument is a verb, such as `start` or
/// `status`, or the daemon itself started it.
///
/// For a program whose `main` is written by hand and calls the annotated function:
///
/// ```no_run
/// mod server {
///     use unbroken::{Daemon, daemon};
///
///     #[daemon(graceful_restart, listen(http = "0.0.0.0:8080"))]
///     pub async fn serve(daemon: Daemon) -> anyhow::Result<()> {
///         daemon.draining().await;
///         Ok(())
///     }
/// }
///
/// fn main() -> std::process::ExitCode {
///     let command = std::env::args().nth(1);
///     if unbroken::is_verb() || command.as_deref() == Some("server") {
///         return server::serve();
///     }
///     println!("usage: hello server");
///     std::process::ExitCode::SUCCESS
/// }
/// ```
///
/// The annotated function has to be called before the program starts a thread, and with the arguments of the
/// process: it forks, and each worker begins at `main` with the program's own arguments.
pub fn is_verb() -> bool {
    let verb = process::arguments().get(1).is_some_and(|word| cli::is_verb(word));
    verb || std::env::var_os(role::VARIABLE).is_some()
}

/// Plays the role of this process.
///
/// Returns only in a process in which the program's `main` has to run, or with the exit code of any other
/// one.
fn enter<A>(spec: &Spec, program: &Program<A>) -> Result<(WorkerRuntime, A), ExitCode> {
    let role = descriptors::fill_standard_streams()
        .map_err(|error| Error::io("cannot open /dev/null", error))
        .and_then(|()| {
            signals::ignore_sigxfsz().map_err(|error| Error::io("cannot catch a signal", error))
        })
        .and_then(|()| RoleMarker::take());
    let entered = match role {
        Ok(Some(Role::Worker { link, respawn, origin })) => {
            name_process(spec, &origin);
            join(spec, program, link, respawn, &origin)
        }
        Ok(Some(Role::Solo { state })) => {
            arguments(program).and_then(|args| solo::resume(state).map(|worker| (worker, args)))
        }
        Ok(Some(Role::Supervisor { state, back, generation })) => {
            return Err(supervise(spec, takeover::take_over(state, back, generation)));
        }
        Ok(Some(Role::Restored { state, failure, by })) => {
            return Err(supervise(spec, takeover::resume_old_image(state, &failure, &by)));
        }
        Ok(Some(Role::Preflight { state, echo })) => return Err(preflight::rehearse(state, echo)),
        Ok(None) => return Err(command::run_command(spec, program)),
        Err(error) => Err(error),
    };
    entered.map_err(|error| {
        print_error(spec, &error);
        ExitCode::from(error.exit_code())
    })
}

/// Parses the program's arguments in a process that runs `main`. They were valid at the start of the daemon,
/// but a new release of the program may not take them.
fn arguments<A>(program: &Program<A>) -> Result<A> {
    program.parse(process::arguments(), &cli::verb_list()).map_err(|exit| {
        let text = exit.text().trim_end();
        Error::new(
            ErrorKind::Usage,
            format!(
                "the program does not accept the arguments that the daemon was started with: {text}"
            ),
        )
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
fn join<A>(
    spec: &Spec,
    program: &Program<A>,
    link: i32,
    respawn: bool,
    origin: &LaunchOrigin,
) -> Result<(WorkerRuntime, A)> {
    let link = role::adopt(link)?;
    let args = match arguments(program) {
        Ok(args) => args,
        Err(error) => return Err(lifecycle::misconfigured(&link, error)?),
    };
    let worker = match respawn {
        true => lifecycle::handshake(link, None)?,
        false => {
            let load = || Configuration::load(spec, &surroundings(origin), &program.with(&args));
            lifecycle::handshake(link, Some(&load))?
        }
    };
    Ok((worker, args))
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
