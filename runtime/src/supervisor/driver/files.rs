//! The files of the daemon: looked after whenever one of them may have changed, and given to the workers where
//! a socket had to be bound anew.

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
    /// Something was told of the files. What failed a moment ago is not tried again at once: trying changes
    /// files, too.
    pub(super) fn files_changed(&mut self, now: Instant) {
        if self.upkeep.hears(&self.setup.say) && self.upkeep.deadline().is_none_or(|at| at <= now) {
            self.restore_files();
        }
    }

    /// Listeners have come or gone.
    pub(super) fn watch_new_files(&mut self) {
        if !self.upkeep.knows(&self.files()) {
            self.restore_files();
        }
    }

    fn files(&self) -> Vec<PathBuf> {
        let settings = &self.setup.configuration.settings;
        let control = self.setup.control.path().to_owned();
        let listeners = self.generations.with_files();
        let listeners = listeners.iter().filter_map(|(_, bound)| Some(bound.file()?.0.to_owned()));
        [settings.pidfile.clone(), control].into_iter().chain(listeners).collect()
    }

    /// Looks at all files, and restores what is gone. A daemon that ends lets go.
    pub(super) fn restore_files(&mut self) {
        if self.machine.state() == State::Stopping {
            return;
        }
        self.upkeep.begin(self.files(), &self.setup.say);
        let (setup, clients) = (&mut self.setup, &mut self.clients);
        let (path, inode) = (setup.control.path().to_owned(), setup.control.inode());
        let control = self.upkeep.tend("the control socket", &path, inode, &setup.say, || {
            // Who waits at the old one is no longer to be had once it is closed.
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

    /// Has all workers that have the listener accept at the new socket.
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

/// Claims the runtime directory again, where it is another one now.
fn renew(claim: &mut Option<Claim>, settings: &Settings) {
    // It is still ours where its place is the same, and nobody else's to lose where it is not.
    if let Ok(Claimed::Ours(new)) = Claim::take(&settings.runtime_dir, &settings.pidfile) {
        *claim = Some(new);
    }
}
