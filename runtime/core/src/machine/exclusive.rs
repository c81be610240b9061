//! Exclusive programs, of which no two workers may run at once.
//!
//! The old worker drains and ends before the new one gets its *welcome*, and so before the `main` of the
//! new one begins. Until then, new connections wait in the kernel. An aborted restart cannot resume the old
//! worker: the old generation is respawned.

use crate::Instant;

use super::timers::Timer;
use super::worker::{WorkerState, drain};
use super::{Actions, Machine, log_of};
use crate::event::{Action, Level, WorkerCommand, WorkerId};

impl Machine {
    /// Handles the *hello* of a new worker in an exclusive transition: makes the old worker drain, and
    /// returns whether the *welcome* has to wait for its end.
    pub(super) fn defer_start(&mut self, id: WorkerId, now: Instant, out: &mut Actions) -> bool {
        let (Some(current), Some(transition)) = (&mut self.current, self.life.transition_mut())
        else {
            return false;
        };
        if !current.policy.exclusive && !transition.policy.exclusive {
            return false;
        }
        transition.exclusive = true;
        self.timers.cancel(Timer::Respawn);
        if let Some(old) = current.worker.and_then(|id| self.workers.get_mut(&id).map(|w| (id, w)))
        {
            let (old, worker) = old;
            match worker.state {
                WorkerState::Serving | WorkerState::Paused => {
                    // Sets `last` in its *drain*: no worker takes over its idle connections, so it must not
                    // wait for them.
                    worker.policy.exclusive = true;
                    out.push(Action::SendToWorker { worker: old, command: WorkerCommand::Quiesce });
                    drain(old, worker, now + worker.policy.drain_timeout, &mut self.timers, out);
                }
                WorkerState::Starting => super::worker::kill(old, worker, &mut self.timers, out),
                WorkerState::Draining | WorkerState::Killed => {}
            }
        }
        if self.is_alone(id) {
            return false;
        }
        let text = "the old generation drains before the new one starts";
        out.push(Action::Progress { text: text.into() });
        // No deadline until the old worker has ended, which its own drain deadline limits.
        if let Some(worker) = self.workers.get_mut(&id) {
            self.timers.cancel(Timer::Deadline(id));
            worker.deferred = true;
        }
        true
    }

    /// Continues, after the end of a worker, what waited for it: a deferred *welcome* or a respawn.
    pub(super) fn start_deferred(&mut self, now: Instant, out: &mut Actions) {
        if let Some(id) = self.life.transition().map(|transition| transition.worker)
            && self.is_alone(id)
            && let Some(worker) = self.workers.get_mut(&id).filter(|worker| worker.deferred)
        {
            worker.deferred = false;
            self.timers.set(Timer::Deadline(id), now + worker.policy.ready_timeout);
            out.push(Action::Welcome { worker: id });
        }
        self.respawn_if_alone(now, out);
    }

    /// Respawns the committed generation if it waits for that and no worker is left.
    pub(super) fn respawn_if_alone(&mut self, now: Instant, out: &mut Actions) {
        if !self.life.is_active() || self.life.transition().is_some() || !self.workers.is_empty() {
            return;
        }
        if let Some(current) = self.current.as_mut().filter(|current| current.respawn_when_alone) {
            current.respawn_when_alone = false;
            let generation = current.generation;
            let text = format!("generation {generation} starts again");
            out.push(log_of(generation, Level::Warn, text));
            self.respawn(now, out);
        }
    }

    /// Returns whether no other worker is left.
    fn is_alone(&self, id: WorkerId) -> bool {
        self.workers.keys().all(|other| *other == id)
    }
}
