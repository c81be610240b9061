//! A generation that was confirmed and then used up its start limit: once, the image before it is tried
//! again, and whoever looks is told.

use crate::Instant;

use super::timers::Timer;
use super::{Actions, Machine, log_of};
use crate::event::{Action, ImageSource, Level};

impl Machine {
    /// Whether the start limit of the committed generation is used up.
    pub(super) fn start_limit_reached(&self) -> bool {
        self.current.as_ref().is_some_and(|current| current.exhausted.is_some())
    }

    /// The start limit is used up: goes back to the known-good image before, or gives up.
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
            "generation {generation} is the image of generation {good} again, as {reason}; what is on \
             disk is not what runs"
        );
        out.push(log_of(generation, Level::Error, text.clone()));
        out.push(Action::Progress { text: text.clone() });
        self.rolled_back = Some(text);
    }
}
