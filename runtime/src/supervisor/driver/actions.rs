//! Carries out the machine's actions: messages to workers, signals, new processes, replies and log lines.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use super::Driver;
use crate::config::{Address, LogLevel, Settings};
use crate::control::{Reply, RestartOutcome};
use crate::error::{Error, Result};
use crate::failpoint::{self, Step};
use crate::image::Image;
use crate::launch::role::LaunchOrigin;
use crate::link::{ListenerHandle, ToWorker};
use crate::logs::{self, EventContext};
use crate::supervisor::report;
use crate::supervisor::workers::WorkerSpec;
use crate::sys::{clock, threads};
use unbroken_core::event::{
    Action, ClientAnswer, Event, Generation, ImageSource, Level, WorkerCommand, WorkerId,
};
use unbroken_core::machine::MAX_RESTARTS;

impl Driver {
    /// Carries out one action.
    pub(super) fn perform(&mut self, action: Action) {
        match action {
            Action::Spawn { worker, generation, source } => {
                if let Err(error) = self.spawn(worker, generation, source) {
                    let reason = error.to_string();
                    self.io.events.push_back(Event::SpawnFailed { worker, reason });
                }
            }
            Action::Welcome { worker } => self.welcome(worker),
            Action::SendToWorker { worker, command: order } => {
                let message = match order {
                    WorkerCommand::Go => ToWorker::Go {},
                    WorkerCommand::Quiesce => {
                        ToWorker::Quiesce { keep: names(&self.removed(worker)) }
                    }
                    WorkerCommand::Resume => ToWorker::Resume {},
                    WorkerCommand::Ping => ToWorker::Ping {},
                    WorkerCommand::Drain { deadline, last, listeners_end } => {
                        let deadline = deadline.as_nanos();
                        let generation = self.workers.get(worker).map(|process| process.generation);
                        let ends = match generation {
                            Some(generation) if listeners_end => {
                                self.generations.stopping_listeners(generation)
                            }
                            _ => self.drop_removed(worker),
                        };
                        let finish = names(&ends);
                        let finish_at = ends.into_iter().map(|(_, addr)| addr).collect();
                        ToWorker::Drain { deadline, last, finish, finish_at }
                    }
                };
                self.send(worker, &message, &[]);
            }
            Action::OpenHandoffChannel { from, to } => {
                let generation = self.workers.get(to).map_or(0, |process| process.generation);
                let connected = failpoint::try_hit(Step::SupervisorBeforeConnect, generation)
                    .and_then(|()| self.workers.connect(from, to));
                if let Err(error) = connected {
                    let text = format!("cannot hand off connections: {error}");
                    self.log(Level::Warn, &text);
                }
            }
            Action::DumpThreads { worker } => self.dump_threads(worker),
            Action::Terminate { worker } => self.signal(worker, rustix::process::Signal::TERM),
            Action::Kill { worker } => self.signal(worker, rustix::process::Signal::KILL),
            Action::Answer { client, answer } => {
                let reply = match answer {
                    ClientAnswer::Aborted(report) => {
                        // Now, and not when the new worker has ended: the answer says that everything is as
                        // before.
                        self.generations.restore_listeners(report.to);
                        let mut outcome = RestartOutcome::of(&report, self.output());
                        self.advise(&mut outcome);
                        Reply::Restarted { outcome }
                    }
                    answer => Reply::of(answer),
                };
                failpoint::hit(Step::SupervisorBeforeAnswer, 0);
                self.io.clients.reply(client, &reply);
            }
            Action::Progress { text } => self.io.clients.progress(&text),
            Action::Log { level, text, generation } => {
                self.log_about(
                    level,
                    &text,
                    EventContext { generation, ..EventContext::default() },
                );
            }
            Action::FirstReady { generation } => self.first_ready(generation),
            Action::Upgrade { generation } => self.begin_upgrade(generation),
            Action::DrainOrphans { deadline, last, listeners_end } => {
                self.drain_orphans(clock::from_core(deadline), last, listeners_end);
            }
            Action::KillOrphans => self.orphans.kill(&self.io.say),
            Action::Confirming { generation } => {
                failpoint::hit(Step::SupervisorBeforeConfirm, generation);
            }
            Action::StateChanged => self.show_state(),
            Action::Confirmed { generation, previous } => {
                if previous.is_some() {
                    self.redirect_orphans(generation);
                }
                failpoint::hit(Step::SupervisorAfterConfirm, generation);
            }
            Action::CloseListeners => {
                (self.preflight, self.upgrade_ready) = (None, None);
                failpoint::hit(Step::SupervisorBeforeClose, 0);
                self.generations.close_listeners();
            }
            Action::Drained { report } => {
                if let Some(text) = report::trace(&report) {
                    let fields = report::fields(&report);
                    let about = EventContext {
                        generation: report.from,
                        fields: &fields,
                        ..EventContext::default()
                    };
                    self.io.say.event(LogLevel::Info, &text, about);
                }
            }
            Action::ReleaseGeneration { generation, keep } => {
                self.generations.retire(generation, keep)
            }
            Action::Exit { code, reason } => self.exit = Some((code, reason)),
        }
    }

