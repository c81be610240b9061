//! The I/O that a supervisor and a solo daemon have in common: signals, control clients, probes, the service
//! manager, the log and the daemon's own files.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::time::{Instant, SystemTime};

use nix::sys::signal::Signal;

use crate::claim::Claim;
use crate::config::{Configuration, LogLevel, Ready, Settings};
use crate::control::{ClientInput, Clients, ControlSocket, Reply, Request, Status, unix_seconds};
use crate::error::Error;
use crate::failpoint::{self, Step};
use crate::launch::role::LaunchOrigin;
use crate::launch::startup_pipe::StartupNotifier;
use crate::launch::until_started::UntilStarted;
use crate::listener::Bound;
use crate::logs::{DaemonLog, EventContext, LogFile, REOPENED};
use crate::owned_files::OwnedFiles;
use crate::pidfile::PidFile;
use crate::probe::{self, Probe, ProbeResult};
use crate::sys::signals::SighupAction;
use crate::systemd::notify::Notifier;
use unbroken_core::event::{ClientId, Event, Level, WorkerId};

/// The parts of a daemon's process that do not depend on whether it supervises workers.
pub(crate) struct DaemonIo {
    pub(crate) configuration: Configuration,
    pub(crate) origin: LaunchOrigin,
    /// The program's own arguments, for its workers.
    pub(crate) args: Vec<OsString>,
    /// The program's own environment, for its workers.
    pub(crate) vars: Vec<(OsString, OsString)>,
    /// Before the pidfile, as fields are dropped in this order: the lock goes last.
    pub(crate) control: UntilStarted<ControlSocket>,
    pub(crate) pidfile: UntilStarted<PidFile>,
    pub(crate) claim: Option<Claim>,
    pub(crate) log: Option<LogFile>,
    /// Reports the end of the start to the process that started the daemon.
    pub(crate) reporter: StartupNotifier,
    /// Writes the daemon's own log lines.
    pub(crate) say: DaemonLog,
    /// The effect of SIGHUP.
    pub(crate) hang_up: SighupAction,
    /// Reports the state to the service manager.
    pub(crate) notifier: Notifier,
    pub(crate) probes: probe::ProbeServer,
    pub(crate) clients: Clients,
    /// Watches and restores the files that the daemon owns; `None` before it runs, and for a solo daemon in a
    /// `chroot`, which cannot reach them.
    pub(crate) upkeep: Option<OwnedFiles>,
    /// Events for the machine, which handles them one by one.
    pub(crate) events: VecDeque<Event>,
    /// When the daemon began.
    pub(crate) began: (Instant, SystemTime),
}

/// A descriptor of [`DaemonIo`] that became readable.
#[derive(Debug, Clone, Copy)]
pub(crate) enum IoSource {
    Control,
    Client(ClientId),
    Files,
    Claim,
    Probe(probe::ProbeSource),
}

impl DaemonIo {
    /// Returns the descriptors to poll.
    pub(crate) fn sources(&self) -> Vec<(IoSource, BorrowedFd<'_>)> {
        let now = Instant::now();
        let mut sources = Vec::new();
        if self.clients.accepts(now) {
            sources.push((IoSource::Control, self.control.as_fd()));
        }
        sources.extend(self.clients.sockets().map(|(id, fd)| (IoSource::Client(id), fd)));
        let files = self.upkeep.as_ref().and_then(OwnedFiles::source);
        sources.extend(files.map(|fd| (IoSource::Files, fd)));
        sources.extend(self.claim.as_ref().map(|claim| (IoSource::Claim, claim.as_fd())));
        let probes = self.probes.sources(now);
        sources.extend(probes.map(|(source, fd)| (IoSource::Probe(source), fd)));
        sources
    }

