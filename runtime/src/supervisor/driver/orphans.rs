//! Being killed, seen from both sides: workers are prepared for it, and what an earlier supervisor left
//! behind is taken over.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use crate::config::Address;
use crate::reattach::orphans;
use crate::reattach::protocol;
use crate::supervisor::driver::Driver;
use crate::sys::seqpacket::MAX_DESCRIPTORS;
use unbroken_core::event::{Event, Generation, WorkerId};

/// Descriptors in the message of an orphan that are no listeners.
const OTHERS: usize = 2;

impl Driver {
    /// The socket at which a worker will wait for the next supervisor, if it is to. Only the worker keeps
    /// it.
    pub(in crate::supervisor) fn reattach_socket(&mut self, worker: WorkerId) -> Option<OwnedFd> {
        let process = self.workers.get_mut(worker)?;
        let holdings = self.generations.get(process.generation)?;
        let settings = &holdings.configuration.as_ref()?.settings;
        if settings.orphan_grace.is_zero() || holdings.listeners.len() + OTHERS > MAX_DESCRIPTORS {
            return None;
        }
        let pid = process.child.pid();
        let path = protocol::path_of(&settings.runtime_dir, &settings.pidfile, pid);
        match protocol::bind(&path) {
            Ok(socket) => {
                process.rendezvous = Some(path);
                Some(socket)
            }
            Err(error) => {
                self.setup.say.warn(&format!(
                    "cannot bind {}, so that process {pid} will have no `orphan_grace`: {error}",
                    path.display()
                ));
                None
            }
        }
    }

    /// Begins, as soon as nobody is in the way.
    pub(in crate::supervisor) fn begin(&mut self) {
        let exclusive = self.setup.configuration.settings.exclusive || self.orphans.are_exclusive();
        if exclusive && !self.orphans.is_empty() {
            self.waits_for_orphans = true;
            self.drain_orphans(true, &[], false);
        } else {
            self.events.push_back(Event::Begin);
        }
    }

    /// `generation` serves: those of an earlier supervisor have done their duty.
    pub(in crate::supervisor) fn replace_orphans(&mut self, generation: Generation) {
        self.redirect_orphans(generation);
        let gone = self.generations.drop_removed_inherited(generation);
        self.drain_orphans(false, &gone, false);
        self.release_inherited();
    }

    /// What they have queued may still be accepted by them: not before they are gone.
    fn release_inherited(&mut self) {
        if self.orphans.is_empty() && self.machine.serving_generation().is_some() {
            self.generations.release_inherited();
        }
    }

    /// Another generation has taken over: it takes what orphans still pass, too.
    pub(in crate::supervisor) fn redirect_orphans(&self, generation: Generation) {
        self.orphans.redirect(|| self.channel_to(generation));
    }

    fn channel_to(&self, generation: Generation) -> Option<OwnedFd> {
        self.workers.channel_to(generation).unwrap_or_else(|error| {
            self.setup.say.warn(&format!("connections cannot be passed: {error}"));
            None
        })
    }

    /// Who stops the daemon means all of it.
    pub(in crate::supervisor) fn stop_orphans(
        &mut self,
        deadline: Instant,
        kill_timeout: Duration,
    ) {
        self.generations.release_inherited();
        self.orphans.drain(deadline, kill_timeout, true, &[], &self.setup.say);
    }

    /// Once the machine is done, it answers no event, and only orphans are left to stop.
    pub(in crate::supervisor) fn stop_last_orphans(&mut self, event: &Event) {
        if let (true, Event::Stop { at_once, .. }) = (self.exit.is_some(), event) {
            self.generations.release_inherited();
            self.drain_orphans(true, &[], *at_once);
        }
    }

    /// What they have at the addresses in `gone` is theirs alone.
    fn drain_orphans(&mut self, last: bool, gone: &[Address], at_once: bool) {
        let serving = self.machine.serving_generation();
        let settings = serving
            .and_then(|generation| self.generations.get(generation)?.configuration.as_ref())
            .map_or(&self.setup.configuration.settings, |configuration| &configuration.settings);
        let now = Instant::now();
        let deadline = if at_once { now } else { now + settings.drain_timeout };
        self.orphans.drain(deadline, settings.kill_timeout, last, gone, &self.setup.say);
    }

    /// An orphan has ended.
    pub(in crate::supervisor) fn orphan_gone(&mut self, pid: i32) {
        let Some(gone) = self.orphans.remove(pid) else { return };
        // A worker of ours may have got its number, and the path.
        if self.workers.iter().all(|(_, process)| process.rendezvous.as_ref() != Some(&gone.path)) {
            orphans::remove(&gone.path);
        }
        let (generation, ledger) = (gone.generation, gone.ledger);
        let after = gone.took.map_or(" before it was told to drain".to_owned(), |took| {
            format!(" after {:.0} ms", took.as_secs_f64() * 1000.0)
        });
        let who = format!("generation {generation} of process {}", gone.pid);
        self.setup.say.line(&format!("{who} is gone{after}: {ledger}"));
        self.release_inherited();
        if self.waits_for_orphans && self.orphans.is_empty() {
            self.waits_for_orphans = false;
            self.events.push_back(Event::Begin);
        }
    }
}
