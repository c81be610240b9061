//! Where the image of the next generation lies, if a restart has said so.
//!
//! A path is on trial with its generation: what is confirmed stays the daemon's, what is aborted is forgotten.

use std::path::{Path, PathBuf};

use super::Machine;
use crate::json::{FromJson, ToJson};

#[derive(Debug, Clone, Default, PartialEq, Eq, ToJson, FromJson)]
pub(super) struct Exe {
    /// Of the last generation that was confirmed.
    pub(super) confirmed: Option<PathBuf>,
    /// Of the transition.
    pub(super) trial: Option<PathBuf>,
    /// Of the restart that follows it: of several that are one, the latest path counts.
    pub(super) pending: Option<PathBuf>,
}

impl Exe {
    /// A transition to what is on disk begins.
    pub(super) fn begin(&mut self) {
        self.trial = self.pending.take();
    }

    /// The transition is over.
    pub(super) fn end(&mut self, confirmed: bool) {
        if let Some(trial) = self.trial.take().filter(|_| confirmed) {
            self.confirmed = Some(trial);
        }
    }
}

impl Machine {
    /// The path that a restart has given to the daemon, or tries now.
    pub fn exe(&self) -> Option<&Path> {
        self.exe.trial.as_deref().or(self.exe.confirmed.as_deref())
    }
}
