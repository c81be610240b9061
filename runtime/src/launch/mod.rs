//! The top of `main`: decides which role this process has, before any thread or user code exists.
//!
//! A process that was exec'd by another process of the daemon finds its role in a marker in its environment
//! (see [`role`]): worker, solo daemon, supervisor after an upgrade, or preflight. A process without a marker
//! was started from outside, by a shell or a service manager, and does what its command line asks for: it
//! runs a control command, or becomes the daemon in the foreground ([`become_daemon`]) or in the background
//! ([`detach`], which reports the outcome through a [`startup_pipe`]).

use std::collections::VecDeque;
use std::ffi::OsString;
use std::future::Future;
use std::io::Write;
use std::path::PathBuf;
use std::process::{ExitCode, Termination};

use nix::sys::signal::Signal;
use rustix::fs::{Mode, OFlags};

use self::role::{LaunchOrigin, Role, RoleMarker};
use crate::claim::{Claim, Claimed};
use crate::cli::{self, Command, Line, Parsed};
use crate::config::{Configuration, LOCATION, Prefix, Settings, Surroundings};
use crate::control::{ControlSocket, path_of, prepare_directory};
use crate::error::{Error, ErrorKind, Result};
use crate::launch::startup_pipe::StartupNotifier;
use crate::listener;
use crate::logs::{DaemonLog, LogFile};
use crate::pidfile::{self, PidFile};
use crate::probe;
use crate::solo;
use crate::spec::Spec;
use crate::supervisor::driver::{Driver, DriverSetup};
use crate::supervisor::upgrade::{preflight, takeover};
use crate::sys::signals::SighupAction;
use crate::sys::{descriptors, limits, process, signals};
use crate::systemd::activation::{self, Sockets};
use crate::systemd::notify::{self, Notifier};
use crate::worker::daemon::Daemon;
use crate::worker::lifecycle::{self, WorkerRuntime};

