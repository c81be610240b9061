//! The health of the daemon, as shown to its service manager and to probes.

use std::time::Duration;

use super::worker::WorkerState;
use super::{Machine, State, seconds};
use crate::event::Generation;
use crate::health::{Health, ServicePhase};
use crate::health::{Probe, ProbeResult};

/// The answer to the readiness probe in the lame-duck phase.
pub(super) const LAME_DUCK: ProbeResult =
    ProbeResult::fails("the daemon is about to stop (lame duck)");

/// The answer to the readiness probe after it.
pub(super) const STOPPING: ProbeResult = ProbeResult::fails("the daemon is stopping");

impl Machine {
    pub fn health(&self) -> Health {
        let phase = match self.state() {
            State::Stopping | State::LameDuck => ServicePhase::Stopping,
            State::Starting => ServicePhase::Starting,
            State::Running if self.life.changes() => ServicePhase::Reloading,
            State::Running => ServicePhase::Running,
        };
        let limit =
            |worker: &super::Worker| worker.policy.drain_timeout + worker.policy.kill_timeout;
        let longest = self.workers.values().map(limit).max().unwrap_or_default();
        let ends_within = self.lame_duck_length() + longest + Duration::from_secs(1);
        let reload = self.life.transition().map(|transition| transition.generation);
        Health { phase, text: self.in_words(phase), reload, ends_within }
    }

    /// Returns whether the service manager's watchdog may be answered: some worker serves, or at least none
    /// hangs.
    pub fn is_healthy(&self) -> bool {
        let serves = self.workers.values().any(|worker| worker.state == WorkerState::Serving);
        serves || !self.workers.values().any(|worker| worker.hung)
    }

    /// Answers a probe: whether it passes, and why.
    pub fn probe(&self, probe: Probe) -> ProbeResult {
        let serves = self.workers.values().any(|worker| worker.state == WorkerState::Serving);
        match probe {
            Probe::Live if self.is_healthy() => ProbeResult::passes("the supervisor responds"),
            Probe::Live => ProbeResult::fails("the worker does not respond to its watchdog"),
            Probe::Startup if self.serving_generation().is_some() => {
                ProbeResult::passes("a generation has been ready")
            }
            Probe::Startup => ProbeResult::fails("no generation has been ready yet"),
            Probe::Ready if !self.life.is_active() => STOPPING,
            Probe::Ready if self.life.lame_duck().is_some() => LAME_DUCK,
            Probe::Ready if serves => ProbeResult::passes("a generation is serving"),
            Probe::Ready => ProbeResult::fails("no worker is serving"),
        }
    }

    /// Returns the committed generation and the one in transition.
    pub fn live_generations(&self) -> impl Iterator<Item = Generation> {
        let current = self.current.as_ref().map(|current| current.generation);
        let next = self.life.transition().map(|transition| transition.generation);
        current.into_iter().chain(next)
    }

    /// Returns the status text for the service manager.
    fn in_words(&self, phase: ServicePhase) -> String {
        let mut text = match (phase, self.serving_generation()) {
            (ServicePhase::Stopping, Some(generation)) if self.life.lame_duck().is_some() => {
                format!("lame duck: generation {generation} is still accepting")
            }
            (ServicePhase::Stopping, _) => "stopping".to_owned(),
            (_, Some(generation)) => format!("generation {generation} serves"),
            (_, None) => "starting".to_owned(),
        };
        let draining = |worker: &&super::Worker| worker.state == WorkerState::Draining;
        match self.workers.values().filter(draining).count() {
            0 => {}
            1 => text += ", 1 worker draining",
            several => text += &format!(", {several} workers draining"),
        }
        if let Some(transition) = self.life.transition()
            && self.current.is_some()
        {
            text += &match transition.committed_after {
                None => format!("; generation {} is starting", transition.generation),
                Some(_) => format!(
                    "; it is in its confirm window of {}",
                    seconds(transition.policy.confirm_window)
                ),
            };
        } else if let Some(reason) =
            self.restarts.front().and_then(|last| last.reason.as_ref().or(last.note.as_ref()))
        {
            text += &format!("; last restart: {reason}");
        } else if let Some(note) = &self.rolled_back {
            text += &format!("; {note}");
        }
        text
    }
}
