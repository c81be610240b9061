//! The control thread of a solo daemon: it handles signals, clients, probes and deadlines, and talks to the
//! worker in the same process over a link, as a supervisor does.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use nix::sys::signal::Signal;

use crate::claim::Claim;
use crate::config::{Configuration, Ready};
use crate::control::{
    ClientInput, Clients, ControlSocket, DiskStatus, ImageStatus, ListenerStatus, Reply, Request,
    Status, WorkerStatus, unix_seconds,
};
use crate::counters::Counters;
use crate::error::{Error, Result};
use crate::image::Image;
use crate::launch::role::LaunchOrigin;
use crate::launch::startup_pipe::StartupNotifier;
use crate::link::{self, FromWorker, ToWorker};
use crate::listener::Bound;
use crate::logs::{DaemonLog, LogFile, REOPENED};
use crate::owned_files::OwnedFiles;
use crate::pidfile::PidFile;
use crate::probe::{self, Probe, ProbeResult};
use crate::sys::readiness::readable;
use crate::sys::signals::{CaughtSignals, HANDLED, SighupAction};
use crate::sys::{clock, process};
use crate::systemd::notify::{self, Health, Notifier};

mod files;

/// The parts from which the thread is built.
pub(super) struct SoloParts {
    pub(super) configuration: Configuration,
    pub(super) origin: LaunchOrigin,
    pub(super) image: Image,
    pub(super) link: OwnedFd,
    pub(super) bound: Vec<(String, Bound)>,
    pub(super) counters: Counters,
    pub(super) pidfile: PidFile,
    pub(super) claim: Option<Claim>,
    pub(super) control: ControlSocket,
    pub(super) reporter: StartupNotifier,
    pub(super) log: Option<LogFile>,
    pub(super) say: DaemonLog,
    pub(super) hang_up: SighupAction,
    pub(super) notifier: Notifier,
    pub(super) probes: probe::ProbeServer,
}

/// A descriptor that may become readable.
#[derive(Debug, Clone, Copy)]
enum SoloSource {
    Link,
    Signals,
    Control,
    Client(u64),
    Probe(probe::ProbeSource),
    Files,
    Claim,
}

/// The control thread.
pub(super) struct SoloControl {
    parts: SoloParts,
    /// Watches the daemon's files; `None` in a `chroot`, from which they cannot be reached.
    upkeep: Option<OwnedFiles>,
    caught: CaughtSignals,
    clients: Clients,
    /// The clients that wait for the end of the stop.
    stopping: Vec<u64>,
    /// When the daemon was first asked to stop.
    asked_to_stop: Option<Instant>,
    began: (Instant, SystemTime),
    phase: SoloPhase,
    /// The program's last text for `status`.
    text: Option<String>,
    /// Why the program may never be ready: a listener that only the operator declared and it has not claimed.
    unclaimed: Option<String>,
    /// When the program became ready, in seconds since 1970.
    serves: Option<u64>,
}

/// The phase of the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SoloPhase {
    /// The program is not ready yet, and has until the deadline.
    Starting { deadline: Instant },
    /// The program accepts.
    Serving,
    /// The daemon was asked to stop and still accepts.
    LameDuck { until: Instant },
    /// The program finishes what is in flight.
    Draining,
    /// The program drains, and its deadline was set to now by SIGQUIT or a second signal.
    Hurried,
    /// `main` has ended.
    Over,
}

impl SoloControl {
    /// Catches the signals and begins to watch the daemon's files.
    pub(super) fn new(parts: SoloParts) -> Result<SoloControl> {
        let caught = CaughtSignals::catch(&HANDLED)
            .map_err(|error| Error::io("cannot catch signals", error))?;
        let deadline = Instant::now() + parts.configuration.settings.ready_timeout;
        let settings = &parts.configuration.settings;
        let upkeep = settings.chroot.is_none();
        let upkeep = upkeep.then(|| OwnedFiles::new(&settings.runtime_dir, Vec::new(), &parts.say));
        Ok(SoloControl {
            upkeep,
            parts,
            caught,
            clients: Clients::default(),
            stopping: Vec::new(),
            asked_to_stop: None,
            began: (Instant::now(), SystemTime::now()),
            phase: SoloPhase::Starting { deadline },
            text: None,
            unclaimed: None,
            serves: None,
        })
    }

