//! The supervisor's hands: turns readiness of descriptors into events ([`hear`]) and actions into system
//! calls ([`act`]).
//!
//! One thread that sleeps in poll(2). It never waits for a worker, a client or a name server.

mod actions;
mod events;
mod files;
mod orphans;

use std::collections::VecDeque;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use super::generation_times::GenerationTimes;
use super::generations::Generations;
use super::policy;
use super::upgrade::preflight::Preflight;
use super::workers::WorkerProcesses;
use crate::claim::Claim;
use crate::config::Configuration;
use crate::control::{Clients, ControlSocket, Reply};
use crate::error::{Error, Result};
use crate::failpoint::{self, Step};
use crate::image::Image;
use crate::launch::role::LaunchOrigin;
use crate::launch::startup_pipe::StartupNotifier;
use crate::logs::{DaemonLog, LogFile};
use crate::owned_files::OwnedFiles;
use crate::pidfile::PidFile;
use crate::probe;
use crate::reattach::orphans::Orphans;
use crate::sys::clock;
use crate::sys::signals::{SighupAction, Signals};
use crate::systemd::activation::{self, Sockets};
use crate::systemd::notify::{Health, Notifier};
use unbroken_core::event::{ClientId, Event, Generation};
use unbroken_core::machine::{Machine, State};

/// What a supervisor is made of.
pub(crate) struct DriverSetup {
    pub(crate) configuration: Configuration,
    pub(crate) origin: LaunchOrigin,
    /// The program's own arguments and environment.
    pub(crate) args: Vec<OsString>,
    pub(crate) vars: Vec<(OsString, OsString)>,
    pub(crate) pidfile: PidFile,
    pub(crate) claim: Option<Claim>,
    pub(crate) control: ControlSocket,
    pub(crate) log: Option<LogFile>,
    pub(crate) reporter: StartupNotifier,
    pub(crate) say: DaemonLog,
    pub(crate) hang_up: SighupAction,
    pub(crate) notifier: Notifier,
    pub(crate) probes: probe::Server,
}

pub(crate) struct Driver {
    pub(super) setup: DriverSetup,
    pub(super) machine: Machine,
    pub(super) workers: WorkerProcesses,
    pub(super) generations: Generations,
    pub(super) orphans: Orphans,
    /// Nothing begins before they are gone.
    pub(super) waits_for_orphans: bool,
    /// What clients are told at the very end.
    pub(super) deferred_replies: Vec<(ClientId, Reply)>,
    pub(super) began: (Instant, SystemTime),
    /// When the generations of the last restarts were asked for.
    pub(super) asked: VecDeque<(Generation, SystemTime)>,
    pub(super) times: GenerationTimes,
    /// How long the log was when the last one was.
    pub(super) log_length: u64,
    pub(super) clients: Clients,
    pub(super) upkeep: OwnedFiles,
    pub(super) signals: Signals,
    pub(super) events: VecDeque<Event>,
    pub(super) exit: Option<(u8, Option<String>)>,
    /// A worker has ended after it called `main`.
    pub(super) has_run: bool,
    /// What this process runs.
    pub(super) image: Arc<Image>,
    /// Whether another image could take over is being tried.
    pub(super) preflight: Option<Preflight>,
    /// The image of this generation is to take over at the next quiet moment.
    pub(super) upgrade_ready: Option<Generation>,
}

impl Driver {
    pub(crate) fn new(mut setup: DriverSetup, sockets: Sockets) -> Result<Driver> {
        let signals =
            Signals::watch().map_err(|error| Error::io("cannot watch for signals", error))?;
        let image = Arc::new(Image::own(&setup.origin.exe)?);
        let settings = &setup.configuration.settings;
        let (orphans, orphaned) =
            Orphans::find(&settings.runtime_dir, &settings.pidfile, &setup.say);
        let Sockets { passed, stored, .. } = sockets;
        let held = activation::store_names(stored.iter().map(|(name, bound)| (name, bound)));
        let held = held.into_iter().map(|(stored, (_, bound))| (stored, bound.addr().clone()));
        setup.notifier.set_held(held.collect());
        let stored = stored.into_iter().map(|(name, bound)| (name, Arc::new(bound)));
        let inherited = stored.chain(orphaned).collect();
        let mut generations = Generations::with_inherited(inherited).with_passed(passed);
        generations.set_kept(setup.notifier.held().values().cloned().collect());
        let settings = &setup.configuration.settings;
        let upkeep = OwnedFiles::new(&settings.runtime_dir, Vec::new(), &setup.say);
        let machine =
            Machine::new(policy::policy(settings)).counting_from(orphans.last_generation());
        let mut driver = Driver {
            machine,
            setup,
            workers: WorkerProcesses::default(),
            generations,
            orphans,
            waits_for_orphans: false,
            deferred_replies: Vec::new(),
            began: (Instant::now(), SystemTime::now()),
            asked: VecDeque::new(),
            times: GenerationTimes::default(),
            log_length: 0,
            clients: Clients::default(),
            upkeep,
            signals,
            events: VecDeque::new(),
            exit: None,
            has_run: false,
            image,
            preflight: None,
            upgrade_ready: None,
        };
        driver.begin();
        Ok(driver)
    }

