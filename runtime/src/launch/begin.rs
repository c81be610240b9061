//! Becoming the daemon in this process: locks and sockets, in the order in which a later one depends on an
//! earlier one. What is taken is given back by `Drop` where a later step fails.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::{Instant, SystemTime};

use nix::sys::signal::Signal;
use rustix::fs::{Mode, OFlags};

use super::role::LaunchOrigin;
use super::startup_pipe::StartupNotifier;
use super::until_started::UntilStarted;
use crate::claim::{Claim, Claimed};
use crate::config::{Configuration, Settings};
use crate::control::{Clients, ControlSocket, path_of, prepare_directory};
use crate::daemon_io::DaemonIo;
use crate::error::{Error, ErrorKind, Result};
use crate::listener;
use crate::logs::{DaemonLog, LogFile};
use crate::pidfile::{self, PidFile};
use crate::probe;
use crate::solo;
use crate::supervisor::driver::Driver;
use crate::sys::signals::{self, SighupAction};
use crate::sys::{limits, process};
use crate::systemd::activation::{self, Sockets};
use crate::systemd::notify::{self, Notifier};

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
pub(super) fn become_daemon(outset: LaunchContext, mut reporter: StartupNotifier) -> u8 {
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
    let pidfile = UntilStarted::new(PidFile::acquire(&settings.pidfile, &settings.name)?);
    // Not before the pidfile is locked: until then the log may belong to a running daemon.
    let log = open_log(outset.log.as_deref(), settings.log_mode)?;
    *own_output = true;
    let control_path = path_of(&settings.runtime_dir, &settings.pidfile);
    let control = UntilStarted::new(ControlSocket::bind(&control_path)?);
    let probes = probe::ProbeServer::bind(settings.probe)?;
    let mut vars = process::variables();
    // These sockets are taken: a later image must not look for them.
    vars.retain(|(name, _)| !activation::is_of_protocol(name));
    if outset.detached {
        // A service manager expects notifications from the process that it started, and not from a daemon
        // that has detached from it.
        vars.retain(|(name, _)| !notify::is_private(name));
    }
    let io = DaemonIo {
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
        clients: Clients::default(),
        upkeep: None,
        events: VecDeque::new(),
        began: (Instant::now(), SystemTime::now()),
    };
    sockets.remarks.iter().for_each(|remark| say.line(remark));
    match io.notifier.forget(&sockets.outdated) {
        Ok(()) => sockets.left.iter().for_each(|(name, addr)| listener::clear_away(name, addr)),
        Err(error) => {
            say.line(&format!(
                "cannot remove unused sockets from the store of the service manager: {error}"
            ));
        }
    }
    if io.configuration.settings.graceful_restart {
        return Driver::new(io, sockets);
    }
    match solo::start(&io, sockets) {
        Ok(never) => match never {},
        Err(error) => {
            *reporter = io.reporter;
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
