//! The supervisor's event loop.
//!
//! One thread sleeps in poll(2). [`events`] turns readable descriptors into events for the machine,
//! [`actions`] turns the machine's actions into system calls. [`orphans`] takes over workers of an earlier
//! supervisor, [`files`] watches the daemon's files. The loop never waits for a worker, a client or a name
//! server.

mod actions;
mod events;
mod files;
mod orphans;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use super::generation_times::GenerationTimes;
use super::generations::Generations;
use super::policy;
use super::upgrade::preflight::Preflight;
use super::workers::WorkerProcesses;
use crate::config::Configuration;
use crate::daemon_io::DaemonIo;
use crate::error::{Error, Result};
use crate::failpoint::{self, Step};
use crate::image::Image;
use crate::launch::role::LaunchOrigin;
use crate::owned_files::OwnedFiles;
use crate::reattach::orphans::Orphans;
use crate::sys::clock;
use crate::sys::signals::Signals;
use crate::systemd::activation::{self, Sockets};
use crate::systemd::notify::Health;
use unbroken_core::event::{Event, Generation};
use unbroken_core::machine::{Machine, State};

/// A running supervisor.
pub(crate) struct Driver {
    pub(super) io: DaemonIo,
    pub(super) machine: Machine,
    pub(super) workers: WorkerProcesses,
    pub(super) generations: Generations,
    pub(super) orphans: Orphans,
    /// The last generations from the disk or of a rollback, with the times at which they were begun.
    pub(super) asked: VecDeque<(Generation, SystemTime)>,
    pub(super) times: GenerationTimes,
    /// The length of the log when the last generation from the disk was begun: what follows it is the output
    /// of that generation.
    pub(super) log_length: u64,
    pub(super) signals: Signals,
    /// The code and reason of the exit, from [`Action::Exit`](super::event::Action::Exit) on.
    pub(super) exit: Option<(u8, Option<String>)>,
    /// Whether a worker that had called `main` has ended.
    pub(super) has_run: bool,
    /// The image that this process runs.
    pub(super) image: Arc<Image>,
    /// The preflight of an upgrade, while it is in progress.
    pub(super) preflight: Option<Preflight>,
    /// The generation whose image passed the preflight. The supervisor executes it when no event is left.
    pub(super) upgrade_ready: Option<Generation>,
}

impl Driver {
    /// Builds a supervisor at the start of the daemon, finds orphans of an earlier one and begins.
    pub(crate) fn new(mut io: DaemonIo, sockets: Sockets) -> Result<Driver> {
        let signals =
            Signals::watch().map_err(|error| Error::io("cannot watch for signals", error))?;
        let image = Arc::new(Image::own(&io.origin.exe)?);
        let settings = &io.configuration.settings;
        let (orphans, orphaned) = Orphans::find(&settings.runtime_dir, &settings.pidfile, &io.say);
        let Sockets { passed, stored, .. } = sockets;
        let held = activation::store_names(stored.iter().map(|(name, bound)| (name, bound)));
        let held = held.into_iter().map(|(stored, (_, bound))| (stored, bound.addr().clone()));
        io.notifier.set_held(held.collect());
        let stored = stored.into_iter().map(|(name, bound)| (name, Arc::new(bound)));
        let inherited = stored.chain(orphaned).collect();
        let mut generations = Generations::with_inherited(inherited).with_passed(passed);
        generations.set_kept(io.notifier.held().values().cloned().collect());
        let settings = &io.configuration.settings;
        io.upkeep = Some(OwnedFiles::new(&settings.runtime_dir, Vec::new(), &io.say));
        let mut machine = Machine::new(policy::policy(settings));
        if !orphans.is_empty() {
            machine = machine.with_orphans(orphans.last_generation(), orphans.are_exclusive());
        }
        let mut driver = Driver {
            machine,
            io,
            workers: WorkerProcesses::default(),
            generations,
            orphans,
            asked: VecDeque::new(),
            times: GenerationTimes::default(),
            log_length: 0,
            signals,
            exit: None,
            has_run: false,
            image,
            preflight: None,
            upgrade_ready: None,
        };
        driver.io.control.keep();
        driver.io.pidfile.keep();
        driver.io.events.push_back(Event::Begin);
        Ok(driver)
    }