mod detach;
pub(crate) mod role;
pub(crate) mod startup_pipe;

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
        Ok(Some(Role::Solo { luggage })) => solo::resume(luggage),
        Ok(Some(Role::Supervisor { state, back, generation })) => {
            return Err(supervise(spec, takeover::take_over(state, back, generation)));
        }
        Ok(Some(Role::Restored { state, undone, by })) => {
            return Err(supervise(spec, takeover::resume_old_image(state, &undone, &by)));
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

/// Everything that the start of a daemon depends on.
pub(crate) struct LaunchContext {
    pub(crate) configuration: Configuration,
    pub(crate) origin: LaunchOrigin,
    pub(crate) args: Vec<OsString>,
    /// The descriptors that a service manager passed to this process.
    pub(crate) given: Vec<activation::Named>,
    /// The file for stdout and stderr, if they are to go to one.
    pub(crate) log: Option<PathBuf>,
    pub(crate) detached: bool,
}

/// Runs the daemon in this process until it ends; returns its exit code.
fn become_daemon(outset: LaunchContext, mut reporter: StartupNotifier) -> u8 {
    let say = DaemonLog::new(&outset.configuration.settings, outset.log.is_some());
    // Until a detached daemon has opened its log its stderr is the caller's, and the launcher prints the
    // error there: printed here as well, it would appear twice.
    let mut own_output = !outset.detached;
    match begin(outset, &mut reporter, &say, &mut own_output) {
        Ok(driver) => driver.run(),
        Err(error) => {
            if own_output {
                say.error(&error.to_string());
            }
            reporter.failed(error.exit_code(), &error.to_string());
            error.exit_code()
        }
    }
}

/// Takes the locks and binds the control socket and the probes, in this order: whatever belongs to the daemon
/// of this pidfile is touched only after the pidfile is locked.
///
/// A solo daemon execs itself here and does not return.
fn begin(
    outset: LaunchContext,
    reporter: &mut StartupNotifier,
    say: &DaemonLog,
    own_output: &mut bool,
) -> Result<Driver> {
    let settings = &outset.configuration.settings;
    require_procfs()?;
    limits::raise_descriptors();
    let hang_up = sighup_action(outset.detached)?;
    let sockets = Sockets::sort(outset.given, &settings.listen)?;
    prepare_directory(&settings.runtime_dir)?;
    create_parent(settings)?;
    let claim = claim(settings, say)?;
    let pidfile = PidFile::acquire(&settings.pidfile, &settings.name)?;
    // Not before the pidfile is locked: until then the log may belong to a running daemon.
    let log = match open_log(outset.log.as_deref(), settings.log_mode) {
        Ok(log) => log,
        Err(error) => {
            pidfile.remove();
            return Err(error);
        }
    };
    *own_output = true;
    let control_path = path_of(&settings.runtime_dir, &settings.pidfile);
    let control = match ControlSocket::bind(&control_path) {
        Ok(control) => control,
        Err(error) => {
            pidfile.remove();
            return Err(error);
        }
    };
    let probes = match probe::Server::bind(settings.probe) {
        Ok(probes) => probes,
        Err(error) => {
            control.remove();
            pidfile.remove();
            return Err(error);
        }
    };
    let mut vars = process::variables();
    // These sockets are taken: a later image must not look for them.
    vars.retain(|(name, _)| !activation::is_of_protocol(name));
    if outset.detached {
        // A service manager expects notifications from the process that it started, and not from a daemon
        // that has detached from it.
        vars.retain(|(name, _)| !notify::is_private(name));
    }
    let setup = DriverSetup {
        configuration: outset.configuration,
        origin: outset.origin,
        args: outset.args,
        notifier: Notifier::new(&vars, None, VecDeque::new()),
        vars,
        pidfile,
        claim,
        control,
        log,
        reporter: std::mem::take(reporter),
        say: say.clone(),
        hang_up,
        probes,
    };
    sockets.remarks.iter().for_each(|remark| say.line(remark));
    match setup.notifier.forget(&sockets.outdated) {
        Ok(()) => sockets.left.iter().for_each(|(name, addr)| listener::clear_away(name, addr)),
        Err(error) => {
            say.line(&format!(
                "cannot remove unused sockets from the store of the service manager: {error}"
            ));
        }
    }
    if setup.configuration.settings.graceful_restart {
        return Driver::new(setup, sockets);
    }
    match solo::start(&setup, sockets) {
        Ok(never) => match never {},
        Err(error) => {
            setup.control.remove();
            setup.pidfile.remove();
            *reporter = setup.reporter;
            Err(error)
        }
    }
}

/// Requires `/proc`: the daemon finds its own image there, and without it later errors would be hard to
/// understand.
fn require_procfs() -> Result<()> {
    if std::path::Path::new("/proc/self").exists() {
        return Ok(());
    }
    let what = "/proc is not mounted, but the daemon needs it to find its own image; mount it, \
                read-only is enough";
    Err(Error::new(ErrorKind::Image, what))
}

/// Opens the log, if there is one, and makes it stdout and stderr.
fn open_log(path: Option<&std::path::Path>, mode: u32) -> Result<Option<LogFile>> {
    let log = path.map(|path| LogFile::open(path, mode)).transpose()?;
    if let Some(log) = &log {
        log.become_output()?;
    }
    Ok(log)
}

/// Claims the runtime directory, which protects it from a second daemon also while the pidfile is missing.
///
/// Returns `None`, after a warning, where no claim is possible.
fn claim(settings: &Settings, say: &DaemonLog) -> Result<Option<Claim>> {
    let dir = settings.runtime_dir.display();
    match Claim::take(&settings.runtime_dir, &settings.pidfile) {
        Ok(Claimed::Ours(claim)) => Ok(Some(claim)),
        Ok(Claimed::Running(pid)) => {
            let holder = pidfile::holder_soon(&settings.pidfile)?;
            let without_file = pid.filter(|_| holder.is_none());
            Err(match without_file {
                None => pidfile::already_running(&settings.name, &settings.pidfile, holder),
                Some(pid) => Error::new(
                    ErrorKind::AlreadyRunning,
                    format!(
                        "{} is already running as process {pid}, but its pidfile {} is missing; \
                         end that process, or set another `runtime_dir`",
                        settings.name,
                        settings.pidfile.display()
                    ),
                ),
            })
        }
        // The lock of the pidfile has to be enough.
        Ok(Claimed::Stranger(user)) => {
            say.line(&format!(
                "user {user} holds the claim of {dir}; only the lock of the pidfile prevents a \
                 second daemon"
            ));
            Ok(None)
        }
        Err(error) => {
            say.line(&format!(
                "cannot claim {dir}, only the lock of the pidfile prevents a second daemon: \
                 {error}"
            ));
            Ok(None)
        }
    }
}

/// Creates the pidfile's directory, which may be another one than the runtime directory.
fn create_parent(settings: &Settings) -> Result<()> {
    let Some(parent) = settings.pidfile.parent() else { return Ok(()) };
    std::fs::create_dir_all(parent).map_err(|error| {
        Error::os(
            ErrorKind::Pidfile,
            format!(
                "cannot create {} for the pidfile; create it or set `pidfile` to another path",
                parent.display()
            ),
            error,
        )
    })
}

/// Finds out what SIGHUP means to this daemon; without a terminal, resets the signals that a parent may have
/// ignored.
fn sighup_action(detached: bool) -> Result<SighupAction> {
    let cannot = |error| Error::io("cannot read the signal dispositions", error);
    if detached || !has_terminal() {
        // A shell ignores INT and QUIT for what it runs in the background, and `nohup` ignores HUP.
        signals::default_action(&[Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT])
            .map_err(cannot)?;
        return Ok(SighupAction::Request);
    }
    let ignored = signals::is_ignored(Signal::SIGHUP).map_err(cannot)?;
    Ok(if ignored { SighupAction::Ignored } else { SighupAction::End })
}

/// Returns whether this process has a controlling terminal, whose hang-up means that its user is gone.
fn has_terminal() -> bool {
    rustix::fs::open("/dev/tty", OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY, Mode::empty())
        .is_ok()
}
