//! Programs of which no two may run beside each other: the old worker is gone before the new one's `main`
//! begins, and connections wait in the kernel meanwhile.

use crate::Instant;

use super::timers::Timer;
use super::worker::{WorkerState, drain};
use super::{Actions, Machine, log_of};
use crate::event::{Action, Level, WorkerCommand, WorkerId};

impl Machine {
    /// The newcomer has introduced itself: if it has to wait for the old worker's end, that one drains.
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
                    // Nobody takes its connections over: it must not wait for idle ones.
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
        let text = "the old generation drains before the new one begins";
        out.push(Action::Progress { text: text.into() });
        // As long as the old one takes: that is limited.
        if let Some(worker) = self.workers.get_mut(&id) {
            self.timers.cancel(Timer::Deadline(id));
            worker.deferred = true;
        }
        true
    }

    /// Somebody has ended: whoever waited for that goes on.
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

    /// The old generation begins again once nobody else is there.
    pub(super) fn respawn_if_alone(&mut self, now: Instant, out: &mut Actions) {
        if !self.life.is_active() || self.life.transition().is_some() || !self.workers.is_empty() {
            return;
        }
        if let Some(current) = self.current.as_mut().filter(|current| current.respawn_when_alone) {
            current.respawn_when_alone = false;
            let generation = current.generation;
            let text = format!("generation {generation} begins again");
            out.push(log_of(generation, Level::Warn, text));
            self.respawn(now, out);
        }
    }

    fn is_alone(&self, id: WorkerId) -> bool {
        self.workers.keys().all(|other| *other == id)
    }
}
