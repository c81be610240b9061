//! The path of the next generation's image, if a restart named one.
//!
//! The path is on trial together with its generation: it becomes the daemon's when the generation is
//! confirmed and is forgotten when the restart is aborted.

use std::path::{Path, PathBuf};

use super::Machine;
use crate::json::{FromJson, ToJson};

/// The paths that restarts have named.
#[derive(Debug, Clone, Default, PartialEq, Eq, ToJson, FromJson)]
pub(super) struct Exe {
    /// The path of the last confirmed generation that was started from one.
    pub(super) confirmed: Option<PathBuf>,
    /// The path of the generation in transition.
    pub(super) trial: Option<PathBuf>,
    /// The path for the next restart. If several requests are served by one restart, the latest path counts.
    pub(super) pending: Option<PathBuf>,
}

impl Exe {
    /// Puts the pending path on trial, as a transition to the image on disk begins.
    pub(super) fn begin(&mut self) {
        self.trial = self.pending.take();
    }

    /// Ends the trial with the transition: adopts the path if its generation was confirmed, else forgets it.
    pub(super) fn end(&mut self, confirmed: bool) {
        if let Some(trial) = self.trial.take().filter(|_| confirmed) {
            self.confirmed = Some(trial);
        }
    }
}

impl Machine {
    /// Returns the path on trial, else the one of the last confirmed generation that named one.
    pub fn exe(&self) -> Option<&Path> {
        self.exe.trial.as_deref().or(self.exe.confirmed.as_deref())
    }
}
