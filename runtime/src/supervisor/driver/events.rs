//! Waits until a descriptor is readable or a deadline has passed, and turns messages of workers, requests of
//! clients, signals and ends of processes into events for the machine.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use nix::sys::signal::Signal;

use super::Driver;
use crate::claim::Claim;
use crate::config::{Configuration, Ready};
use crate::control::{ClientInput, Reply, Request};
use crate::error::{Error, ErrorKind, Result};
use crate::failpoint::{self, Step};
use crate::link::{FromWorker, Protocols, ToWorker};
use crate::probe::{self, ProbeResult};
use crate::supervisor::generations::check_successor;
use crate::supervisor::upgrade::preflight::Preflight;
use crate::supervisor::{policy, report};
use crate::sys::clock;
use crate::sys::privileges::Account;
use crate::sys::process;
use crate::sys::readiness::readable;
use crate::sys::signals::SighupAction;
use unbroken_core::event::{Event, Generation, WorkerId};
use unbroken_core::machine::WorkerState;
use unbroken_core::policy::Policy;

/// The most messages that are read from one worker before other descriptors get their turn: a
/// worker that floods its link must not block the rest.
const MESSAGES_AT_ONCE: usize = 64;

/// The most messages read from a worker that has ended: more than its link can hold, so that none is lost.
const LAST_MESSAGES: usize = 4096;

/// A descriptor that became readable.
#[derive(Debug, Clone, Copy)]
pub(in crate::supervisor) enum Readable {
    Signals,
    Control,
    Client(u64),
    Link(WorkerId),
    Child(WorkerId),
    Preflight,
    Files,
    Claim,
    Orphan(i32),
    Probe(probe::ProbeSource),
}

impl Driver {
    /// Sleeps until something happens, and handles it.
    pub(super) fn wait(&mut self) -> Result<()> {
        let rehearsal = self.preflight.as_ref().map(Preflight::deadline);
        let next = [
            self.machine.deadline().map(clock::from_core),
            self.workers.deadline(),
            self.clients.deadline(),
            self.orphans.deadline(),
            self.setup.probes.deadline(),
            self.setup.notifier.deadline(),
            self.upkeep.deadline(),
            rehearsal,
        ]
        .into_iter()
        .flatten()
        .min();
        let ready = self.poll(next)?;
        let now = Instant::now();
        for source in ready {
            match source {
                Readable::Signals => self.read_signals()?,
                Readable::Control => {
                    if let Err(error) = self.clients.accept(&self.setup.control, now) {
                        self.setup.say.warn(&format!("cannot accept a control client: {error}"));
                    }
                }
                Readable::Client(id) => self.read_client(id),
                Readable::Link(id) => self.read_worker(id, MESSAGES_AT_ONCE),
                Readable::Child(id) => self.reap(id),
                Readable::Preflight => {}
                Readable::Files => self.files_changed(now),
                Readable::Claim => self.setup.claim.iter().for_each(Claim::answer),
                Readable::Orphan(pid) => self.orphan_gone(pid),
                Readable::Probe(source) => self.answer_probe(source, now),
            }
        }
        self.poll_preflight();
        let rehearses = |pid| self.preflight.as_ref().is_some_and(|preflight| preflight.is(pid));
        process::reap_unknown_children(|pid| self.workers.owns(pid) || rehearses(pid))
            .map_err(|error| Error::io("cannot reap children", error))?;
        for worker in self.workers.expired_links(now) {
            let reason = "it closed its link to the supervisor".to_owned();
            self.events.push_back(Event::LinkLost { worker, reason });
        }
        self.orphans.enforce(now, &self.setup.say);
        if self.upkeep.deadline().is_some_and(|at| at <= now) {
            self.restore_files();
        }
        self.clients.expire(now);
        self.setup.probes.expire(now);
        self.setup.notifier.keep_alive(now, self.machine.is_healthy());
        if self.setup.notifier.retries(now) {
            self.store_listeners();
            self.setup.notifier.flush();
        }
        if self.machine.deadline().is_some_and(|at| at <= clock::to_core(now)) {
            self.note_readiness_blockers(now);
            self.events.push_back(Event::Tick);
        }
        Ok(())
    }

