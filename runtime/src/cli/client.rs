//! The verbs that talk to a running daemon: `status`, `stop` and `restart`.
//!
//! Each sends one request through the control socket and reads the replies: progress while the daemon works
//! on it, and then the answer. The pidfile shows whether there is a daemon at all.

use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags};

use super::find_daemon::SearchPlaces;
use super::render;
use super::verbs::ClientCommand;
use crate::claim;
use crate::config::Settings;
use crate::control::{Reply, Request, RestartOutcome, Status, connect, path_of};
use crate::counters::Ledger;
use crate::error::{Error, ErrorKind, Result};
use crate::image::{Image, OnDisk};
use crate::json::ToJson;
use crate::pidfile;
use crate::probe::Probe;
use crate::sys::process;

/// How long a daemon may take to answer `status`, which it does without waiting for anything. After
/// that it is taken for stopped by a signal; a shorter time would blame a busy machine.
const STATUS_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a daemon may take to exit after it reported that it stopped. Only the removal of its
/// files is left to do, so more than a moment means that it hangs.
const EXIT_TIMEOUT: Duration = Duration::from_secs(10);

/// Runs the verb; returns its exit code.
pub(crate) fn run(settings: &Settings, inquiry: &ClientCommand) -> Result<ExitCode> {
    match *inquiry {
        ClientCommand::Status { json } => status(settings, json),
        ClientCommand::Probe { json, probe } => self::probe(settings, json, probe),
        ClientCommand::Stop { json } => stop(settings, json),
        ClientCommand::Restart { json, wait, ref exe } => {
            restart(settings, json, wait, exe.as_deref())
        }
    }
}

