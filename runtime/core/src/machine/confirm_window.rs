//! The confirm window: what a committed generation says of itself before it is confirmed.

use crate::Instant;

use super::{Actions, Machine, log_of, seconds};
use crate::event::{Level, WorkerId};

impl Machine {
    /// The program says that it should not serve.
    pub(super) fn unhealthy(
        &mut self,
        id: WorkerId,
        reason: String,
        now: Instant,
        out: &mut Actions,
    ) {
        let Some(worker) = self.workers.get(&id) else { return };
        let generation = worker.generation;
        let text = format!("generation {generation} is unhealthy: {reason}");
        if self.life.transition().is_some_and(|t| t.worker == id) {
            self.failed(id, text, now, out);
        } else {
            // There is nothing to go back to; what is to be done is for others to decide.
            out.push(log_of(generation, Level::Warn, text));
        }
    }

    /// The program does not need the rest of the window.
    pub(super) fn confirm_early(&mut self, id: WorkerId, now: Instant, out: &mut Actions) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        worker.confirms = true;
        self.confirm_if_content(id, now, out);
    }

    /// A check of the program's own begins, or has passed.
    pub(super) fn check(&mut self, id: WorkerId, passed: bool, now: Instant, out: &mut Actions) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        if passed {
            worker.checks = worker.checks.saturating_sub(1);
            self.confirm_if_content(id, now, out);
        } else {
            worker.checks = worker.checks.saturating_add(1);
        }
    }

    fn confirm_if_content(&mut self, id: WorkerId, now: Instant, out: &mut Actions) {
        let committed = self.life.transition().is_some_and(|t| t.worker == id && t.is_committed());
        if committed && self.can_confirm_early(id) {
            self.confirm(now, out);
        }
    }

    /// The window is over: confirmed, unless a check has not passed.
    pub(super) fn end_confirm_window(&mut self, now: Instant, out: &mut Actions) {
        let Some(transition) = self.life.transition() else { return };
        let (id, window) = (transition.worker, transition.policy.confirm_window);
        let Some(worker) = self.workers.get(&id).filter(|worker| worker.checks > 0) else {
            self.confirm(now, out);
            return;
        };
        let reason = format!(
            "the confirm check of generation {} did not pass within {}; raise `confirm_window` if it \
             needs longer",
            worker.generation,
            seconds(window)
        );
        self.failed(id, reason, now, out);
    }
}