    /// Returns when [`files_are_due`](DaemonIo::files_are_due) or [`expire`](DaemonIo::expire) has something
    /// to do.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let files = self.upkeep.as_ref().and_then(OwnedFiles::deadline);
        let (clients, probes) = (self.clients.deadline(), self.probes.deadline());
        [clients, probes, self.notifier.deadline(), files].into_iter().flatten().min()
    }

    /// Reads from a readable descriptor. `probe` answers probes. Returns a client that asks for the status.
    pub(crate) fn read(
        &mut self,
        source: IoSource,
        now: Instant,
        probe: impl Fn(Probe) -> ProbeResult,
    ) -> Option<ClientId> {
        match source {
            IoSource::Control => {
                if let Err(error) = self.clients.accept(&self.control, now) {
                    self.say.warn(&format!("cannot accept a control client: {error}"));
                }
            }
            IoSource::Client(id) => return self.read_client(id, probe),
            IoSource::Files => self.upkeep.as_mut()?.hear(&self.say),
            IoSource::Claim => self.claim.iter().for_each(Claim::answer),
            IoSource::Probe(source) => {
                if let Err(error) = self.probes.serve(source, now, probe) {
                    self.say.line(&format!("cannot accept a probe: {error}"));
                }
            }
        }
        None
    }

    fn read_client(
        &mut self,
        id: ClientId,
        probe: impl Fn(Probe) -> ProbeResult,
    ) -> Option<ClientId> {
        let request = match self.clients.read(id) {
            ClientInput::Request(request) => request,
            ClientInput::Gone => {
                self.events.push_back(Event::ClientGone { client: id });
                return None;
            }
            ClientInput::Nothing => return None,
        };
        let client = Some(id);
        let event = match request {
            Request::Status {} => return client,
            Request::Probe { probe: asked } => {
                let ProbeResult { ok, text } = probe(asked);
                self.clients.reply(id, &Reply::Probed { ok, text: text.into() });
                return None;
            }
            Request::Restart { wait } => Event::Restart { client, wait },
            Request::RestartFrom { exe, wait } => Event::RestartFrom { exe, client, wait },
            Request::Stop {} => Event::Stop { client, at_once: false },
            Request::Unknown => {
                let reason =
                    "the running daemon is older than this command and does not know the request; \
                     restart the daemon"
                        .into();
                self.clients.reply(id, &Reply::Refused { reason });
                return None;
            }
        };
        failpoint::hit(Step::SupervisorRequest, 0);
        self.events.push_back(event);
        None
    }

    /// Queues what a signal means to the machine, if anything.
    pub(crate) fn note_signal(&mut self, signal: Signal) {
        let stop = |at_once| Event::Stop { client: None, at_once };
        let restart = Event::Restart { client: None, wait: false };
        self.events.push_back(match (signal, self.hang_up) {
            (Signal::SIGTERM | Signal::SIGINT, _) => stop(false),
            (Signal::SIGQUIT, _) => stop(true),
            (Signal::SIGHUP, SighupAction::End) => stop(false),
            (Signal::SIGHUP, SighupAction::Request) | (Signal::SIGUSR2, _) => restart,
            _ => return,
        });
    }

    /// Returns whether the daemon's files have to be inspected.
    pub(crate) fn files_are_due(&mut self, now: Instant) -> bool {
        self.upkeep.as_mut().is_some_and(|upkeep| upkeep.is_due(now))
    }

    /// Closes clients whose time is over and keeps the service manager's watchdog alive, if the daemon is
    /// `healthy`. Returns whether the service manager gets another attempt: the caller then calls
    /// [`Notifier::keep`] and [`Notifier::flush`].
    pub(crate) fn expire(&mut self, now: Instant, healthy: bool) -> bool {
        self.clients.expire(now);
        self.probes.expire(now);
        self.notifier.keep_alive(now, healthy);
        self.notifier.retries(now)
    }

    /// Writes a log line of the machine.
    pub(crate) fn log(&self, level: Level, text: &str, about: EventContext<'_>) {
        let level = match level {
            Level::Info => LogLevel::Info,
            Level::Warn => LogLevel::Warn,
            Level::Error => LogLevel::Error,
        };
        self.say.event(level, text, about);
    }

    /// Opens the log file again, after a rotation. Returns the new one.
    pub(crate) fn reopen_log(&mut self) -> Option<&LogFile> {
        let log = self.log.as_mut()?;
        if let Err(error) = log.reopen() {
            self.say.warn(&format!("{error}; still writing to the old file"));
            return None;
        }
        self.say.line(REOPENED);
        Some(log)
    }

    /// Returns the paths of all files that the daemon owns: its own and those of `listeners`.
    pub(crate) fn files<'a>(&self, listeners: impl Iterator<Item = &'a Bound>) -> Vec<PathBuf> {
        let listeners = listeners.filter_map(|bound| Some(bound.file()?.0.to_owned()));
        let own = [self.pidfile.path().to_owned(), self.control.path().to_owned()];
        own.into_iter().chain(listeners).collect()
    }

    /// Begins an inspection of the files at `paths`, and restores the pidfile and the control socket. Returns
    /// whether one of these two was missing.
    pub(crate) fn restore_own_files(&mut self, paths: Vec<PathBuf>) -> bool {
        let DaemonIo { upkeep: Some(upkeep), clients, control, pidfile, say, .. } = self else {
            return false;
        };
        upkeep.begin(paths, say);
        let (path, inode) = (control.path().to_owned(), control.inode());
        let socket = upkeep.tend("the control socket", &path, inode, say, || {
            // Clients that are queued at the old socket would be lost when it is closed.
            let accepted = clients.accept(control, Instant::now());
            accepted.map_err(|error| Error::io("cannot accept a control client", error))?;
            control.restore()
        });
        let (path, inode) = (pidfile.path().to_owned(), pidfile.inode());
        upkeep.tend("the pidfile", &path, inode, say, || pidfile.restore()) || socket
    }

    /// Restores the file of a listener, if it is missing. Returns the listener that was bound again for that.
    pub(crate) fn restore_listener(&mut self, name: &str, bound: &Bound) -> Option<Bound> {
        let (path, inode) = bound.file()?;
        let mut new = None;
        let what = format!("listener `{name}` at");
        self.upkeep.as_mut()?.tend(&what, path, Some(inode), &self.say, || {
            new = Some(bound.rebound(name)?);
            Ok(())
        });
        new
    }

    /// Collects the part of the status that does not depend on workers.
    pub(crate) fn status(&self, now: Instant) -> Status {
        Status {
            name: self.configuration.settings.name.clone(),
            pid: std::process::id(),
            uptime: now.saturating_duration_since(self.began.0).as_secs_f64(),
            since: unix_seconds(self.began.1),
            probes: self.probes.addrs().collect(),
            pidfile: self.configuration.settings.pidfile.clone(),
            files: self.upkeep.as_ref().map(OwnedFiles::status).unwrap_or_default(),
            log: self.log.as_ref().map(|log| log.path().to_owned()),
            ..Status::default()
        }
    }
}

/// Returns what a starting worker has not done yet to be ready. If its time is over and it may never be ready,
/// because of listeners that are `unclaimed`, it is rejected for that reason.
pub(crate) fn readiness_blocker(
    worker: WorkerId,
    settings: Option<&Settings>,
    unclaimed: Option<&String>,
    missing: impl Fn(&[&str], bool) -> String,
) -> Event {
    if let (Some(unclaimed), Some(settings)) = (unclaimed, settings) {
        let limit = unbroken_schema::duration::format(settings.ready_timeout);
        let reason = format!("it was not ready within {limit}: {unclaimed}");
        return Event::HelloRejected { worker, reason };
    }
    let listen = settings.into_iter().flat_map(|settings| settings.listen.keys());
    let names: Vec<&str> = listen.map(String::as_str).collect();
    let manual = settings.is_some_and(|settings| settings.ready == Ready::Manual);
    Event::ReadinessBlockedBy { worker, what: missing(&names, manual) }
}