    /// Returns the listeners of a worker's generation that the serving generation does not have.
    fn removed(&self, worker: WorkerId) -> Vec<(String, Address)> {
        let old = self.workers.get(worker).map(|process| process.generation);
        let removed = old.zip(self.machine.serving_generation());
        removed.map_or(Vec::new(), |(old, new)| self.generations.removed(old, new))
    }

    /// Closes the supervisor's copies of the [`removed`](Driver::removed) listeners of a worker that drains
    /// and will not resume, so that this worker has the last ones. Returns these listeners.
    fn drop_removed(&mut self, worker: WorkerId) -> Vec<(String, Address)> {
        let stay = [self.machine.serving_generation(), self.machine.confirmed_generation()];
        let stay: Vec<Generation> = stay.into_iter().flatten().collect();
        let removed = self.removed(worker);
        let old = self.workers.get(worker).map(|process| process.generation);
        match (old, stay.first()) {
            (Some(old), Some(&new)) if !stay.contains(&old) => {
                self.generations.drop_removed(old, new, &stay);
                removed
            }
            // The generation may have to be respawned.
            _ => Vec::new(),
        }
    }

    /// Starts the process of a worker. A new generation gets its image opened or taken over first.
    fn spawn(
        &mut self,
        worker: WorkerId,
        generation: Generation,
        source: ImageSource,
    ) -> Result<()> {
        let image = match (source, self.generations.get(generation)) {
            (ImageSource::Pinned, Some(holdings)) => Arc::clone(&holdings.image),
            (ImageSource::KnownGood(good), _) => {
                self.note_time(generation);
                self.generations.begin_from(generation, good)?
            }
            _ => {
                self.log_length = self.io.log.as_ref().map_or(0, |log| logs::length(log.path()));
                self.note_time(generation);
                let path = self.next_image();
                failpoint::try_hit(Step::SupervisorBeforeOpen, generation).map_err(|error| {
                    Error::io(format!("cannot open the image {}", path.display()), error)
                })?;
                let image = Image::open(&path, &self.generations.identities())?;
                failpoint::hit(Step::SupervisorAfterOpen, generation);
                self.generations.begin(generation, image)
            }
        };
        let settings = self.settings_of(generation, source).cloned();
        let origin = self.origin_now();
        let plan = WorkerSpec {
            generation,
            image: &image,
            args: &self.io.args,
            vars: &self.io.vars,
            origin: &origin,
            settings: settings.as_ref(),
            respawn: source != ImageSource::Disk,
        };
        let pid = self.workers.spawn(worker, &plan, Instant::now())?;
        tracing::info!(pid, generation, "worker spawned");
        Ok(())
    }