    /// Starts the thread.
    pub(super) fn start(self) -> Result<JoinHandle<()>> {
        std::thread::Builder::new()
            .name("unbroken-solo".into())
            .stack_size(512 * 1024)
            .spawn(move || self.run())
            .map_err(|error| Error::io("cannot start the control thread", error))
    }

    /// Reports a failed start and removes the daemon's files, instead of starting the thread.
    pub(super) fn abandon_start(mut self, error: &Error) {
        self.parts.reporter.failed(error.exit_code(), &error.to_string());
        self.cleanup();
    }

    /// Runs until `main` has ended, then removes the daemon's files.
    fn run(mut self) {
        self.restore_files();
        while self.phase != SoloPhase::Over {
            let health = self.health();
            self.parts.notifier.tell(health);
            if let Err(error) = self.step() {
                self.parts.say.warn(&format!("cannot wait for events: {error}"));
                self.drain(Instant::now());
                self.phase = SoloPhase::Over;
            }
        }
        self.reply_stopped();
        self.cleanup();
    }

    /// Sleeps until something happens, and handles it.
    fn step(&mut self) -> Result<()> {
        let limit = match self.phase {
            SoloPhase::Starting { deadline } => Some(deadline),
            SoloPhase::LameDuck { until } => Some(until),
            _ => None,
        };
        let (alive, probes) = (self.parts.notifier.deadline(), self.parts.probes.deadline());
        let files = self.upkeep.as_ref().and_then(OwnedFiles::deadline);
        let next = [limit, self.clients.deadline(), alive, probes, files];
        let next = next.into_iter().flatten().min();
        let ready = self.poll(next)?;
        for place in ready {
            match place {
                SoloSource::Link => self.read_worker(),
                SoloSource::Signals => self.read_signals()?,
                SoloSource::Control => {
                    if let Err(error) = self.clients.accept(&self.parts.control, Instant::now()) {
                        self.parts.say.warn(&format!("cannot accept a control client: {error}"));
                    }
                }
                SoloSource::Client(id) => self.read_client(id),
                SoloSource::Probe(source) => self.answer_probe(source),
                SoloSource::Files => self.files_changed(),
                SoloSource::Claim => self.parts.claim.iter().for_each(Claim::answer),
            }
        }
        let now = Instant::now();
        if self.upkeep.as_ref().and_then(OwnedFiles::deadline).is_some_and(|at| at <= now) {
            self.restore_files();
        }
        self.clients.expire(now);
        self.parts.probes.expire(now);
        self.parts.notifier.keep_alive(now, true);
        if self.parts.notifier.retries(now) {
            self.store_listeners();
            self.parts.notifier.flush();
        }
        match self.phase {
            SoloPhase::Starting { deadline } if deadline <= now => self.not_ready(),
            SoloPhase::LameDuck { until } if until <= now => self.begin_drain(),
            _ => {}
        }
        Ok(())
    }

    /// Sleeps until a descriptor is readable or the deadline has passed; returns the readable ones.
    fn poll(&self, deadline: Option<Instant>) -> Result<Vec<SoloSource>> {
        let now = Instant::now();
        let mut places: Vec<(SoloSource, BorrowedFd<'_>)> = vec![
            (SoloSource::Link, self.parts.link.as_fd()),
            (SoloSource::Signals, self.caught.as_fd()),
        ];
        if self.clients.accepts(now) {
            places.push((SoloSource::Control, self.parts.control.as_fd()));
        }
        places.extend(self.clients.sockets().map(|(id, fd)| (SoloSource::Client(id), fd)));
        let files = self.upkeep.as_ref().and_then(OwnedFiles::source);
        places.extend(files.map(|fd| (SoloSource::Files, fd)));
        places.extend(self.parts.claim.as_ref().map(|claim| (SoloSource::Claim, claim.as_fd())));
        let probes = self.parts.probes.sources(now);
        places.extend(probes.map(|(source, fd)| (SoloSource::Probe(source), fd)));
        readable(&places, deadline).map_err(|error| Error::io("poll failed", error))
    }

    // ---- probes ---------------------------------------------------------------------------------

    fn answer_probe(&mut self, source: probe::ProbeSource) {
        let (phase, served) = (self.phase, self.serves.is_some());
        let verdict = |probe| verdict(phase, served, probe);
        if let Err(error) = self.parts.probes.serve(source, Instant::now(), verdict) {
            self.parts.say.line(&format!("cannot accept a probe: {error}"));
        }
    }

    // ---- what is heard --------------------------------------------------------------------------

