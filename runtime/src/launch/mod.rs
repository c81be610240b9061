//! Which role this process has: decided at the top of `main`, before any thread or user code exists.

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

/// Runs an `async fn main` under its daemon.
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

/// Runs a `fn main` under its daemon.
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

/// A process in which `main` is to run, or the exit code of one in which it is not.
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

/// Goes on as the supervisor that this process was before its last exec.
fn supervise(spec: &Spec, driver: Result<Driver>) -> ExitCode {
    // The image before may have left it as it was.
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

fn join(spec: &Spec, link: i32, respawn: bool, origin: &LaunchOrigin) -> Result<WorkerRuntime> {
    let link = role::adopt(link)?;
    if respawn {
        return lifecycle::handshake(link, None);
    }
    lifecycle::handshake(link, Some((spec, &surroundings(origin))))
}

/// A process exec'd by descriptor is called by the descriptor's number until it says otherwise.
fn name_process(spec: &Spec, origin: &LaunchOrigin) {
    let file = origin.exe.file_name().and_then(|name| name.to_str());
    process::set_name(file.or(spec.bin).unwrap_or("daemon"));
}

fn surroundings(origin: &LaunchOrigin) -> Surroundings {
    Surroundings {
        start_dir: origin.start_dir.clone(),
        vars: process::variables(),
        uid: rustix::process::geteuid().as_raw(),
        overrides: origin.overrides.clone(),
        exe: origin.exe.clone(),
    }
}

/// One line on stderr.
fn print_error(spec: &Spec, error: &Error) {
    for line in error.to_string().lines() {
        // Nothing is left to do where nobody reads it.
        let _ = writeln!(std::io::stderr(), "{}: {line}", spec.bin.unwrap_or("daemon"));
    }
}

/// Does what the command line says.
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

/// A service manager gives its sockets to the process that it watches.
fn cannot_detach(given: usize) -> Error {
    Error::config(format!(
        "the service manager passed {given} sockets, but a daemon that goes to the background \
         loses them; use `run`, and Type=notify in its unit"
    ))
}

/// A daemon that runs has its settings: a command can only say where to find it.
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

/// Becomes the daemon, here or in a process of its own.
fn run(
    spec: &Spec,
    configuration: Configuration,
    origin: LaunchOrigin,
    args: Vec<OsString>,
    given: Vec<activation::Named>,
    detach: bool,
) -> ExitCode {
    // Children of a process that ignores their end leave no exit code (wait(2)), and whoever started us
    // may have done so.
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

/// Everything a daemon starts from.
pub(crate) struct LaunchContext {
    pub(crate) configuration: Configuration,
    pub(crate) origin: LaunchOrigin,
    pub(crate) args: Vec<OsString>,
    /// What a service manager gave to this process.
    pub(crate) given: Vec<activation::Named>,
    pub(crate) log: Option<PathBuf>,
    pub(crate) detached: bool,
}

/// Runs the daemon in this process to its end; returns its exit code.
fn become_daemon(outset: LaunchContext, mut reporter: StartupNotifier) -> u8 {
    let say = DaemonLog::new(&outset.configuration.settings, outset.log.is_some());
    // A detached daemon still has the caller's stderr until it has its log: the launcher will tell.
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

/// Takes the locks and sockets; a solo daemon execs itself and does not return.
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
    // Not before: until then it is the log of the daemon that has the pidfile.
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
    // They are taken.
    vars.retain(|(name, _)| !activation::is_of_protocol(name));
    if outset.detached {
        // Whoever starts a daemon in the background is not what its service manager waits for.
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

/// A program finds its own image there, and without it every error is a riddle.
fn require_procfs() -> Result<()> {
    if std::path::Path::new("/proc/self").exists() {
        return Ok(());
    }
    let what = "/proc is not mounted, but the daemon needs it to find its own image; mount it, \
                read-only is enough";
    Err(Error::new(ErrorKind::Image, what))
}

fn open_log(path: Option<&std::path::Path>, mode: u32) -> Result<Option<LogFile>> {
    let log = path.map(|path| LogFile::open(path, mode)).transpose()?;
    if let Some(log) = &log {
        log.become_output()?;
    }
    Ok(log)
}

/// The runtime directory is this daemon's, also while its pidfile is gone.
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
        // The lock of the pidfile has to do.
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

/// The pidfile's directory, where it is another one than the runtime directory.
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

/// What SIGHUP means to this daemon.
fn sighup_action(detached: bool) -> Result<SighupAction> {
    let cannot = |error| Error::io("cannot read the signal dispositions", error);
    if detached || !has_terminal() {
        // Whoever started us may have had them ignored.
        signals::default_action(&[Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT])
            .map_err(cannot)?;
        return Ok(SighupAction::Request);
    }
    let ignored = signals::is_ignored(Signal::SIGHUP).map_err(cannot)?;
    Ok(if ignored { SighupAction::Ignored } else { SighupAction::End })
}

/// Whether this process has a controlling terminal, whose hang-up would be the end of its user.
fn has_terminal() -> bool {
    rustix::fs::open("/dev/tty", OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY, Mode::empty())
        .is_ok()
}