    /// Returns the settings of a worker as far as they are known before its *hello*: those of its generation,
    /// or, for the first start, those of the supervisor.
    fn settings_of(&self, generation: Generation, source: ImageSource) -> Option<&Settings> {
        let holdings = self.generations.get(generation);
        let known = holdings.and_then(|holdings| holdings.configuration.as_ref());
        let first = source == ImageSource::Disk && self.machine.serving_generation().is_none();
        known
            .or_else(|| first.then_some(&self.io.configuration))
            .map(|configuration| &configuration.settings)
    }

    /// Returns the origin from which a worker computes its settings: that of the start, with the path that a
    /// restart named.
    fn origin_now(&self) -> LaunchOrigin {
        let origin = self.io.origin.clone();
        LaunchOrigin { exe: self.machine.exe().map_or(origin.exe, Path::to_owned), ..origin }
    }

    /// Returns the path of the next generation's image: as a restart named it, else as the settings do, else
    /// that of the start.
    pub(in crate::supervisor) fn next_image(&self) -> PathBuf {
        if let Some(exe) = self.machine.exe() {
            return exe.to_owned();
        }
        let serving = self.machine.serving_generation();
        let exe = serving
            .and_then(|serving| self.generations.get(serving))
            .and_then(|holdings| holdings.configuration.as_ref())
            .unwrap_or(&self.io.configuration)
            .settings
            .exe
            .clone();
        exe.unwrap_or_else(|| self.io.origin.exe.clone())
    }

    /// Notes when a generation was begun.
    fn note_time(&mut self, generation: Generation) {
        self.asked.push_front((generation, SystemTime::now()));
        self.asked.truncate(MAX_RESTARTS + 1);
    }

    /// Sends a worker its *welcome*, with the descriptors of counters and listeners.
    fn welcome(&mut self, worker: WorkerId) {
        let reattach_socket = self.reattach_socket(worker);
        let Some(process) = self.workers.get(worker) else { return };
        let Some(holdings) = self.generations.get(process.generation) else { return };
        let Some(configuration) = holdings.configuration.clone() else { return };
        let message = ToWorker::Welcome {
            generation: process.generation,
            configuration: Box::new(configuration),
            listeners: holdings
                .listeners
                .iter()
                .map(|(name, bound)| ListenerHandle {
                    name: name.clone(),
                    addr: bound.addr().clone(),
                    source: bound.source(),
                })
                .collect(),
            reattaches: reattach_socket.is_some(),
        };
        let mut fds = vec![process.counters_fd()];
        fds.extend(holdings.listeners.iter().map(|(_, bound)| bound.as_fd()));
        fds.extend(reattach_socket.as_ref().map(AsFd::as_fd));
        let mut sent = failpoint::try_hit(Step::SupervisorBeforeWelcome, process.generation)
            .and_then(|()| process.send(&message, &fds));
        failpoint::hit(Step::SupervisorAfterWelcome, process.generation);
        if let (Ok(()), Some(process)) = (&sent, self.workers.get_mut(worker)) {
            process.welcomed = true;
        }
        let Some(process) = self.workers.get(worker) else { return };
        if let (Ok(()), true, Some(log)) = (&sent, process.old_output, &self.io.log) {
            sent = process.send(&ToWorker::Reopen {}, &[log.as_fd()]);
        }
        if let Err(error) = sent {
            let reason = format!("cannot send it its settings: {error}");
            self.io.events.push_back(Event::HelloRejected { worker, reason });
        }
    }