    fn read_worker(&mut self) {
        match link::receive::<FromWorker>(&self.parts.link) {
            Ok(Some((FromWorker::Ready {}, _))) => self.ready(),
            Ok(Some((FromWorker::Status { text }, _))) => self.text = Some(text),
            Ok(Some((FromWorker::Unclaimed { reason, slip }, _))) => match slip {
                true => self.fail_to_start(&reason),
                false => {
                    self.parts.say.warn(&reason);
                    self.unclaimed = Some(reason);
                }
            },
            Ok(Some((FromWorker::Unhealthy { reason }, _))) => {
                self.parts.say.warn(&format!("the program is unhealthy: {reason}"));
            }
            Ok(Some(_)) => {}
            Ok(None) => self.phase = SoloPhase::Over,
            Err(error) => self.parts.say.warn(&format!("the link failed: {error}")),
        }
    }

    /// Has the service manager's fd store keep the listeners while the program serves.
    fn store_listeners(&mut self) {
        if self.phase != SoloPhase::Serving {
            return;
        }
        let listeners = self.parts.bound.iter().map(|(name, bound)| (name, bound));
        if let Some(remark) = self.parts.notifier.keep(listeners) {
            self.parts.say.line(&remark);
        }
    }

    /// Handles *ready*: lets the program accept and reports the daemon as started.
    fn ready(&mut self) {
        if !matches!(self.phase, SoloPhase::Starting { .. }) {
            return;
        }
        self.phase = SoloPhase::Serving;
        self.serves = Some(unix_seconds(SystemTime::now()));
        self.send(&ToWorker::Go {});
        self.store_listeners();
        let addrs: Vec<String> =
            self.parts.bound.iter().map(|(name, b)| format!("{name} {}", b.addr())).collect();
        let on = if addrs.is_empty() { String::new() } else { format!(" on {}", addrs.join(", ")) };
        self.parts.say.line(&format!("serves{on}"));
        self.parts.reporter.ready(&addrs);
    }

    /// Ends a daemon that was not ready within `ready_timeout`.
    fn not_ready(&mut self) {
        let settings = &self.parts.configuration.settings;
        let names: Vec<&str> = settings.listen.keys().map(String::as_str).collect();
        let missing = self.parts.counters.missing(&names, settings.ready == Ready::Manual);
        let limit = unbroken_schema::duration::format(settings.ready_timeout);
        let reason = match &self.unclaimed {
            Some(unclaimed) => format!("it was not ready within {limit}: {unclaimed}"),
            None => format!(
                "{} was not ready within {limit}: {missing}; raise `ready_timeout` if it needs longer",
                settings.name
            ),
        };
        self.parts.say.error(&reason);
        self.parts.reporter.failed_in_main(1, &reason);
        self.cleanup();
        process::exit_now(1);
    }

    /// Ends a daemon whose start cannot succeed.
    fn fail_to_start(&mut self, reason: &str) {
        self.parts.say.error(reason);
        self.parts.reporter.failed(1, reason);
        self.cleanup();
        process::exit_now(1);
    }

    fn read_signals(&mut self) -> Result<()> {
        while let Some(signal) =
            self.caught.next().map_err(|error| Error::io("cannot read signals", error))?
        {
            match signal {
                Signal::SIGTERM | Signal::SIGINT => self.stop(),
                Signal::SIGHUP if self.parts.hang_up == SighupAction::End => self.stop(),
                Signal::SIGQUIT => self.shorten_deadline(),
                Signal::SIGUSR1 => match self.parts.log.as_mut().map(LogFile::reopen) {
                    Some(Ok(())) => self.parts.say.line(REOPENED),
                    Some(Err(error)) => {
                        self.parts.say.warn(&format!("{error}; still writing to the old file"));
                    }
                    None => {}
                },
                _ => {}
            }
        }
        Ok(())
    }

