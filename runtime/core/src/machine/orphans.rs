//! Orphans: the workers of an earlier supervisor that this one has re-attached. They serve until the first
//! generation does, then drain, all by the same deadline.
//!
//! They are not children of this supervisor and have no part in its generations. The driver commands and kills
//! all of them together, and reports when the last one has ended.

use std::time::Duration;

use crate::Instant;

use super::timers::Timer;
use super::{Actions, Machine};
use crate::event::{Action, Generation};
use crate::json::{FromJson, ToJson};
use crate::policy::Policy;

/// The time between two attempts to kill orphans: a killed process is gone in milliseconds.
pub(super) const KILL_INTERVAL: Duration = Duration::from_secs(5);

/// The orphans that have not ended.
#[derive(Debug, Clone, ToJson, FromJson)]
pub(super) struct Orphans {
    /// Whether one of them must have ended before another worker begins.
    exclusive: bool,
    /// Whether they were commanded to drain.
    pub(super) draining: bool,
}

impl Machine {
    /// Begins with orphans, and numbers generations after `generation`, the latest one of theirs.
    pub fn with_orphans(mut self, generation: Generation, exclusive: bool) -> Machine {
        (self.last_generation, self.before) = (generation, generation);
        self.orphans = Some(Orphans { exclusive, draining: false });
        self
    }

    /// Has exclusive orphans drain before the first generation begins. Returns whether it has to wait for them.
    pub(super) fn waits_for_orphans(&mut self, now: Instant, out: &mut Actions) -> bool {
        let Some(orphans) = &self.orphans else { return false };
        let waits = orphans.exclusive || self.initial.exclusive;
        if waits && !orphans.draining {
            self.drain_orphans(now + self.initial.drain_timeout, true, false, out);
        }
        waits
    }

    /// Has the orphans hand off to the first generation that serves, and drain.
    pub(super) fn replace_orphans(&mut self, now: Instant, out: &mut Actions) {
        self.drain_orphans(now + self.serving_policy().drain_timeout, false, false, out);
    }

    /// Has the orphans drain because a stop was asked for.
    pub(super) fn stop_orphans(&mut self, at_once: bool, now: Instant, out: &mut Actions) {
        let deadline = if at_once { now } else { now + self.serving_policy().drain_timeout };
        self.drain_orphans(deadline, true, true, out);
    }

    fn drain_orphans(
        &mut self,
        deadline: Instant,
        last: bool,
        listeners_end: bool,
        out: &mut Actions,
    ) {
        let kill_at = deadline + self.serving_policy().kill_timeout;
        let Some(orphans) = &mut self.orphans else { return };
        orphans.draining = true;
        self.timers.set_by(Timer::Orphans, kill_at);
        out.push(Action::DrainOrphans { deadline, last, listeners_end });
    }

    /// Kills the orphans, whose time is over.
    pub(super) fn kill_orphans(&mut self, now: Instant, out: &mut Actions) {
        self.timers.set(Timer::Orphans, now + KILL_INTERVAL);
        out.push(Action::KillOrphans);
    }

    /// Handles the end of the last orphan: the first generation begins, if it had to wait for that.
    pub(super) fn orphans_gone(&mut self, now: Instant, out: &mut Actions) {
        self.timers.cancel(Timer::Orphans);
        if self.orphans.take().is_some_and(|orphans| orphans.draining) {
            self.begin(now, out);
        }
    }

    /// Returns the policy of the generation that serves.
    fn serving_policy(&self) -> Policy {
        match (self.life.transition(), &self.current) {
            (Some(transition), _) if transition.is_committed() => transition.policy,
            (_, Some(current)) => current.policy,
            (_, None) => self.initial,
        }
    }
}
