//! How the daemon is, for its service manager.

use std::time::Duration;

use super::worker::WorkerState;
use super::{Machine, seconds};
use crate::notify::{Health, Phase};

impl Machine {
    pub(crate) fn health(&self) -> Health {
        let changes = self.transition.is_some() || self.upgrade.is_some();
        let phase = if self.stopping.is_some() || self.exited {
            Phase::Stopping
        } else if self.current.is_none() {
            Phase::Starting
        } else if changes {
            Phase::Reloading
        } else {
            Phase::Running
        };
        let limit =
            |worker: &super::Worker| worker.policy.drain_timeout + worker.policy.kill_timeout;
        let longest = self.workers.values().map(limit).max().unwrap_or_default();
        Health { phase, text: self.in_words(phase), ends_within: longest + Duration::from_secs(1) }
    }

    /// Whether the service can be relied on: no worker hangs of which nobody has taken the place.
    pub(crate) fn is_well(&self) -> bool {
        let serves = self.workers.values().any(|worker| worker.state == WorkerState::Serving);
        serves || !self.workers.values().any(|worker| worker.hung)
    }

    fn in_words(&self, phase: Phase) -> String {
        let mut text = match (phase, self.serving_generation()) {
            (Phase::Stopping, _) => "stopping".to_owned(),
            (_, Some(generation)) => format!("generation {generation} serves"),
            (_, None) => "starting".to_owned(),
        };
        let draining = |worker: &&super::Worker| worker.state == WorkerState::Draining;
        match self.workers.values().filter(draining).count() {
            0 => {}
            1 => text += ", one worker drains",
            several => text += &format!(", {several} workers drain"),
        }
        if let Some(transition) = &self.transition
            && self.current.is_some()
        {
            text += &match transition.committed_after {
                None => format!("; generation {} starts", transition.generation),
                Some(_) => format!(
                    "; it is on probation for {}",
                    seconds(transition.policy.confirm_window)
                ),
            };
        } else if let Some(reason) =
            self.restarts.front().and_then(|last| last.reason.as_ref().or(last.note.as_ref()))
        {
            text += &format!("; last restart: {reason}");
        } else if let Some(note) = &self.fallen_back {
            text += &format!("; {note}");
        }
        text
    }
}
