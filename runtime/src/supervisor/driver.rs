//! The supervisor's hands: turns readiness of descriptors into events and actions into system calls.
//!
//! One thread that sleeps in poll(2). It never waits for a worker, a client or a name server.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use nix::sys::signal::Signal;

use super::event::{
    Action, Answer, ClientId, Event, Generation, Level, Order, Policy, Source, WorkerId,
};
use super::fleet::{Fleet, Plan};
use super::generations::{Generations, check_successor};
use super::machine::{MAX_RESTARTS, Machine};
use super::orphans::Orphans;
use super::report;
use super::tenure::Tenure;
use super::upgrade::preflight::Preflight;
use crate::config::{Configuration, Ready};
use crate::control::{Clients, ControlSocket, Heard, Reply, Request};
use crate::error::{Error, Result};
use crate::failpoint::{self, Step};
use crate::image::Image;
use crate::link::{FromWorker, ListenerHandle, Protocols, ToWorker};
use crate::logs::{self, LogFile, Say};
use crate::marker::Origin;
use crate::pidfile::PidFile;
use crate::reporter::Reporter;
use crate::sys::readiness::readable;
use crate::sys::signals::{HangUp, Signals};
use crate::sys::{clock, process, threads};

/// The most messages of one worker that are heard before others get their turn.
const MESSAGES_AT_ONCE: usize = 64;

/// More messages than the link of a worker that has ended can hold.
const LAST_MESSAGES: usize = 4096;

/// What a supervisor is made of.
pub(crate) struct Setup {
    pub(crate) configuration: Configuration,
    pub(crate) origin: Origin,
    /// The program's own arguments and environment.
    pub(crate) args: Vec<OsString>,
    pub(crate) vars: Vec<(OsString, OsString)>,
    pub(crate) pidfile: PidFile,
    pub(crate) control: ControlSocket,
    pub(crate) log: Option<LogFile>,
    pub(crate) reporter: Reporter,
    pub(crate) say: Say,
    pub(crate) hang_up: HangUp,
}

pub(crate) struct Driver {
    pub(super) setup: Setup,
    pub(super) machine: Machine,
    pub(super) fleet: Fleet,
    pub(super) generations: Generations,
    pub(super) orphans: Orphans,
    /// Nothing begins before they are gone.
    pub(super) waits_for_orphans: bool,
    /// What clients are told at the very end.
    pub(super) farewells: Vec<(ClientId, Reply)>,
    pub(super) began: (Instant, SystemTime),
    /// When the generations of the last restarts were asked for.
    pub(super) asked: VecDeque<(Generation, SystemTime)>,
    pub(super) tenure: Tenure,
    /// How long the log was when the last one was.
    pub(super) log_length: u64,
    pub(super) clients: Clients,
    pub(super) signals: Signals,
    pub(super) events: VecDeque<Event>,
    pub(super) exit: Option<(u8, Option<String>)>,
    /// What this process runs.
    pub(super) image: Arc<Image>,
    /// Whether another image could take over is being tried.
    pub(super) preflight: Option<Preflight>,
    /// The image of this generation is to take over at the next quiet moment.
    pub(super) cleared: Option<Generation>,
}

/// A descriptor that became readable.
#[derive(Debug, Clone, Copy)]
pub(super) enum Readable {
    Signals,
    Control,
    Client(u64),
    Link(WorkerId),
    Child(WorkerId),
    Preflight,
    Orphan(i32),
}

impl Driver {
    pub(crate) fn new(setup: Setup) -> Result<Driver> {
        let signals =
            Signals::watch().map_err(|error| Error::io("cannot watch for signals", error))?;
        let image = Arc::new(Image::own(&setup.origin.exe)?);
        let settings = &setup.configuration.settings;
        let (orphans, inherited) =
            Orphans::find(&settings.runtime_dir, &settings.pidfile, &setup.say);
        let machine = Machine::new(Policy::of(settings)).after(orphans.last_generation());
        let mut driver = Driver {
            machine,
            setup,
            fleet: Fleet::default(),
            generations: Generations::after(inherited),
            orphans,
            waits_for_orphans: false,
            farewells: Vec::new(),
            began: (Instant::now(), SystemTime::now()),
            asked: VecDeque::new(),
            tenure: Tenure::default(),
            log_length: 0,
            clients: Clients::default(),
            signals,
            events: VecDeque::new(),
            exit: None,
            image,
            preflight: None,
            cleared: None,
        };
        driver.begin();
        Ok(driver)
    }