    fn read_client(&mut self, id: u64) {
        match self.clients.read(id) {
            ClientInput::Request(Request::Status {}) => {
                let status = Box::new(self.status());
                self.clients.reply(id, &Reply::Status { status });
            }
            ClientInput::Request(Request::Probe { probe }) => {
                let ProbeResult { ok, text } = verdict(self.phase, self.serves.is_some(), probe);
                self.clients.reply(id, &Reply::Probed { ok, text: text.into() });
            }
            ClientInput::Request(Request::Stop {}) => {
                self.stopping.push(id);
                match self.phase {
                    SoloPhase::Starting { .. } | SoloPhase::Serving => self.stop(),
                    SoloPhase::LameDuck { until } => self.report_lame_duck(until),
                    _ => {}
                }
            }
            ClientInput::Request(Request::Restart { .. } | Request::RestartFrom { .. }) => {
                let reason = format!(
                    "{} runs without a supervisor; add `graceful_restart` to its attribute, or stop \
                     and start it",
                    self.parts.configuration.settings.name
                );
                self.clients.reply(id, &Reply::Refused { reason });
            }
            ClientInput::Request(Request::Unknown) => {
                let reason =
                    "the running daemon is older than this command and does not know the request; \
                     restart the daemon"
                        .into();
                self.clients.reply(id, &Reply::Refused { reason });
            }
            ClientInput::Gone => self.stopping.retain(|client| *client != id),
            ClientInput::Nothing => {}
        }
    }

    /// Returns the state to report to the service manager.
    fn health(&self) -> Health {
        let settings = &self.parts.configuration.settings;
        let (phase, text) = match self.phase {
            SoloPhase::Starting { .. } => (notify::ServicePhase::Starting, "starting"),
            SoloPhase::Serving => (notify::ServicePhase::Running, "serving"),
            SoloPhase::LameDuck { .. } => {
                (notify::ServicePhase::Stopping, "lame duck: still accepting")
            }
            _ => (notify::ServicePhase::Stopping, "stopping"),
        };
        let ends_within = settings.lame_duck
            + settings.drain_timeout
            + settings.kill_timeout
            + Duration::from_secs(1);
        Health { phase, text: text.into(), reload: None, ends_within }
    }

    // ---- the end --------------------------------------------------------------------------------

    /// Handles a request to stop: begins the lame-duck phase or the drain. A second one sets the drain
    /// deadline to now, a third one ends the process.
    fn stop(&mut self) {
        let lame_duck = self.parts.configuration.settings.lame_duck;
        match self.phase {
            SoloPhase::Serving if !lame_duck.is_zero() => {
                let (now, length) = (Instant::now(), unbroken_schema::duration::format(lame_duck));
                self.asked_to_stop = Some(now);
                self.phase = SoloPhase::LameDuck { until: now + lame_duck };
                let text = format!("lame duck for {length}: not ready, still accepting");
                self.parts.say.line(&text);
                self.report_lame_duck(now + lame_duck);
            }
            SoloPhase::Starting { .. } | SoloPhase::Serving => self.begin_drain(),
            SoloPhase::LameDuck { .. } | SoloPhase::Draining => self.shorten_deadline(),
            SoloPhase::Hurried => {
                self.cleanup();
                process::exit_now(128 + 15);
            }
            SoloPhase::Over => {}
        }
    }

    fn begin_drain(&mut self) {
        self.parts.say.line("draining");
        self.clients.progress("stopping");
        self.phase = SoloPhase::Draining;
        self.drain(Instant::now() + self.parts.configuration.settings.drain_timeout);
    }

    /// Shows waiting clients how long the lame-duck phase still takes.
    fn report_lame_duck(&mut self, until: Instant) {
        let left = until.saturating_duration_since(Instant::now()).as_secs_f64();
        self.clients.progress(&format!("lame duck for {left:.0} s: not ready, still accepting"));
    }

    /// Sets the drain deadline to now.
    fn shorten_deadline(&mut self) {
        if self.phase == SoloPhase::Hurried {
            self.stop();
        } else if self.phase != SoloPhase::Over {
            self.phase = SoloPhase::Hurried;
            self.drain(Instant::now());
        }
    }

    /// Closes the thread's copies of the listeners and has the program drain until the deadline.
    fn drain(&mut self, deadline: Instant) {
        self.asked_to_stop.get_or_insert_with(Instant::now);
        // Connections queued at listeners that the service manager passed or keeps wait for the next start;
        // those queued at the others must be accepted by this process.
        let notifier = &self.parts.notifier;
        let ours = self
            .parts
            .bound
            .iter()
            .filter(|(_, bound)| !bound.is_managers() && !notifier.holds(bound.addr()));
        let (finish, finish_at) =
            ours.map(|(name, bound)| (name.clone(), bound.addr().clone())).unzip();
        self.close_listeners();
        let deadline = clock::to_monotonic_ns(deadline);
        self.send(&ToWorker::Drain { deadline, last: true, finish, finish_at });
    }

    /// Sends a message to the worker.
    fn send(&self, message: &ToWorker) {
        if let Err(error) = link::send(&self.parts.link, message, &[]) {
            self.parts.say.warn(&format!("the link failed: {error}"));
        }
    }