    pub(crate) fn origin(&self) -> &LaunchOrigin {
        &self.io.origin
    }

    /// Runs the daemon to its end; returns the exit code.
    pub(crate) fn run(mut self) -> u8 {
        loop {
            while let Some(event) = self.io.events.pop_front() {
                // A restart also restores removed files whose removal was not noticed.
                if let Event::Restart { .. } | Event::RestartFrom { .. } = event {
                    self.restore_files();
                }
                for action in self.machine.on(event, clock::now()) {
                    self.perform(action);
                }
            }
            if let Some((code, reason)) = self.exit.take() {
                return self.exit(code, reason);
            }
            self.watch_new_files();
            self.exec_upgrade_if_ready();
            if !self.io.events.is_empty() {
                continue;
            }
            if let Err(error) = self.wait() {
                self.io.say.warn(&format!("cannot wait for events: {error}"));
                self.io.events.push_back(Event::Stop { client: None, at_once: true });
            }
        }
    }

    /// Shows the machine as it is now: to `status`, to probes and to the service manager.
    pub(super) fn show_state(&mut self) {
        let machine = &self.machine;
        self.times.note(machine.serving_generation(), machine.confirmed_generation());
        self.close_old_probes();
        // Before the state is reported: once the service manager sees the daemon as ready, its fd store has the
        // listeners.
        self.store_listeners();
        self.io.notifier.tell(self.machine.health());
    }

    /// Stops answering probes at addresses that no living generation declares.
    pub(super) fn close_old_probes(&mut self) {
        let standing = self.machine.live_generations();
        let wanted: Vec<SocketAddr> = standing
            .filter_map(|generation| self.generations.get(generation)?.configuration.as_ref())
            .chain(self.first_configuration())
            .filter_map(|configuration| configuration.settings.probe)
            .collect();
        self.io.probes.keep(&wanted);
    }

    /// Returns the configuration of the start, as long as no generation is confirmed.
    fn first_configuration(&self) -> Option<&Configuration> {
        self.machine.confirmed_generation().is_none().then_some(&self.io.configuration)
    }

    /// Has the service manager's fd store keep the listeners of the generation that serves. A daemon that
    /// stops no longer changes it: what the store has then is for the next start.
    pub(super) fn store_listeners(&mut self) {
        if self.machine.state() != State::Running {
            return;
        }
        let serving = self.machine.serving_generation();
        let Some(holdings) = serving.and_then(|it| self.generations.get(it)) else { return };
        let listeners = holdings.listeners.iter().map(|(name, bound)| (name, &**bound));
        if let Some(remark) = self.io.notifier.keep(listeners) {
            self.io.say.line(&remark);
        }
        self.generations.set_kept(self.io.notifier.held().values().cloned().collect());
    }

    /// Removes the daemon's files and sends the last reports and replies; returns the exit code.
    fn exit(mut self, code: u8, reason: Option<String>) -> u8 {
        if self.orphans.is_empty() {
            self.generations.release_inherited();
        }
        self.generations.retire_all();
        self.io.control.remove_file();
        failpoint::hit(Step::SupervisorBeforeUnlock, 0);
        self.io.pidfile.remove_file();
        let reason = reason.unwrap_or_else(|| "stopped before it was ready".into());
        if code != 0 {
            self.io.say.error(&reason);
            // The service manager shows this text after the daemon has exited.
            let text = format!("failed: {reason}");
            self.io.notifier.tell_last(Health { text, ..self.machine.health() });
        }
        match self.has_run {
            true => self.io.reporter.failed_in_main(code, &reason),
            false => self.io.reporter.failed(code, &reason),
        }
        code
    }
}
