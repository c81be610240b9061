//! Waits until a descriptor is readable or a deadline has passed, and turns messages of workers, requests of
//! clients, signals and ends of processes into events for the machine.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use nix::sys::signal::Signal;

use super::Driver;
use crate::config::Configuration;
use crate::control::Reply;
use crate::daemon_io::{IoSource, readiness_blocker};
use crate::error::{Error, ErrorKind, Result};
use crate::failpoint::{self, Step};
use crate::link::{FromWorker, Protocols, ToWorker};
use crate::supervisor::generations::check_successor;
use crate::supervisor::upgrade::preflight::Preflight;
use crate::supervisor::{policy, report};
use crate::sys::clock;
use crate::sys::privileges::Account;
use crate::sys::process;
use crate::sys::readiness::readable;
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
    Io(IoSource),
    Link(WorkerId),
    Child(WorkerId),
    Preflight,
    Orphan(i32),
}

impl Driver {
    /// Sleeps until something happens, and handles it.
    pub(super) fn wait(&mut self) -> Result<()> {
        let rehearsal = self.preflight.as_ref().map(Preflight::deadline);
        let next = [
            self.machine.deadline().map(clock::from_core),
            self.workers.deadline(),
            self.io.deadline(),
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
                Readable::Io(source) => self.read_io(source, now),
                Readable::Link(id) => self.read_worker(id, MESSAGES_AT_ONCE),
                Readable::Child(id) => self.reap(id),
                Readable::Preflight => {}
                Readable::Orphan(pid) => self.orphan_gone(pid),
            }
        }
        self.poll_preflight();
        let rehearses = |pid| self.preflight.as_ref().is_some_and(|preflight| preflight.is(pid));
        process::reap_unknown_children(|pid| self.workers.owns(pid) || rehearses(pid))
            .map_err(|error| Error::io("cannot reap children", error))?;
        for worker in self.workers.expired_links(now) {
            let reason = "it closed its link to the supervisor".to_owned();
            self.io.events.push_back(Event::LinkLost { worker, reason });
        }
        if self.io.files_are_due(now) {
            self.restore_files();
        }
        if self.io.expire(now, self.machine.is_healthy()) {
            self.store_listeners();
            self.io.notifier.flush();
        }
        if self.machine.deadline().is_some_and(|at| at <= clock::to_core(now)) {
            self.note_readiness_blockers(now);
            self.io.events.push_back(Event::Tick);
        }
        Ok(())
    }

    /// Sleeps until a descriptor is readable or the deadline has passed; returns the readable ones.
    pub(in crate::supervisor) fn poll(&self, deadline: Option<Instant>) -> Result<Vec<Readable>> {
        let mut sources: Vec<(Readable, BorrowedFd<'_>)> =
            vec![(Readable::Signals, self.signals.as_fd())];
        let io = self.io.sources();
        sources.extend(io.into_iter().map(|(source, fd)| (Readable::Io(source), fd)));
        for (id, process) in self.workers.iter() {
            // The link comes first, so that the last messages of a worker are handled before its end.
            sources.extend(process.link().map(|link| (Readable::Link(id), link)));
            sources.push((Readable::Child(id), process.child.as_fd()));
        }
        sources.extend(self.orphans.processes().map(|(pid, fd)| (Readable::Orphan(pid), fd)));
        sources.extend(self.preflight.as_ref().map(|it| (Readable::Preflight, it.as_fd())));
        readable(&sources, deadline).map_err(|error| Error::io("poll failed", error))
    }

    fn read_io(&mut self, source: IoSource, now: Instant) {
        let machine = &self.machine;
        if let Some(client) = self.io.read(source, now, |probe| machine.probe(probe)) {
            let status = Box::new(report::status(self));
            self.io.clients.reply(client, &Reply::Status { status });
        }
    }

    fn read_signals(&mut self) -> Result<()> {
        while let Some(signal) =
            self.signals.next().map_err(|error| Error::io("cannot read signals", error))?
        {
            match signal {
                Signal::SIGUSR1 => self.reopen_log(),
                signal => self.io.note_signal(signal),
            }
        }
        Ok(())
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
                        self.io.say.warn(&format!("generation {generation}: {reason}"));
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
                    self.io.say.warn(&format!(
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
            self.io.events.push_back(event);
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
                    && let Err(error) = self.io.probes.listen(addr)
                {
                    self.io.say.line(&error.to_string());
                }
                Ok(policy)
            }
            (None, Some(new)) => {
                let policy = policy::policy(&new.settings);
                let unclaimed = self.generations.unclaimed(&new.settings);
                check_successor(&self.io.configuration.settings, &new.settings)
                    .and_then(|()| {
                        new.settings.probe.map_or(Ok(()), |it| self.io.probes.listen(it))
                    })
                    .and_then(|()| self.generations.configure(generation, *new))?;
                // For the first generation, this was logged at the start.
                if !unclaimed.is_empty() && self.machine.serving_generation().is_some() {
                    self.io.say.line(&format!(
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
                self.io.events.push_back(Event::Exited { worker, exit, ledger });
            }
            Ok(None) => {}
            Err(error) => {
                let pid = process.child.pid();
                self.io.say.warn(&format!("cannot wait for process {pid}: {error}"));
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
            let overdue = self.machine.is_overdue(worker, clock::to_core(now));
            let missing = |names: &[&str], manual| process.missing(names, manual);
            let unclaimed = process.unclaimed.as_ref().filter(|_| overdue);
            self.io.events.push_back(readiness_blocker(worker, settings, unclaimed, missing));
        }
    }
}
