//! The supervisor's part in re-attaching orphans.
//!
//! It gives each worker a socket at which the worker can wait for the next supervisor, should this one be
//! killed, and it takes over the orphans of an earlier supervisor: they serve until the first generation
//! does, then drain.

use std::os::fd::OwnedFd;
use std::time::Instant;

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

    /// Has all orphans drain until `deadline`. Unless the drain is the `last`, they hand off to the generation
    /// that serves; the listeners that it does not have end with the orphans.
    pub(super) fn drain_orphans(&mut self, deadline: Instant, last: bool, listeners_end: bool) {
        let serving = self.machine.serving_generation().filter(|_| !last);
        let gone = serving.map_or(Vec::new(), |generation| {
            self.redirect_orphans(generation);
            self.generations.drop_removed_inherited(generation)
        });
        if listeners_end {
            self.generations.release_inherited();
        }
        self.orphans.drain(deadline, last, &gone, &self.io.say);
    }

    /// Closes the listeners of orphans when all have ended and a generation serves. Not earlier: orphans that
    /// drain may still accept what is queued there.
    pub(super) fn release_inherited(&mut self) {
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

    /// Handles the end of an orphan: removes its socket and logs its ledger.
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
        if self.orphans.is_empty() {
            self.io.events.push_back(Event::OrphansGone);
        }
    }
}