    pub(crate) fn origin(&self) -> &Origin {
        &self.setup.origin
    }

    /// Runs the daemon to its end; returns the code to exit with.
    pub(crate) fn run(mut self) -> u8 {
        loop {
            while let Some(event) = self.events.pop_front() {
                self.stop_orphans(&event);
                let confirmed = self.machine.confirmed_generation();
                let actions = self.machine.on(event, Instant::now());
                let confirms = self.machine.confirmed_generation() != confirmed;
                let generation = self.machine.confirmed_generation().unwrap_or_default();
                if confirms {
                    failpoint::reach(Step::SupervisorBeforeConfirm, generation);
                }
                for action in actions {
                    self.act(action);
                }
                let machine = &self.machine;
                self.tenure.note(machine.serving_generation(), machine.confirmed_generation());
                if confirms && confirmed.is_some() {
                    self.redirect_orphans(generation);
                }
                if confirms {
                    failpoint::reach(Step::SupervisorAfterConfirm, generation);
                }
            }
            if !self.orphans.are_draining()
                && let Some((code, reason)) = self.exit.take()
            {
                return self.leave(code, reason);
            }
            self.become_cleared();
            if !self.events.is_empty() {
                continue;
            }
            if let Err(error) = self.wait() {
                self.setup.say.line(&format!("cannot wait for events: {error}"));
                self.events.push_back(Event::Stop { client: None, at_once: true });
            }
        }
    }

    fn leave(mut self, code: u8, reason: Option<String>) -> u8 {
        if self.orphans.is_empty() {
            self.generations.release_inherited();
        }
        self.generations.retire_all();
        self.setup.control.remove();
        failpoint::reach(Step::SupervisorBeforeUnlock, 0);
        self.setup.pidfile.remove();
        let reason = reason.unwrap_or_else(|| "stopped before it was ready".into());
        if code != 0 {
            self.setup.say.line(&reason);
        }
        self.setup.reporter.failed(code, &reason);
        for (client, reply) in std::mem::take(&mut self.farewells) {
            self.clients.reply(client, &reply);
        }
        code
    }

    // ---- from descriptors to events -------------------------------------------------------------