    pub(crate) fn origin(&self) -> &LaunchOrigin {
        &self.setup.origin
    }

    /// Runs the daemon to its end; returns the code to exit with.
    pub(crate) fn run(mut self) -> u8 {
        loop {
            while let Some(event) = self.events.pop_front() {
                self.stop_last_orphans(&event);
                for action in self.machine.on(event, clock::now()) {
                    self.perform(action);
                }
            }
            if !self.orphans.are_draining()
                && let Some((code, reason)) = self.exit.take()
            {
                return self.exit(code, reason);
            }
            self.watch_new_files();
            self.exec_upgrade_if_ready();
            if !self.events.is_empty() {
                continue;
            }
            if let Err(error) = self.wait() {
                self.setup.say.warn(&format!("cannot wait for events: {error}"));
                self.events.push_back(Event::Stop { client: None, at_once: true });
            }
        }
    }

    /// Shows the machine as it is now: to `status`, to probes and to the service manager.
    pub(super) fn show_state(&mut self) {
        let machine = &self.machine;
        self.times.note(machine.serving_generation(), machine.confirmed_generation());
        self.close_old_probes();
        // First, so that who waits until the daemon is ready finds them kept.
        self.store_listeners();
        self.setup.notifier.tell(self.machine.health());
    }

    /// A restart that is over leaves one address at which probes are answered.
    pub(super) fn close_old_probes(&mut self) {
        let standing = self.machine.live_generations();
        let wanted: Vec<SocketAddr> = standing
            .filter_map(|generation| self.generations.get(generation)?.configuration.as_ref())
            .chain(self.first_configuration())
            .filter_map(|configuration| configuration.settings.probe)
            .collect();
        self.setup.probes.keep(&wanted);
    }

    /// That of the start, as long as no generation is committed.
    fn first_configuration(&self) -> Option<&Configuration> {
        self.machine.confirmed_generation().is_none().then_some(&self.setup.configuration)
    }

    /// Has the service manager keep the listeners of the generation that serves. What it keeps as the
    /// daemon ends is for the next one.
    pub(super) fn store_listeners(&mut self) {
        if self.machine.state() != State::Running {
            return;
        }
        let serving = self.machine.serving_generation();
        let Some(holdings) = serving.and_then(|it| self.generations.get(it)) else { return };
        let listeners = holdings.listeners.iter().map(|(name, bound)| (name, &**bound));
        if let Some(remark) = self.setup.notifier.keep(listeners) {
            self.setup.say.line(&remark);
        }
        self.generations.set_kept(self.setup.notifier.held().values().cloned().collect());
    }

    fn exit(mut self, code: u8, reason: Option<String>) -> u8 {
        if self.orphans.is_empty() {
            self.generations.release_inherited();
        }
        self.generations.retire_all();
        self.setup.control.remove();
        failpoint::hit(Step::SupervisorBeforeUnlock, 0);
        self.setup.pidfile.remove();
        let reason = reason.unwrap_or_else(|| "stopped before it was ready".into());
        if code != 0 {
            self.setup.say.error(&reason);
            // What a service manager shows of a daemon that is gone.
            let text = format!("failed: {reason}");
            self.setup.notifier.tell_last(Health { text, ..self.machine.health() });
        }
        match self.has_run {
            true => self.setup.reporter.failed_in_main(code, &reason),
            false => self.setup.reporter.failed(code, &reason),
        }
        for (client, reply) in std::mem::take(&mut self.deferred_replies) {
            self.clients.reply(client, &reply);
        }
        code
    }
}
