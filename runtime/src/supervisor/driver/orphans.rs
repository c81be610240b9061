//! The supervisor's part in re-attaching orphans.
//!
//! It gives each worker a socket at which the worker can wait for the next supervisor, should this one be
//! killed, and it takes over the orphans of an earlier supervisor: they serve until the first generation
//! does, then drain.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use crate::config::Address;
use crate::reattach::orphans;
use crate::reattach::protocol;
use crate::supervisor::driver::Driver;
use crate::sys::seqpacket::MAX_DESCRIPTORS;
use unbroken_core::event::{Event, Generation, WorkerId};

/// Descriptors in the message of an orphan that are not listeners: its counters and its process.
const OTHER_DESCRIPTORS: usize = 2;

impl Driver {
    /// Binds the socket at which a worker will wait for the next supervisor, if its settings want that. The
    /// caller hands it to the worker and closes its own copy.
    pub(in crate::supervisor) fn reattach_socket(&mut self, worker: WorkerId) -> Option<OwnedFd> {
        let process = self.workers.get_mut(worker)?;
        let holdings = self.generations.get(process.generation)?;
        let settings = &holdings.configuration.as_ref()?.settings;
        if settings.orphan_grace.is_zero()
            || holdings.listeners.len() + OTHER_DESCRIPTORS > MAX_DESCRIPTORS
        {
            return None;
        }
        let pid = process.child.pid();
        let path = protocol::path_of(&settings.runtime_dir, &settings.pidfile, pid);
        match protocol::bind(&path) {
            Ok(socket) => {
                process.reattach_path = Some(path);
                Some(socket)
            }
            Err(error) => {
                self.io.say.warn(&format!(
                    "cannot bind {}, so process {pid} runs without `orphan_grace`: {error}",
                    path.display()
                ));
                None
            }
        }
    }

    /// Begins the first generation, after the end of all orphans if the program is exclusive.
    pub(in crate::supervisor) fn begin(&mut self) {
        let exclusive = self.io.configuration.settings.exclusive || self.orphans.are_exclusive();
        if exclusive && !self.orphans.is_empty() {
            self.waits_for_orphans = true;
            self.drain_orphans(true, &[], false);
        } else {
            self.io.events.push_back(Event::Begin);
        }
    }

    /// Has all orphans hand off to `generation`, the first that serves, and drain.
    pub(in crate::supervisor) fn replace_orphans(&mut self, generation: Generation) {
        self.redirect_orphans(generation);
        let gone = self.generations.drop_removed_inherited(generation);
        self.drain_orphans(false, &gone, false);
        self.release_inherited();
    }

    /// Closes the listeners of orphans when all have ended and a generation serves. Not earlier: orphans that
    /// drain may still accept what is queued there.
    fn release_inherited(&mut self) {
        if self.orphans.is_empty() && self.machine.serving_generation().is_some() {
            self.generations.release_inherited();
        }
    }

    /// Has all orphans hand off to `generation`, which was just confirmed.
    pub(in crate::supervisor) fn redirect_orphans(&self, generation: Generation) {
        self.orphans.redirect(|| self.channel_to(generation));
    }

    /// Returns a channel for handoffs to the worker of `generation`.
    fn channel_to(&self, generation: Generation) -> Option<OwnedFd> {
        self.workers.channel_to(generation).unwrap_or_else(|error| {
            self.io.say.warn(&format!("cannot hand off connections: {error}"));
            None
        })
    }

    /// Has all orphans drain too, if an event begins or hastens the stop of the daemon.
    pub(in crate::supervisor) fn stop_orphans(
        &mut self,
        deadline: Instant,
        kill_timeout: Duration,
    ) {
        self.generations.release_inherited();
        self.orphans.drain(deadline, kill_timeout, true, &[], &self.io.say);
    }

    /// Once the machine is done, it answers no event, and only orphans are left to stop.
    pub(in crate::supervisor) fn stop_last_orphans(&mut self, event: &Event) {
        if let (true, Event::Stop { at_once, .. }) = (self.exit.is_some(), event) {
            self.generations.release_inherited();
            self.drain_orphans(true, &[], *at_once);
        }
    }

    /// Has all orphans drain. They have the last copies of the listeners at the addresses in `gone`.
    fn drain_orphans(&mut self, last: bool, gone: &[Address], at_once: bool) {
        let serving = self.machine.serving_generation();
        let settings = serving
            .and_then(|generation| self.generations.get(generation)?.configuration.as_ref())
            .map_or(&self.io.configuration.settings, |configuration| &configuration.settings);
        let now = Instant::now();
        let deadline = if at_once { now } else { now + settings.drain_timeout };
        self.orphans.drain(deadline, settings.kill_timeout, last, gone, &self.io.say);
    }

    /// Handles the end of an orphan: removes its socket, logs its ledger and begins what waited for it.
    pub(in crate::supervisor) fn orphan_gone(&mut self, pid: i32) {
        let Some(gone) = self.orphans.remove(pid) else { return };
        // A worker of this supervisor may have got the same process id, and so the same path.
        if self
            .workers
            .iter()
            .all(|(_, process)| process.reattach_path.as_ref() != Some(&gone.path))
        {
            orphans::remove(&gone.path);
        }
        let (generation, ledger) = (gone.generation, gone.ledger);
        let after = gone.took.map_or(" before it was asked to drain".to_owned(), |took| {
            format!(" after {:.0} ms", took.as_secs_f64() * 1000.0)
        });
        let who = format!("the orphan of generation {generation}, process {},", gone.pid);
        self.io.say.line(&format!("{who} exited{after}: {ledger}"));
        self.release_inherited();
        if self.waits_for_orphans && self.orphans.is_empty() {
            self.waits_for_orphans = false;
            self.io.events.push_back(Event::Begin);
        }
    }
}