fn status(settings: &Settings, json: bool) -> Result<ExitCode> {
    let running = pidfile::holder(&settings.pidfile)?.is_some();
    if !running {
        // The exit codes of the Linux Standard Base for init scripts: 1 dead with a pidfile, 3 not running.
        let dead = settings.pidfile.exists();
        let state = if dead { "dead" } else { "stopped" };
        if json {
            super::print_json(&serde_json::json!({
                "name": settings.name, "state": state, "pidfile": settings.pidfile,
            }))?;
        } else if dead {
            super::print(&format!(
                "{} is dead, but its pidfile {} exists; `start` replaces it",
                settings.name,
                settings.pidfile.display()
            ))?;
        } else {
            super::print(&not_running(settings).to_string())?;
        }
        return Ok(ExitCode::from(if dead { 1 } else { 3 }));
    }
    let status = ask_status(settings)?;
    if json {
        super::print_json(&status)?;
    } else {
        super::print(&render::status(&status))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Asks a running daemon for its status.
pub(super) fn ask_status(settings: &Settings) -> Result<Box<Status>> {
    let mut conversation = ControlClient::begin(settings, &Request::Status {})?;
    loop {
        match conversation.next(Some(STATUS_TIMEOUT))? {
            Some(Reply::Status { status }) => return Ok(status),
            Some(reply) => conversation.unexpected(reply)?,
            None => return Err(conversation.silent()),
        }
    }
}

/// Runs `status --probe`. A probe that cannot be answered, for whatever reason, has failed.
fn probe(settings: &Settings, json: bool, probe: Probe) -> Result<ExitCode> {
    let (ok, text) = asked(settings, probe).unwrap_or_else(|error| (false, error.to_string()));
    if json {
        super::print_json(&serde_json::json!({ "probe": probe.as_str(), "ok": ok, "text": text }))?;
    } else {
        let not = if ok { "" } else { "not " };
        let word = match probe {
            Probe::Live => "live",
            Probe::Ready => "ready",
            Probe::Startup => "started",
        };
        super::print(&format!("{not}{word}: {text}"))?;
    }
    Ok(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Asks a running daemon for the result of a probe.
fn asked(settings: &Settings, probe: Probe) -> Result<(bool, String)> {
    let mut conversation = ControlClient::begin(settings, &Request::Probe { probe })?;
    loop {
        match conversation.next(Some(STATUS_TIMEOUT))? {
            Some(Reply::Probed { ok, text }) => return Ok((ok, text)),
            Some(reply) => conversation.unexpected(reply)?,
            None => return Err(conversation.silent()),
        }
    }
}

/// Runs `stop`: shows what the drain waits for each second, and returns when the process is gone.
fn stop(settings: &Settings, json: bool) -> Result<ExitCode> {
    let mut conversation = ControlClient::begin(settings, &Request::Stop {})?;
    let mut phase = Phase::Draining { since: Instant::now() };
    let mut farewell = None;
    loop {
        match conversation.next(Some(Duration::from_secs(1))) {
            Ok(Some(Reply::Stopped { ledger, to_drained_ms, warnings })) => {
                farewell = Some(render::StopReport { ledger, to_drained_ms, warnings });
                break;
            }
            Ok(Some(Reply::Progress { text })) => {
                phase = phase.of(ask_status(settings).ok().as_deref());
                // That it stops is what was asked for; only what comes before it is news.
                if let Phase::LameDuck { .. } = phase {
                    eprintln!("{}: {text}", settings.name);
                }
            }
            Ok(Some(reply)) => conversation.unexpected(reply)?,
            Ok(None) => {
                // Fails if the daemon is ending at this moment; the next turn of the loop finds that out.
                let status = ask_status(settings).ok();
                phase = phase.of(status.as_deref());
                let waits = status.and_then(|status| render::waits(&status));
                let waits = waits.map_or(String::new(), |waits| format!(": {waits}"));
                eprintln!("{}: {phase}{waits}", settings.name);
            }
            // The daemon died without a report, and is stopped as well.
            Err(error) if error.kind() == ErrorKind::Worker => break,
            Err(error) => return Err(error),
        }
    }
    conversation.wait_gone()?;
    pidfile::clear_abandoned(&settings.pidfile, &path_of(&settings.runtime_dir, &settings.pidfile));
    if json {
        super::print_json(&Stopped {
            ledger: farewell.as_ref().map(|farewell| farewell.ledger),
            result: "stopped",
            to_drained_ms: farewell.as_ref().and_then(|farewell| farewell.to_drained_ms),
            warnings: farewell.map_or(Vec::new(), |farewell| farewell.warnings),
        })?;
    } else {
        super::print(&render::stopped(&settings.name, farewell))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What a daemon that was asked to stop does, and since when.
#[derive(Clone, Copy)]
enum Phase {
    LameDuck { since: Instant },
    Draining { since: Instant },
}

impl Phase {
    /// The phase by the daemon's state, which begins now if it is another one. Without a state it
    /// stays.
    fn of(self, status: Option<&Status>) -> Phase {
        let Some(status) = status else { return self };
        match (self, status.state == "lame-duck") {
            (Phase::LameDuck { .. }, true) | (Phase::Draining { .. }, false) => self,
            (Phase::Draining { .. }, true) => Phase::LameDuck { since: Instant::now() },
            (Phase::LameDuck { .. }, false) => Phase::Draining { since: Instant::now() },
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (word, since) = match self {
            Phase::LameDuck { since } => ("lame duck", since),
            Phase::Draining { since } => ("draining", since),
        };
        write!(f, "{word} for {} s", since.elapsed().as_secs())
    }
}

/// What `stop --json` prints.
#[derive(ToJson)]
struct Stopped {
    ledger: Option<Ledger>,
    result: &'static str,
    to_drained_ms: Option<f64>,
    warnings: Vec<String>,
}

/// Runs `restart`: shows progress, and returns with the outcome.
fn restart(settings: &Settings, json: bool, wait: bool, exe: Option<&Path>) -> Result<ExitCode> {
    let request = match exe {
        Some(exe) => Request::RestartFrom { exe: process::absolute(exe), wait },
        None => {
            tell_of_another_file(settings);
            Request::Restart { wait }
        }
    };
    let mut conversation = ControlClient::begin(settings, &request)?;
    let mut draining: Option<Instant> = None;
    let outcome: RestartOutcome = loop {
        match conversation.next(Some(Duration::from_secs(1)))? {
            Some(Reply::Restarted { outcome }) => break outcome,
            Some(Reply::Progress { text }) => eprintln!("{}: {text}", settings.name),
            Some(reply) => conversation.unexpected(reply)?,
            None => {
                // Fails if the daemon is ending, as in `stop`.
                let waits = ask_status(settings).ok().and_then(|status| render::waits(&status));
                match (waits, draining) {
                    (Some(waits), Some(since)) => {
                        let seconds = since.elapsed().as_secs();
                        eprintln!("{}: draining for {seconds} s: {waits}", settings.name);
                    }
                    // Print nothing in the first second of a drain: most are over by then.
                    (Some(_), None) => draining = Some(Instant::now()),
                    (None, _) => {}
                }
            }
        }
    };
    let done = outcome.result == "ok";
    if json {
        super::print_json(&outcome)?;
    }
    if done {
        if !json {
            super::print(&render::restarted(&settings.name, &outcome))?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    if !json {
        eprintln!("{}", render::aborted(&settings.name, &outcome));
    }
    Ok(ExitCode::FAILURE)
}

/// Warns if the image that the daemon will start is another file than this program: the user may expect this
/// one.
fn tell_of_another_file(settings: &Settings) {
    // If the status fails, so does the restart, with the reason.
    let Ok(status) = ask_status(settings) else { return };
    let Some(next) = status.on_disk.filter(|_| status.mode == "supervised") else { return };
    let own = process::initial_exe_path();
    let Ok(image) = Image::own(&own) else { return };
    let (at, there, name) = (own.display(), next.path.display(), &settings.name);
    match image.compare(&next.path, &[]) {
        OnDisk::Other { .. } => eprintln!(
            "{name}: the image to start is {there}, not {at}, which you ran; to start that one, \
             use `restart --exe {at}`"
        ),
        OnDisk::Missing => eprintln!(
            "{name}: the image to start, {there}, does not exist; to start {at}, use `restart \
             --exe {at}`"
        ),
        OnDisk::Same | OnDisk::SameBuild | OnDisk::Unusable { .. } => {}
    }
}

/// The error for a daemon that does not run; names a running one that may be meant.
fn not_running(settings: &Settings) -> Error {
    let (name, pidfile) = (&settings.name, settings.pidfile.display());
    let text = match claim::holder(&settings.runtime_dir, &settings.pidfile) {
        Some(pid) => format!(
            "{name} is running as process {pid}, but its pidfile {pidfile} is missing; see its log \
             for why it is not restored, or end that process"
        ),
        None => match SearchPlaces::of_host().find(settings) {
            Some(elsewhere) => format!(
                "{name} is not running here (the pidfile {pidfile} is not locked); {elsewhere}"
            ),
            None => {
                format!("{name} is not running (the pidfile {pidfile} is not locked); `start` it")
            }
        },
    };
    Error::new(ErrorKind::NotRunning, text)
}

/// A connection to a running daemon.
struct ControlClient<'a> {
    settings: &'a Settings,
    socket: OwnedFd,
    /// A pidfd of the daemon. It is opened while the daemon is connected, when the process id cannot belong to
    /// another process yet.
    process: Option<OwnedFd>,
}

impl<'a> ControlClient<'a> {
    /// Connects to the daemon and sends the request.
    fn begin(settings: &'a Settings, request: &Request) -> Result<ControlClient<'a>> {
        let Some(holder) = pidfile::holder(&settings.pidfile)? else {
            return Err(not_running(settings));
        };
        let path = path_of(&settings.runtime_dir, &settings.pidfile);
        let who = holder.pid.map_or(String::new(), |pid| format!(" as process {pid}"));
        let (socket, pid) = connect(&path).map_err(|error| {
            let advice = match error.kind() {
                std::io::ErrorKind::PermissionDenied => {
                    "; it belongs to another user: run this as that user or root"
                }
                _ => "; check that `runtime_dir` is the same as when it was started",
            };
            Error::os(
                ErrorKind::Io,
                format!(
                    "{} is running{who} but cannot be reached at {}{advice}",
                    settings.name,
                    path.display()
                ),
                error,
            )
        })?;
        let process = Pid::from_raw(pid)
            .and_then(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok());
        crate::link::send(&socket, request, &[]).map_err(|error| {
            Error::io(format!("cannot send the request to {}", settings.name), error)
        })?;
        Ok(ControlClient { settings, socket, process })
    }

    /// Waits for the next reply; `None` if none arrives within `timeout`.
    ///
    /// # Errors
    /// [`ErrorKind::Worker`] if the daemon closed the connection.
    fn next(&mut self, timeout: Option<Duration>) -> Result<Option<Reply>> {
        if !readable(&self.socket, timeout)? {
            return Ok(None);
        }
        match crate::link::receive::<Reply>(&self.socket) {
            Ok(Some((reply, _))) => Ok(Some(reply)),
            Ok(None) => Err(Error::new(
                ErrorKind::Worker,
                format!("{} exited before it answered; see its log", self.settings.name),
            )),
            Err(error) => {
                Err(Error::io(format!("cannot parse the answer of {}", self.settings.name), error))
            }
        }
    }

    /// Handles a reply other than the expected one: a refusal is an error, other replies are ignored.
    fn unexpected(&self, reply: Reply) -> Result<()> {
        match reply {
            Reply::Refused { reason } => {
                Err(Error::new(ErrorKind::Refused, format!("refused: {reason}")))
            }
            _ => Ok(()),
        }
    }

    /// The error for a daemon that does not answer in time.
    fn silent(&self) -> Error {
        Error::new(
            ErrorKind::Timeout,
            format!(
                "{} does not answer; if a signal has stopped it, `kill -CONT` continues it",
                self.settings.name
            ),
        )
    }

    /// Waits until the daemon's process is gone.
    fn wait_gone(&self) -> Result<()> {
        let Some(process) = &self.process else { return Ok(()) };
        if readable(process, Some(EXIT_TIMEOUT))? {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Timeout,
            format!(
                "{} reported that it stopped, but its process still exists",
                self.settings.name
            ),
        ))
    }
}

/// Waits until a descriptor is readable; `false` after `timeout`.
fn readable(fd: impl AsFd, timeout: Option<Duration>) -> Result<bool> {
    let deadline = timeout.map(|timeout| Instant::now() + timeout);
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let timeout = left.and_then(|left| Timespec::try_from(left).ok());
        let mut fds = [PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN)];
        match poll(&mut fds, timeout.as_ref()) {
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(Error::io("poll failed", error)),
        }
    }
}