    /// Logs what the end cost and answers the clients that wait for it.
    fn reply_stopped(&mut self) {
        let ledger = self.parts.counters.final_ledger();
        let to_drained_ms = self.asked_to_stop.map(|at| at.elapsed().as_secs_f64() * 1000.0);
        if let Some(forced) = ledger.forced() {
            self.parts.say.warn(&format!("forced at the drain deadline: {forced}"));
        }
        if ledger.dropped_tasks > 0 || ledger.lost > 0 || ledger.forced().is_some() {
            let text = match self.asked_to_stop {
                Some(_) => format!("stopped: {ledger}"),
                None => format!("exited without being asked to stop: {ledger}"),
            };
            self.parts.say.warn(&text);
        }
        for client in std::mem::take(&mut self.stopping) {
            let warnings = Vec::new();
            self.clients.reply(client, &Reply::Stopped { ledger, to_drained_ms, warnings });
        }
    }

    fn close_listeners(&mut self) {
        for (_, bound) in std::mem::take(&mut self.parts.bound) {
            if !self.parts.notifier.holds(bound.addr()) {
                bound.unlink();
            }
        }
    }

    /// Removes the daemon's files.
    fn cleanup(&mut self) {
        self.close_listeners();
        self.parts.control.remove_file();
        self.parts.pidfile.remove_file();
    }

    // ---- what is shown --------------------------------------------------------------------------

    fn status(&self) -> Status {
        let settings = &self.parts.configuration.settings;
        let exe = settings.exe.clone().unwrap_or_else(|| self.parts.origin.exe.clone());
        let (ledger, held) = (self.parts.counters.read(), self.parts.counters.remaining());
        let uptime = self.began.0.elapsed().as_secs_f64();
        let (state, worker) = match self.phase {
            SoloPhase::Starting { .. } => ("starting", "starting"),
            SoloPhase::Serving => ("running", "serving"),
            SoloPhase::LameDuck { .. } => ("lame-duck", "serving"),
            SoloPhase::Draining | SoloPhase::Hurried | SoloPhase::Over => ("stopping", "draining"),
        };
        Status {
            name: settings.name.clone(),
            pid: std::process::id(),
            mode: "solo".into(),
            state: state.into(),
            uptime,
            since: unix_seconds(self.began.1),
            generation: Some(super::GENERATION),
            workers: vec![WorkerStatus {
                pid: i32::try_from(std::process::id()).unwrap_or(0),
                generation: super::GENERATION,
                state: worker.into(),
                uptime,
                connections: ledger.open,
                requests_in_flight: ledger.in_flight,
                requests: ledger.requests,
                ledger,
                tasks: held.tasks,
                main_ended: held.main.map(|runs| !runs),
                text: self.text.clone(),
            }],
            listeners: self
                .parts
                .bound
                .iter()
                .map(|(name, bound)| ListenerStatus::of(name, bound))
                .collect(),
            probes: self.parts.probes.addrs().collect(),
            image: ImageStatus::of(&self.parts.image, super::GENERATION, self.serves),
            known_good: None,
            supervisor_image: None,
            on_disk: Some(DiskStatus::of(&self.parts.image, exe, &[])),
            pidfile: settings.pidfile.clone(),
            files: self.upkeep.as_ref().map(OwnedFiles::status).unwrap_or_default(),
            log: self.parts.log.as_ref().map(|log| log.path().to_owned()),
            note: None,
            ledger: Some(ledger),
            restarts: Vec::new(),
        }
    }
}

/// Answers a probe. The liveness probe always passes: a single process cannot detect that it is hung itself.
fn verdict(phase: SoloPhase, served: bool, probe: Probe) -> ProbeResult {
    match (probe, phase) {
        (Probe::Live, _) => ProbeResult::passes("the process responds"),
        (Probe::Startup, _) if served => ProbeResult::passes("the program has been ready"),
        (Probe::Startup, _) => ProbeResult::fails("the program has not been ready yet"),
        (Probe::Ready, SoloPhase::Starting { .. }) => {
            ProbeResult::fails("the program has not been ready yet")
        }
        (Probe::Ready, SoloPhase::Serving) => ProbeResult::passes("the program is serving"),
        (Probe::Ready, SoloPhase::LameDuck { .. }) => {
            ProbeResult::fails("the daemon is about to stop (lame duck)")
        }
        (Probe::Ready, _) => ProbeResult::fails("the daemon is stopping"),
    }
}
