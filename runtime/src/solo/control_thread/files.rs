//! Watches the files of a solo daemon and restores those that were removed, as far as its privileges allow.

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Instant;

use super::{SoloControl, SoloPhase};
use crate::error::Error;
use crate::link::{self, ToWorker};

impl SoloControl {
    /// Handles a change in a watched directory. After a failed attempt to restore a file it waits for the
    /// next one to be due, because the attempt itself changes files.
    pub(super) fn files_changed(&mut self) {
        let Some(upkeep) = &mut self.upkeep else { return };
        let now = Instant::now();
        if upkeep.hears(&self.parts.say) && upkeep.deadline().is_none_or(|at| at <= now) {
            self.restore_files();
        }
    }

    /// Checks all files and restores those that are missing, unless the daemon drains or has ended.
    pub(super) fn restore_files(&mut self) {
        let ends = matches!(self.phase, SoloPhase::Draining | SoloPhase::Hurried | SoloPhase::Over);
        let Some(upkeep) = self.upkeep.as_mut().filter(|_| !ends) else { return };
        let (parts, clients) = (&mut self.parts, &mut self.clients);
        let listeners =
            parts.bound.iter().filter_map(|(_, bound)| Some(bound.file()?.0.to_owned()));
        let own = [parts.pidfile.path().to_owned(), parts.control.path().to_owned()];
        let paths: Vec<PathBuf> = own.into_iter().chain(listeners).collect();
        upkeep.begin(paths, &parts.say);
        let (path, inode) = (parts.control.path().to_owned(), parts.control.inode());
        upkeep.tend("the control socket", &path, inode, &parts.say, || {
            let accepted = clients.accept(&parts.control, Instant::now());
            accepted.map_err(|error| Error::io("cannot accept a control client", error))?;
            parts.control.restore()
        });
        let (path, inode) = (parts.pidfile.path().to_owned(), parts.pidfile.inode());
        upkeep.tend("the pidfile", &path, inode, &parts.say, || parts.pidfile.restore());
        for (name, bound) in &mut parts.bound {
            let Some((path, inode)) = bound.file() else { continue };
            let (path, what) = (path.to_owned(), format!("listener `{name}` at"));
            let restored = upkeep.tend(&what, &path, Some(inode), &parts.say, || {
                *bound = bound.rebound(name)?;
                Ok(())
            });
            if !restored {
                continue;
            }
            parts.notifier.renew(name);
            let message = ToWorker::Rebound { name: name.clone(), addr: bound.addr().clone() };
            if let Err(error) = link::send(&parts.link, &message, &[bound.as_fd()]) {
                parts.say.warn(&format!("the link failed: {error}"));
            }
        }
        upkeep.end();
        self.store_listeners();
    }
}