    /// Sleeps until a descriptor is readable or the deadline has passed; returns the readable ones.
    pub(in crate::supervisor) fn poll(&self, deadline: Option<Instant>) -> Result<Vec<Readable>> {
        let mut sources: Vec<(Readable, BorrowedFd<'_>)> =
            vec![(Readable::Signals, self.signals.as_fd())];
        if self.clients.accepts(Instant::now()) {
            sources.push((Readable::Control, self.setup.control.as_fd()));
        }
        sources.extend(self.clients.sockets().map(|(id, fd)| (Readable::Client(id), fd)));
        for (id, process) in self.workers.iter() {
            // The link comes first, so that the last messages of a worker are handled before its end.
            sources.extend(process.link().map(|link| (Readable::Link(id), link)));
            sources.push((Readable::Child(id), process.child.as_fd()));
        }
        sources.extend(self.orphans.processes().map(|(pid, fd)| (Readable::Orphan(pid), fd)));
        sources.extend(self.upkeep.source().map(|fd| (Readable::Files, fd)));
        sources.extend(self.setup.claim.as_ref().map(|claim| (Readable::Claim, claim.as_fd())));
        sources.extend(self.preflight.as_ref().map(|it| (Readable::Preflight, it.as_fd())));
        let probes = self.setup.probes.sources(Instant::now());
        sources.extend(probes.map(|(source, fd)| (Readable::Probe(source), fd)));
        readable(&sources, deadline).map_err(|error| Error::io("poll failed", error))
    }

    fn answer_probe(&mut self, source: probe::ProbeSource, now: Instant) {
        let machine = &self.machine;
        if let Err(error) = self.setup.probes.serve(source, now, |probe| machine.probe(probe)) {
            self.setup.say.line(&format!("cannot accept a probe: {error}"));
        }
    }

    fn read_signals(&mut self) -> Result<()> {
        while let Some(signal) =
            self.signals.next().map_err(|error| Error::io("cannot read signals", error))?
        {
            let stop = |at_once| Event::Stop { client: None, at_once };
            let restart = Event::Restart { client: None, wait: false };
            // A restart also restores removed files whose removal was not noticed.
            if matches!(signal, Signal::SIGHUP | Signal::SIGUSR2) {
                self.restore_files();
            }
            match signal {
                Signal::SIGTERM | Signal::SIGINT => self.events.push_back(stop(false)),
                Signal::SIGQUIT => self.events.push_back(stop(true)),
                Signal::SIGHUP => match self.setup.hang_up {
                    SighupAction::Request => self.events.push_back(restart),
                    SighupAction::End => self.events.push_back(stop(false)),
                    SighupAction::Ignored => {}
                },
                Signal::SIGUSR2 => self.events.push_back(restart),
                Signal::SIGUSR1 => self.reopen_log(),
                _ => {}
            }
        }
        Ok(())
    }

    fn read_client(&mut self, id: u64) {
        let client = Some(id);
        match self.clients.read(id) {
            ClientInput::Request(Request::Status {}) => {
                let status = Box::new(report::status(self));
                self.clients.reply(id, &Reply::Status { status });
            }
            ClientInput::Request(Request::Probe { probe }) => {
                let ProbeResult { ok, text } = self.machine.probe(probe);
                self.clients.reply(id, &Reply::Probed { ok, text: text.into() });
            }
            ClientInput::Request(Request::Restart { wait }) => {
                self.restore_files();
                failpoint::hit(Step::SupervisorRequest, 0);
                self.events.push_back(Event::Restart { client, wait });
            }
            ClientInput::Request(Request::RestartFrom { exe, .. }) if !exe.is_absolute() => {
                let reason = format!("{} is not an absolute path", exe.display());
                self.clients.reply(id, &Reply::Refused { reason });
            }
            ClientInput::Request(Request::RestartFrom { exe, wait }) => {
                self.restore_files();
                failpoint::hit(Step::SupervisorRequest, 0);
                self.events.push_back(Event::RestartFrom { exe, client, wait });
            }
            ClientInput::Request(Request::Stop {}) => {
                failpoint::hit(Step::SupervisorRequest, 0);
                self.events.push_back(Event::Stop { client, at_once: false });
            }
            ClientInput::Request(Request::Unknown) => {
                let reason =
                    "the running daemon is older than this command and does not know the request; \
                     restart the daemon"
                        .into();
                self.clients.reply(id, &Reply::Refused { reason });
            }
            ClientInput::Gone => self.events.push_back(Event::ClientGone { client: id }),
            ClientInput::Nothing => {}
        }
    }

    /// Reads at most `messages` messages of a worker.
    fn read_worker(&mut self, worker: WorkerId, messages: usize) {
        for _ in 0..messages {
            let Some(process) = self.workers.get_mut(worker) else { return };
            let message = match process.receive(Instant::now()) {
                Ok(Some(message)) => message,
                Ok(None) => return,
                Err(error) => {
                    // A message that cannot be read changes nothing; the worker gets an error.
                    let message = error.to_string();
                    let _ = process.send(&ToWorker::Error { message }, &[]);
                    return;
                }
            };
            let generation = process.generation;
            let event = match message {
                FromWorker::Hello { protocol, configuration, .. } => {
                    if std::mem::replace(&mut process.greeted, true) {
                        continue;
                    }
                    failpoint::hit(Step::SupervisorHello, generation);
                    self.check_hello(worker, generation, protocol, configuration)
                }
                FromWorker::Misconfigured { reason }
                | FromWorker::ExecFailed { reason }
                | FromWorker::Failing { reason } => {
                    Event::Failing { worker, reason: report::short(reason) }
                }
                FromWorker::Unclaimed { reason, slip } => {
                    let reason = report::short(reason);
                    if slip {
                        Event::HelloRejected { worker, reason }
                    } else {
                        self.setup.say.warn(&format!("generation {generation}: {reason}"));
                        process.unclaimed = Some(reason);
                        continue;
                    }
                }
                FromWorker::Settled { uid, gid, groups } => {
                    let identity = Account { uid, gid, groups };
                    match self.generations.set_identity(generation, identity) {
                        Ok(()) => continue,
                        Err(error) => Event::HelloRejected { worker, reason: error.to_string() },
                    }
                }
                FromWorker::Ready {} => {
                    failpoint::hit(Step::SupervisorReady, generation);
                    Event::Ready { worker }
                }
                FromWorker::Leaving { main_ended } => Event::SelfDraining { worker, main_ended },
                FromWorker::Unhealthy { reason } => {
                    Event::Unhealthy { worker, reason: report::short(reason) }
                }
                FromWorker::Confirm {} => Event::ConfirmEarly { worker },
                FromWorker::Check { passed } => Event::HealthCheck { worker, passed },
                FromWorker::Pong {} => Event::Pong { worker },
                FromWorker::Status { text } => {
                    process.text = Some(report::short_status(text));
                    continue;
                }
                FromWorker::Error { message } => {
                    let message = report::short(message);
                    self.setup.say.warn(&format!(
                        "the worker of generation {generation} rejected a message: {message}"
                    ));
                    continue;
                }
                FromWorker::Orphan { .. } | FromWorker::Unknown => {
                    let message = "message not known to this supervisor".to_owned();
                    let _ = process.send(&ToWorker::Error { message }, &[]);
                    continue;
                }
            };
            self.events.push_back(event);
        }
    }

    /// Checks the protocol and the settings in a *hello* and binds the declared listeners; returns the
    /// event for the machine.
    fn check_hello(
        &mut self,
        worker: WorkerId,
        generation: Generation,
        protocol: Protocols,
        configuration: Option<Box<Configuration>>,
    ) -> Event {
        let settled = if Protocols::OURS.overlaps(protocol) {
            self.validate_settings(generation, configuration)
        } else {
            let text = format!(
                "the image supports protocol versions {} to {} and this supervisor {} to {}; stop \
                 and start the daemon",
                protocol.min,
                protocol.max,
                Protocols::OURS.min,
                Protocols::OURS.max
            );
            Err(Error::new(ErrorKind::Protocol, text))
        };
        // The worker may be one that was given up, and have brought a new address all the same.
        self.close_old_probes();
        match settled {
            Ok(policy) => Event::Hello { worker, policy },
            Err(error) => Event::HelloRejected { worker, reason: error.to_string() },
        }
    }

    fn validate_settings(
        &mut self,
        generation: Generation,
        configuration: Option<Box<Configuration>>,
    ) -> Result<Policy> {
        let known = self.generations.get(generation).and_then(|h| h.configuration.as_ref());
        match (known, configuration) {
            (Some(known), _) => {
                let policy = policy::policy(&known.settings);
                // The probe address of a generation that is respawned or rolled back to. Without it the
                // generation can serve all the same.
                if let Some(addr) = known.settings.probe
                    && let Err(error) = self.setup.probes.listen(addr)
                {
                    self.setup.say.line(&error.to_string());
                }
                Ok(policy)
            }
            (None, Some(new)) => {
                let policy = policy::policy(&new.settings);
                let unclaimed = self.generations.unclaimed(&new.settings);
                check_successor(&self.setup.configuration.settings, &new.settings)
                    .and_then(|()| {
                        new.settings.probe.map_or(Ok(()), |it| self.setup.probes.listen(it))
                    })
                    .and_then(|()| self.generations.configure(generation, *new))?;
                // For the first generation, this was logged at the start.
                if !unclaimed.is_empty() && self.machine.serving_generation().is_some() {
                    self.setup.say.line(&format!(
                        "generation {generation} does not declare {}, which the service manager \
                         passed; once it serves, connections there are never accepted: disable the \
                         .socket unit",
                        unclaimed.join(" nor ")
                    ));
                }
                Ok(policy)
            }
            (None, None) => Err(Error::new(ErrorKind::Protocol, "the worker sent no settings")),
        }
    }

    /// Reaps a worker that has ended.
    fn reap(&mut self, worker: WorkerId) {
        // Its last messages come before its end.
        self.read_worker(worker, LAST_MESSAGES);
        let Some(process) = self.workers.get(worker) else { return };
        let generation = process.generation;
        let waited = failpoint::try_hit(Step::SupervisorBeforeReap, generation)
            .and_then(|()| process.child.try_wait());
        match waited {
            Ok(Some(exit)) => {
                let ledger = process.final_ledger();
                self.has_run |= process.has_run();
                self.workers.remove(worker);
                failpoint::hit(Step::SupervisorAfterReap, generation);
                self.events.push_back(Event::Exited { worker, exit, ledger });
            }
            Ok(None) => {}
            Err(error) => {
                let pid = process.child.pid();
                self.setup.say.warn(&format!("cannot wait for process {pid}: {error}"));
            }
        }
    }

    /// Queues what each starting worker has not done yet, ahead of the tick that may end its start.
    fn note_readiness_blockers(&mut self, now: Instant) {
        let starting = self
            .workers
            .iter()
            .filter(|(id, _)| self.machine.worker_state(*id) == Some(WorkerState::Starting));
        for (worker, process) in starting {
            let settings = self
                .generations
                .get(process.generation)
                .and_then(|holdings| holdings.configuration.as_ref())
                .map(|configuration| &configuration.settings);
            let names: Vec<&str> =
                settings.map_or(Vec::new(), |s| s.listen.keys().map(String::as_str).collect());
            let manual = settings.is_some_and(|settings| settings.ready == Ready::Manual);
            let overdue = self.machine.is_overdue(worker, clock::to_core(now));
            if let (true, Some(unclaimed), Some(settings)) = (overdue, &process.unclaimed, settings)
            {
                let limit = unbroken_schema::duration::format(settings.ready_timeout);
                let reason = format!("it was not ready within {limit}: {unclaimed}");
                self.events.push_back(Event::HelloRejected { worker, reason });
                continue;
            }
            let what = process.missing(&names, manual);
            self.events.push_back(Event::ReadinessBlockedBy { worker, what });
        }
    }
}