    /// Sends a message to a worker. A worker that cannot take it has lost its link.
    pub(super) fn send(&mut self, worker: WorkerId, message: &ToWorker, fds: &[BorrowedFd<'_>]) {
        let Some(process) = self.workers.get(worker) else { return };
        let generation = process.generation;
        let step = match message {
            ToWorker::Go {} => Some(Step::SupervisorBetween),
            ToWorker::Drain { .. } => Some(Step::SupervisorBeforeDrain),
            _ => None,
        };
        let sent = step
            .map_or(Ok(()), |step| failpoint::try_hit(step, generation))
            .and_then(|()| process.send(message, fds));
        if let Err(error) = sent {
            let reason = format!("cannot send it a command: {error}");
            self.io.events.push_back(Event::LinkLost { worker, reason });
        } else if let ToWorker::Go {} = message {
            failpoint::hit(Step::SupervisorAfterGo, generation);
        }
    }

    fn signal(&self, worker: WorkerId, signal: rustix::process::Signal) {
        let Some(process) = self.workers.get(worker) else { return };
        if let Err(error) = process.child.signal(signal) {
            let pid = process.child.pid();
            self.io.say.warn(&format!("cannot signal process {pid}: {error}"));
        }
    }

    /// Logs the state of each thread of a worker.
    fn dump_threads(&self, worker: WorkerId) {
        let Some(process) = self.workers.get(worker) else { return };
        let (generation, worker) = (Some(process.generation), Some(process.child.pid()));
        for line in threads::of(process.child.pid()) {
            let about = EventContext { generation, worker, ..EventContext::default() };
            self.log_about(Level::Warn, &line, about);
        }
    }

    /// Returns what the worker of the last new generation wrote to the log, without the supervisor's own
    /// lines.
    fn output(&self) -> Vec<String> {
        let Some(log) = &self.io.log else { return Vec::new() };
        let mut lines = logs::tail(log.path(), self.log_length).unwrap_or_default();
        lines.retain(|line| !self.io.say.has_written(line));
        lines
    }

    /// Adds advice to the reason of a failed restart, if the worker's output shows what was wrong.
    fn advise(&self, outcome: &mut RestartOutcome) {
        let advice = report::advice(&outcome.output, &self.io.configuration.settings);
        if let (Some(reason), Some(advice)) = (&mut outcome.reason, advice) {
            self.log(Level::Warn, advice);
            reason.push_str(&format!("; {advice}"));
        }
    }

    /// Reports the daemon as started.
    fn first_ready(&mut self, generation: Generation) {
        let addrs: Vec<String> = self
            .generations
            .get(generation)
            .into_iter()
            .flat_map(|holdings| &holdings.listeners)
            .map(|(name, bound)| format!("{name} {}", bound.addr()))
            .collect();
        let on = if addrs.is_empty() { String::new() } else { format!(" on {}", addrs.join(", ")) };
        let text = format!("generation {generation} serves{on}");
        self.log_about(
            Level::Info,
            &text,
            EventContext { generation: Some(generation), ..EventContext::default() },
        );
        self.release_inherited();
        self.io.reporter.ready(&addrs);
    }

    pub(super) fn log(&self, level: Level, text: &str) {
        self.log_about(level, text, EventContext::default());
    }

    fn log_about(&self, level: Level, text: &str, about: EventContext<'_>) {
        match level {
            Level::Info => tracing::info!("{text}"),
            Level::Warn => tracing::warn!("{text}"),
            Level::Error => tracing::error!("{text}"),
        }
        self.io.log(level, text, about);
    }

    /// Opens the log file again, after a rotation, and hands the new one to all workers as their stdout and
    /// stderr.
    pub(super) fn reopen_log(&mut self) {
        let Some(log) = self.io.reopen_log() else { return };
        let log = log.as_fd();
        self.orphans.reopen(log);
        for process in self.workers.iter_mut() {
            if process.greeted {
                // If this fails, the worker has ended or is about to, which poll reports.
                let _ = process.send(&ToWorker::Reopen {}, &[log]);
            } else {
                // A worker accepts no other message before its *welcome*.
                process.old_output = true;
            }
        }
    }
}

/// Returns the names of listeners without consecutive duplicates.
fn names(listeners: &[(String, Address)]) -> Vec<String> {
    let mut names: Vec<String> = listeners.iter().map(|(name, _)| name.clone()).collect();
    names.dedup();
    names
}