    fn wait(&mut self) -> Result<()> {
        let rehearsal = self.preflight.as_ref().map(Preflight::deadline);
        let next = [
            self.machine.deadline(),
            self.fleet.deadline(),
            self.clients.deadline(),
            self.orphans.deadline(),
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
                        self.setup.say.line(&format!("cannot accept a control client: {error}"));
                    }
                }
                Readable::Client(id) => self.hear_client(id),
                Readable::Link(id) => self.hear_worker(id, MESSAGES_AT_ONCE),
                Readable::Child(id) => self.reap(id),
                Readable::Preflight => {}
                Readable::Orphan(pid) => self.orphan_gone(pid),
            }
        }
        self.hear_preflight();
        let rehearses = |pid| self.preflight.as_ref().is_some_and(|preflight| preflight.is(pid));
        process::reap_strangers(|pid| self.fleet.owns(pid) || rehearses(pid))
            .map_err(|error| Error::io("cannot reap children", error))?;
        for worker in self.fleet.mute(now) {
            let reason = "it closed its link to the supervisor".to_owned();
            self.events.push_back(Event::LinkLost { worker, reason });
        }
        self.orphans.enforce(now, &self.setup.say);
        self.clients.expire(now);
        if self.machine.deadline().is_some_and(|at| at <= now) {
            self.note_what_is_missing();
            self.events.push_back(Event::Tick);
        }
        Ok(())
    }

    /// Sleeps until something is readable or the time is over.
    pub(super) fn poll(&self, deadline: Option<Instant>) -> Result<Vec<Readable>> {
        let mut sources: Vec<(Readable, BorrowedFd<'_>)> =
            vec![(Readable::Signals, self.signals.as_fd())];
        if self.clients.accepts(Instant::now()) {
            sources.push((Readable::Control, self.setup.control.as_fd()));
        }
        sources.extend(self.clients.sockets().map(|(id, fd)| (Readable::Client(id), fd)));
        for (id, process) in self.fleet.iter() {
            // The link first: what a worker said counts before its end.
            sources.extend(process.link().map(|link| (Readable::Link(id), link)));
            sources.push((Readable::Child(id), process.child.as_fd()));
        }
        sources.extend(self.orphans.processes().map(|(pid, fd)| (Readable::Orphan(pid), fd)));
        sources.extend(self.preflight.as_ref().map(|it| (Readable::Preflight, it.as_fd())));
        readable(&sources, deadline).map_err(|error| Error::io("poll failed", error))
    }

    fn read_signals(&mut self) -> Result<()> {
        while let Some(signal) =
            self.signals.next().map_err(|error| Error::io("cannot read signals", error))?
        {
            let stop = |at_once| Event::Stop { client: None, at_once };
            let restart = Event::Restart { client: None, wait: false };
            match signal {
                Signal::SIGTERM | Signal::SIGINT => self.events.push_back(stop(false)),
                Signal::SIGQUIT => self.events.push_back(stop(true)),
                Signal::SIGHUP => match self.setup.hang_up {
                    HangUp::Request => self.events.push_back(restart),
                    HangUp::End => self.events.push_back(stop(false)),
                    HangUp::Ignored => {}
                },
                Signal::SIGUSR2 => self.events.push_back(restart),
                Signal::SIGUSR1 => self.reopen_log(),
                _ => {}
            }
        }
        Ok(())
    }

    fn hear_client(&mut self, id: u64) {
        let client = Some(id);
        match self.clients.hear(id) {
            Heard::Request(Request::Status {}) => {
                let status = Box::new(report::status(self));
                self.clients.reply(id, &Reply::Status { status });
            }
            Heard::Request(Request::Restart { wait }) => {
                failpoint::reach(Step::SupervisorRequest, 0);
                self.events.push_back(Event::Restart { client, wait });
            }
            Heard::Request(Request::Stop {}) => {
                failpoint::reach(Step::SupervisorRequest, 0);
                self.events.push_back(Event::Stop { client, at_once: false });
            }
            Heard::Request(Request::Unknown) => {
                let reason = "this daemon is older than the command and does not know it".into();
                self.clients.reply(id, &Reply::Refused { reason });
            }
            Heard::Gone => self.events.push_back(Event::ClientGone { client: id }),
            Heard::Nothing => {}
        }
    }

    /// Hears what a worker says, but not one that never stops talking and nobody else.
    fn hear_worker(&mut self, worker: WorkerId, messages: usize) {
        for _ in 0..messages {
            let Some(process) = self.fleet.get_mut(worker) else { return };
            let message = match process.hear(Instant::now()) {
                Ok(Some(message)) => message,
                Ok(None) => return,
                Err(message) => {
                    // One that cannot be read changes nothing; the worker is told.
                    let _ = process.tell(&ToWorker::Error { message }, &[]);
                    return;
                }
            };
            let generation = process.generation;
            let event = match message {
                FromWorker::Hello { protocol, configuration, .. } => {
                    if std::mem::replace(&mut process.greeted, true) {
                        continue;
                    }
                    failpoint::reach(Step::SupervisorHello, generation);
                    self.greet(worker, generation, protocol, configuration)
                }
                FromWorker::Misconfigured { reason }
                | FromWorker::ExecFailed { reason }
                | FromWorker::Failing { reason } => {
                    Event::Failing { worker, reason: report::short(reason) }
                }
                FromWorker::Ready {} => {
                    failpoint::reach(Step::SupervisorReady, generation);
                    Event::Ready { worker }
                }
                FromWorker::Leaving {} => Event::Leaving { worker },
                FromWorker::Unhealthy { reason } => {
                    Event::Unhealthy { worker, reason: report::short(reason) }
                }
                FromWorker::Confirm {} => Event::Confirm { worker },
                FromWorker::Check { passed } => Event::Check { worker, passed },
                FromWorker::Pong {} => Event::Pong { worker },
                FromWorker::Status { text } => {
                    process.text = Some(report::short_status(text));
                    continue;
                }
                FromWorker::Error { message } => {
                    let message = report::short(message);
                    self.setup.say.line(&format!(
                        "the worker of generation {generation} did not understand: {message}"
                    ));
                    continue;
                }
                FromWorker::Orphan { .. } | FromWorker::Unknown => {
                    let message = "not understood by this supervisor".to_owned();
                    let _ = process.tell(&ToWorker::Error { message }, &[]);
                    continue;
                }
            };
            self.events.push_back(event);
        }
    }

    /// Examines a *hello* and binds what it declares.
    fn greet(
        &mut self,
        worker: WorkerId,
        generation: Generation,
        protocol: Protocols,
        configuration: Option<Box<Configuration>>,
    ) -> Event {
        let settled = if Protocols::OURS.meets(protocol) {
            self.settle(generation, configuration)
        } else {
            Err(format!(
                "the image speaks protocol {} to {} and this supervisor {} to {}: stop and start",
                protocol.min,
                protocol.max,
                Protocols::OURS.min,
                Protocols::OURS.max
            ))
        };
        match settled {
            Ok(policy) => Event::Hello { worker, policy },
            Err(reason) => Event::Unacceptable { worker, reason },
        }
    }

    fn settle(
        &mut self,
        generation: Generation,
        configuration: Option<Box<Configuration>>,
    ) -> Result<Policy, String> {
        let known = self.generations.get(generation).and_then(|h| h.configuration.as_ref());
        match (known, configuration) {
            (Some(known), _) => Ok(Policy::of(&known.settings)),
            (None, Some(new)) => {
                let policy = Policy::of(&new.settings);
                check_successor(&self.setup.configuration.settings, &new.settings)
                    .and_then(|()| self.generations.settle(generation, *new))
                    .map_err(|error| error.to_string())?;
                Ok(policy)
            }
            (None, None) => Err("the worker sent no settings".into()),
        }
    }

    fn reap(&mut self, worker: WorkerId) {
        // What it said last comes first.
        self.hear_worker(worker, LAST_MESSAGES);
        let Some(process) = self.fleet.get(worker) else { return };
        let generation = process.generation;
        let waited = failpoint::attempt(Step::SupervisorBeforeReap, generation)
            .and_then(|()| process.child.try_wait());
        match waited {
            Ok(Some(exit)) => {
                let ledger = process.final_ledger();
                self.fleet.remove(worker);
                failpoint::reach(Step::SupervisorAfterReap, generation);
                self.events.push_back(Event::Exited { worker, exit, ledger });
            }
            Ok(None) => {}
            Err(error) => {
                let pid = process.child.pid();
                self.setup.say.line(&format!("cannot wait for process {pid}: {error}"));
            }
        }
    }

    fn note_what_is_missing(&mut self) {
        let starting = self.fleet.iter().filter(|(id, _)| {
            self.machine.worker_state(*id).is_some_and(|state| state.word() == "starting")
        });
        for (worker, process) in starting {
            let settings = self
                .generations
                .get(process.generation)
                .and_then(|holdings| holdings.configuration.as_ref())
                .map(|configuration| &configuration.settings);
            let names: Vec<&str> =
                settings.map_or(Vec::new(), |s| s.listen.keys().map(String::as_str).collect());
            let manual = settings.is_some_and(|settings| settings.ready == Ready::Manual);
            let what = process.missing(&names, manual);
            self.events.push_back(Event::Missing { worker, what });
        }
    }

    // ---- from actions to system calls -----------------------------------------------------------

    fn act(&mut self, action: Action) {
        match action {
            Action::Spawn { worker, generation, source } => {
                if let Err(error) = self.spawn(worker, generation, source) {
                    let reason = error.to_string();
                    self.events.push_back(Event::SpawnFailed { worker, reason });
                }
            }
            Action::Welcome { worker } => self.welcome(worker),
            Action::Tell { worker, order } => {
                let message = match order {
                    Order::Go => ToWorker::Go {},
                    Order::Quiesce => ToWorker::Quiesce { keep: self.removed(worker) },
                    Order::Resume => ToWorker::Resume {},
                    Order::Ping => ToWorker::Ping {},
                    Order::Drain { deadline, last } => {
                        let last = last || self.machine.state_word() == "stopping";
                        let deadline = clock::to_monotonic_ns(deadline);
                        ToWorker::Drain { deadline, last, finish: self.let_go(worker) }
                    }
                };
                self.tell(worker, &message, &[]);
            }
            Action::Connect { from, to } => {
                let generation = self.fleet.get(to).map_or(0, |process| process.generation);
                let connected = failpoint::attempt(Step::SupervisorBeforeConnect, generation)
                    .and_then(|()| self.fleet.connect(from, to));
                if let Err(error) = connected {
                    let text = format!("connections cannot be passed: {error}");
                    self.log(Level::Warn, &text);
                }
            }
            Action::Examine { worker } => self.examine(worker),
            Action::Terminate { worker } => self.signal(worker, rustix::process::Signal::TERM),
            Action::Kill { worker } => self.signal(worker, rustix::process::Signal::KILL),
            Action::Answer { client, answer } => {
                let reply = match answer {
                    Answer::Restarted(told) => {
                        Reply::Restarted { outcome: report::outcome(&told, Vec::new()) }
                    }
                    Answer::Aborted(told) => {
                        Reply::Restarted { outcome: report::outcome(&told, self.output()) }
                    }
                    Answer::Stopped { ledger, to_drained } => {
                        let to_drained_ms = Some(to_drained.as_secs_f64() * 1000.0);
                        Reply::Stopped { ledger, to_drained_ms }
                    }
                    Answer::Refused { reason } => Reply::Refused { reason },
                };
                failpoint::reach(Step::SupervisorBeforeAnswer, 0);
                if matches!(reply, Reply::Stopped { .. }) && self.orphans.are_draining() {
                    self.farewells.push((client, reply));
                } else {
                    self.clients.reply(client, &reply);
                }
            }
            Action::Progress { text } => self.clients.progress(&text),
            Action::Log { level, text } => self.log(level, &text),
            Action::Up { generation } => self.up(generation),
            Action::Upgrade { generation } => self.begin_upgrade(generation),
            Action::CloseListeners => {
                (self.preflight, self.cleared) = (None, None);
                failpoint::reach(Step::SupervisorBeforeClose, 0);
                self.generations.close_listeners();
            }
            Action::Drained { report } => {
                if let Some(text) = report::trace(&report) {
                    self.setup.say.line(&text);
                }
            }
            Action::Retire { generation, keep } => self.generations.retire(generation, keep),
            Action::Exit { code, reason } => self.exit = Some((code, reason)),
        }
    }

    /// The listeners that a worker's generation has, and the one that serves has not.
    fn removed(&self, worker: WorkerId) -> Vec<String> {
        let old = self.fleet.get(worker).map(|process| process.generation);
        let removed = old.zip(self.machine.serving_generation());
        removed.map_or(Vec::new(), |(old, new)| self.generations.removed(old, new))
    }

    /// As [`removed`](Driver::removed), of a worker that drains for good: it gets the last copies.
    fn let_go(&mut self, worker: WorkerId) -> Vec<String> {
        let stay = [self.machine.serving_generation(), self.machine.confirmed_generation()];
        let stay: Vec<Generation> = stay.into_iter().flatten().collect();
        let removed = self.removed(worker);
        let old = self.fleet.get(worker).map(|process| process.generation);
        match (old, stay.first()) {
            (Some(old), Some(&new)) if !stay.contains(&old) => {
                self.generations.let_go(old, new, &stay);
                removed
            }
            // It may have to come back.
            _ => Vec::new(),
        }
    }

    fn spawn(&mut self, worker: WorkerId, generation: Generation, source: Source) -> Result<()> {
        let image = match (source, self.generations.get(generation)) {
            (Source::Pinned, Some(holdings)) => std::sync::Arc::clone(&holdings.image),
            (Source::KnownGood(good), _) => {
                self.note_time(generation);
                self.generations.begin_again(generation, good)?
            }
            _ => {
                self.log_length = self.setup.log.as_ref().map_or(0, |log| logs::length(log.path()));
                self.note_time(generation);
                let path = self.next_image();
                failpoint::attempt(Step::SupervisorBeforeOpen, generation).map_err(|error| {
                    Error::io(format!("cannot open the image {}", path.display()), error)
                })?;
                let image = Image::open(&path)?;
                failpoint::reach(Step::SupervisorAfterOpen, generation);
                self.generations.begin(generation, image)
            }
        };
        let plan = Plan {
            generation,
            image: &image,
            args: &self.setup.args,
            vars: &self.setup.vars,
            origin: &self.setup.origin,
            respawn: source != Source::Disk,
        };
        let pid = self.fleet.spawn(worker, &plan, Instant::now())?;
        tracing::info!(pid, generation, "worker spawned");
        Ok(())
    }

    /// Where the image of the next generation lies.
    pub(super) fn next_image(&self) -> PathBuf {
        let serving = self.machine.serving_generation();
        let exe = serving
            .and_then(|serving| self.generations.get(serving))
            .and_then(|holdings| holdings.configuration.as_ref())
            .unwrap_or(&self.setup.configuration)
            .settings
            .exe
            .clone();
        exe.unwrap_or_else(|| self.setup.origin.exe.clone())
    }

    fn note_time(&mut self, generation: Generation) {
        self.asked.push_front((generation, SystemTime::now()));
        self.asked.truncate(MAX_RESTARTS + 1);
    }

    fn welcome(&mut self, worker: WorkerId) {
        let rendezvous = self.rendezvous(worker);
        let Some(process) = self.fleet.get(worker) else { return };
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
                })
                .collect(),
            rendezvous: rendezvous.is_some(),
        };
        let mut fds = vec![process.counters_fd()];
        fds.extend(holdings.listeners.values().map(|bound| bound.as_fd()));
        fds.extend(rendezvous.as_ref().map(AsFd::as_fd));
        let mut told = failpoint::attempt(Step::SupervisorBeforeWelcome, process.generation)
            .and_then(|()| process.tell(&message, &fds));
        failpoint::reach(Step::SupervisorAfterWelcome, process.generation);
        if let (Ok(()), true, Some(log)) = (&told, process.old_output, &self.setup.log) {
            told = process.tell(&ToWorker::Reopen {}, &[log.as_fd()]);
        }
        if let Err(error) = told {
            let reason = format!("it did not take its welcome: {error}");
            self.events.push_back(Event::Unacceptable { worker, reason });
        }
    }

    fn tell(&mut self, worker: WorkerId, message: &ToWorker, fds: &[BorrowedFd<'_>]) {
        let Some(process) = self.fleet.get(worker) else { return };
        let generation = process.generation;
        let step = match message {
            ToWorker::Go {} => Some(Step::SupervisorBetween),
            ToWorker::Drain { .. } => Some(Step::SupervisorBeforeDrain),
            _ => None,
        };
        let told = step
            .map_or(Ok(()), |step| failpoint::attempt(step, generation))
            .and_then(|()| process.tell(message, fds));
        if let Err(error) = told {
            let reason = format!("it did not take an order: {error}");
            self.events.push_back(Event::LinkLost { worker, reason });
        } else if let ToWorker::Go {} = message {
            failpoint::reach(Step::SupervisorAfterGo, generation);
        }
    }

    fn signal(&self, worker: WorkerId, signal: rustix::process::Signal) {
        let Some(process) = self.fleet.get(worker) else { return };
        if let Err(error) = process.child.signal(signal) {
            let pid = process.child.pid();
            self.setup.say.line(&format!("cannot signal process {pid}: {error}"));
        }
    }

    /// Writes down what a process that does not answer is doing.
    fn examine(&self, worker: WorkerId) {
        let Some(process) = self.fleet.get(worker) else { return };
        for line in threads::of(process.child.pid()) {
            self.log(Level::Warn, &line);
        }
    }

    /// What the failed worker of the last transition wrote, where that can be told.
    fn output(&self) -> Vec<String> {
        let Some(log) = &self.setup.log else { return Vec::new() };
        let mut lines = logs::tail(log.path(), self.log_length).unwrap_or_default();
        lines.retain(|line| !self.setup.say.said(line));
        lines
    }

    fn up(&mut self, generation: Generation) {
        let addrs: Vec<String> = self
            .generations
            .get(generation)
            .into_iter()
            .flat_map(|holdings| &holdings.listeners)
            .map(|(name, bound)| format!("{name} {}", bound.addr()))
            .collect();
        let on = if addrs.is_empty() { String::new() } else { format!(" on {}", addrs.join(", ")) };
        let text = format!("generation {generation} serves{on}");
        self.log(Level::Info, &text);
        self.succeed_orphans(generation);
        self.setup.reporter.ready(&addrs);
    }

    fn log(&self, level: Level, text: &str) {
        match level {
            Level::Info => tracing::info!("{text}"),
            Level::Warn => tracing::warn!("{text}"),
            Level::Error => tracing::error!("{text}"),
        }
        self.setup.say.line(text);
    }

    fn reopen_log(&mut self) {
        let Some(log) = &mut self.setup.log else { return };
        if let Err(error) = log.reopen() {
            self.setup.say.line(&format!("{error}; the old file is kept"));
            return;
        }
        let log = log.as_fd();
        self.orphans.reopen(log);
        for process in self.fleet.iter_mut() {
            if process.greeted {
                // One that cannot be told is about to be noticed as gone.
                let _ = process.tell(&ToWorker::Reopen {}, &[log]);
            } else {
                // It waits for its welcome, and would take nothing else.
                process.old_output = true;
            }
        }
    }
}
