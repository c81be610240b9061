//! Watches the daemon's files and restores those that were removed: the pidfile, the control socket and the
//! files of unix listeners. Workers get the socket of a listener that had to be bound again.

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;

use super::Driver;
use crate::claim::{Claim, Claimed};
use crate::config::Settings;
use crate::error::Result;
use crate::link::ToWorker;
use crate::listener::Bound;
use crate::owned_files::OwnedFiles;
use unbroken_core::machine::State;

impl Driver {
    /// Watches the files of listeners that were bound or closed since the last call.
    pub(super) fn watch_new_files(&mut self) {
        if self.io.upkeep.as_ref().is_some_and(|upkeep| !upkeep.knows(&self.files())) {
            self.restore_files();
        }
    }

    /// Returns the paths of all files that the daemon owns.
    fn files(&self) -> Vec<PathBuf> {
        self.io.files(self.generations.with_files().iter().map(|(_, bound)| &**bound))
    }

    /// Checks all files and restores those that are missing, unless the daemon stops.
    pub(super) fn restore_files(&mut self) {
        if self.machine.state() == State::Stopping {
            return;
        }
        if self.io.restore_own_files(self.files()) {
            renew(&mut self.io.claim, &self.io.configuration.settings);
        }
        for (name, bound) in self.generations.with_files() {
            if let Some(new) = self.io.restore_listener(&name, &bound)
                && let Err(error) = self.put_in_place(&Arc::new(new))
            {
                self.io.say.warn(&error.to_string());
            }
        }
        self.io.upkeep.iter_mut().for_each(OwnedFiles::end);
    }

    /// Replaces a listener by a socket that was bound again at its address, here and in all workers that have
    /// it.
    fn put_in_place(&mut self, new: &Arc<Bound>) -> Result<()> {
        let had: Vec<(u64, String)> = self
            .workers
            .iter()
            .filter(|(_, process)| process.welcomed)
            .flat_map(|(id, process)| {
                let holdings = self.generations.get(process.generation).into_iter();
                let listeners = holdings.flat_map(|holdings| &holdings.listeners);
                let at = listeners.filter(|(_, bound)| bound.addr() == new.addr());
                at.map(move |(name, _)| (id, name.clone()))
            })
            .collect();
        self.generations.replace(new)?;
        for (worker, name) in had {
            self.io.notifier.renew(&name);
            let message = ToWorker::Rebound { name, addr: new.addr().clone() };
            self.send(worker, &message, &[new.as_fd()]);
        }
        self.store_listeners();
        Ok(())
    }
}

/// Claims the runtime directory again, if the old one was replaced by a new one.
fn renew(claim: &mut Option<Claim>, settings: &Settings) {
    // Failure needs no handling: the old claim holds if the directory is the same, and if it is a new one
    // there is nothing to lose.
    if let Ok(Claimed::Ours(new)) = Claim::take(&settings.runtime_dir, &settings.pidfile) {
        *claim = Some(new);
    }
}
