//! The rules for confirmations, rollbacks and the path of the image, by a model of its own of which
//! generations were confirmed.

use super::super::exe::Exe;
use super::{Kept, LastCommand, Watch};
use crate::event::{Event, Generation, ImageSource, WorkerId};

impl Watch {
    /// Checks a change of the committed generation. Runs before the event's actions are checked, so that the
    /// model still has the workers as they were before the event.
    pub(super) fn check_known_good(
        &mut self,
        event: &Event,
        before: Option<&Kept>,
        transition: Option<WorkerId>,
    ) {
        let before = before.map(|kept| kept.generation);
        let after = self.machine.current.as_ref().map(|current| current.generation);
        if before == after {
            return;
        }
        let Some(new) = after else { self.fail("the committed generation is lost") };
        let Some(worker) = transition.and_then(|id| self.workers.get(&id)) else {
            self.fail(&format!("{new} is confirmed without a transition"))
        };
        holds!(self, worker.generation == new, "{new} is confirmed, and {worker:?} is on its way");
        holds!(self, worker.welcomed, "{new} is confirmed before it was welcome");
        holds!(
            self,
            worker.checks == 0 || worker.command == LastCommand::Start,
            "{new} has open checks"
        );
        holds!(self, !self.aborted.contains(&new), "{new} is confirmed after it was aborted");
        // The old worker that could be resumed. One that was paused before has to wait for the window; one
        // that served until this event is confirmed at its commit, which only a window of zero allows.
        let old = self.workers.values().find(|old| {
            Some(old.generation) == before
                && matches!(old.command, LastCommand::Quiesce | LastCommand::Accept)
        });
        let Some(old) = old.filter(|_| !self.exclusive()) else { return };
        let over = match old.command {
            LastCommand::Quiesce => old.limit <= self.now,
            _ => worker.policy.confirm_window.is_zero(),
        };
        let content = worker.content && worker.checks == 0;
        holds!(self, over || content, "{new} is confirmed too early by {event:?}");
    }

    /// Checks that the path of the image changes only with the committed generation.
    pub(super) fn check_exe(&self, event: &Event, before: &Exe, kept: Option<&Kept>) {
        let after = &self.machine.exe.confirmed;
        if *after == before.confirmed {
            return;
        }
        let committed = self.machine.current.as_ref().map(|current| current.generation);
        let same = kept.map(|kept| kept.generation) == committed;
        holds!(self, !same, "another path without another generation, by {event:?}");
        holds!(self, *after == before.trial, "{after:?} was not on trial: {before:?}");
    }

    /// Notes a transition that ended without a confirmation: it was aborted.
    pub(super) fn note_aborted(&mut self, transition: Option<WorkerId>) {
        if self.transition() == transition {
            return;
        }
        let Some(worker) = transition else { return };
        let generation = self.transitions.remove(&worker);
        let Some(generation) = generation else { return };
        if !self.confirmed.contains(&generation) {
            self.aborted.insert(generation);
        }
    }

    /// Checks that a worker may be started from this image.
    pub(super) fn check_source(&mut self, generation: Generation, source: ImageSource) {
        match source {
            ImageSource::Disk => drop(self.transitions.insert(self.last_worker, generation)),
            ImageSource::Pinned => {
                holds!(
                    self,
                    !self.aborted.contains(&generation) && self.confirmed.contains(&generation),
                    "a respawn of {generation}, which was never confirmed"
                );
                let newest = self.confirmed.last().copied();
                holds!(
                    self,
                    newest == Some(generation),
                    "a respawn of {generation}, not {newest:?}"
                );
            }
            ImageSource::KnownGood(good) => {
                let serving = self.confirmed.last().copied();
                holds!(self, self.confirmed.contains(&good), "{good} was never confirmed");
                holds!(
                    self,
                    serving.is_some_and(|serving| serving > good),
                    "back to {good}, which is not before {serving:?}"
                );
                let again = serving.is_some_and(|serving| self.from_good.contains(&serving));
                holds!(self, !again, "back from {serving:?}, which was gone back to itself");
                self.from_good.insert(generation);
                self.transitions.insert(self.last_worker, generation);
            }
        }
    }

    /// Checks that a transition has only one *resume*.
    pub(super) fn check_resume(&mut self) {
        let generation = self.last_generation;
        holds!(self, self.resumed != Some(generation), "a second resume in one transition");
        self.resumed = Some(generation);
    }
}
