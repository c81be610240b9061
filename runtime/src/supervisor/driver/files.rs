//! Watches the daemon's files and restores those that were removed: the pidfile, the control socket and the
//! files of unix listeners. Workers get the socket of a listener that had to be bound again.

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use super::Driver;
use crate::claim::{Claim, Claimed};
use crate::config::Settings;
use crate::error::Result;
use crate::link::ToWorker;
use crate::listener::Bound;
use unbroken_core::machine::State;

impl Driver {
    /// Handles a change in a watched directory. After a failed attempt to restore a file it waits for the
    /// next one to be due, because the attempt itself changes files.
    pub(super) fn files_changed(&mut self, now: Instant) {
        if self.upkeep.hears(&self.setup.say) && self.upkeep.deadline().is_none_or(|at| at <= now) {
            self.restore_files();
        }
    }

    /// Watches the files of listeners that were bound or closed since the last call.
    pub(super) fn watch_new_files(&mut self) {
        if !self.upkeep.knows(&self.files()) {
            self.restore_files();
        }
    }

    /// Returns the paths of all files that the daemon owns.
    fn files(&self) -> Vec<PathBuf> {
        let settings = &self.setup.configuration.settings;
        let control = self.setup.control.path().to_owned();
        let listeners = self.generations.with_files();
        let listeners = listeners.iter().filter_map(|(_, bound)| Some(bound.file()?.0.to_owned()));
        [settings.pidfile.clone(), control].into_iter().chain(listeners).collect()
    }

    /// Checks all files and restores those that are missing, unless the daemon stops.
    pub(super) fn restore_files(&mut self) {
        if self.machine.state() == State::Stopping {
            return;
        }
        self.upkeep.begin(self.files(), &self.setup.say);
        let (setup, clients) = (&mut self.setup, &mut self.clients);
        let (path, inode) = (setup.control.path().to_owned(), setup.control.inode());
        let control = self.upkeep.tend("the control socket", &path, inode, &setup.say, || {
            // Clients that are queued at the old socket would be lost when it is closed.
            let accepted = clients.accept(&setup.control, Instant::now());
            accepted.map_err(|error| crate::Error::io("cannot accept a control client", error))?;
            setup.control.restore()
        });
        let (path, inode) = (setup.pidfile.path().to_owned(), setup.pidfile.inode());
        let pidfile =
            self.upkeep.tend("the pidfile", &path, inode, &setup.say, || setup.pidfile.restore());
        if control || pidfile {
            renew(&mut setup.claim, &setup.configuration.settings);
        }
        for (name, bound) in self.generations.with_files() {
            let Some((path, inode)) = bound.file() else { continue };
            let mut new = None;
            let what = format!("listener `{name}` at");
            self.upkeep.tend(&what, path, Some(inode), &self.setup.say, || {
                new = Some(Arc::new(bound.rebound(&name)?));
                Ok(())
            });
            if let Some(new) = new
                && let Err(error) = self.put_in_place(&new)
            {
                self.setup.say.warn(&error.to_string());
            }
        }
        self.upkeep.end();
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
            self.setup.notifier.renew(&name);
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
