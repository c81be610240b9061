//! The rollback of a confirmed generation that used up its start limit.
//!
//! The known-good image that it replaced runs again, as a new generation. That happens once: if this
//! generation uses up its start limit too, the daemon ends. `status` and the next restart report why the
//! image that runs is not the one that was asked for.

use crate::Instant;

use super::timers::Timer;
use super::{Actions, Machine, log_of};
use crate::event::{Action, ImageSource, Level};

impl Machine {
    /// Returns whether the start limit of the committed generation is used up.
    pub(super) fn start_limit_reached(&self) -> bool {
        self.current.as_ref().is_some_and(|current| current.exhausted.is_some())
    }

    /// Rolls back to the known-good image if the start limit is used up, or stops the daemon if there is
    /// none.
    pub(super) fn roll_back(&mut self, now: Instant, out: &mut Actions) {
        let Some(current) = self.current.as_mut() else { return };
        let Some((code, reason)) = current.exhausted.clone() else { return };
        if !self.life.is_active() {
            return;
        }
        let Some(good) = current.rollback_to.take() else {
            self.shut_down(code, reason, now, out);
            return;
        };
        self.timers.cancel(Timer::Respawn);
        let generation = self.begin_generation(ImageSource::KnownGood(good), Vec::new(), now, out);
        let text = format!(
            "rolled back to the known-good image of generation {good}, now generation \
             {generation}, because {reason}; the image on disk is not the one that runs"
        );
        out.push(log_of(generation, Level::Error, text.clone()));
        out.push(Action::Progress { text: text.clone() });
        self.rolled_back = Some(text);
    }
}
