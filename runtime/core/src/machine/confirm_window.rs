//! The confirm window: what the program reports about itself between the commit and the confirmation.

use crate::Instant;

use super::{Actions, Machine, log_of, seconds};
use crate::event::{Level, WorkerId};

impl Machine {
    /// Handles a program that reports itself unhealthy: aborts the restart, or only logs it where none is in
    /// progress.
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
            // The old generation can no longer be resumed. Another worker of the same image would hardly be
            // healthier, so that the operator has to decide.
            out.push(log_of(generation, Level::Warn, text));
        }
    }

    /// Handles a program that asks to be confirmed before the window is over.
    pub(super) fn confirm_early(&mut self, id: WorkerId, now: Instant, out: &mut Actions) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        worker.confirms = true;
        self.confirm_if_content(id, now, out);
    }

    /// Counts a health check of the program that begins or has passed.
    pub(super) fn check(&mut self, id: WorkerId, passed: bool, now: Instant, out: &mut Actions) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        if passed {
            worker.checks = worker.checks.saturating_sub(1);
            self.confirm_if_content(id, now, out);
        } else {
            worker.checks = worker.checks.saturating_add(1);
        }
    }

    /// Confirms the transition if its worker asked for that and has passed its checks.
    fn confirm_if_content(&mut self, id: WorkerId, now: Instant, out: &mut Actions) {
        let committed = self.life.transition().is_some_and(|t| t.worker == id && t.is_committed());
        if committed && self.can_confirm_early(id) {
            self.confirm(now, out);
        }
    }

    /// Handles the end of the window: confirms the transition, or aborts it if a check has not passed.
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
