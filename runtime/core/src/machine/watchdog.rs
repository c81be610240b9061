//! The watchdog: a worker whose runtime does not answer a *ping* in time is replaced.

use std::time::Duration;

use crate::Instant;

use super::timers::{Timer, Timers};
use super::worker::{Worker, WorkerState, drain, kill};
use super::{Actions, Machine, log_of, seconds};
use crate::Exit;
use crate::event::{Action, Level, WorkerCommand, WorkerId};

/// Returns the pause between an answer and the next *ping*: half the time that an answer may take.
fn interval(watchdog: Duration) -> Duration {
    watchdog / 2
}

/// Schedules the next *ping* to a worker, if its policy has a watchdog.
pub(super) fn begin(id: WorkerId, worker: &Worker, now: Instant, timers: &mut Timers) {
    if let Some(limit) = worker.policy.watchdog {
        timers.set(Timer::Ping(id), now + interval(limit));
    }
}

/// No longer.
pub(super) fn end(id: WorkerId, timers: &mut Timers) {
    timers.cancel(Timer::Ping(id));
    timers.cancel(Timer::Pong(id));
}

impl Machine {
    /// Handles the answer to a *ping*.
    pub(super) fn pong(&mut self, id: WorkerId, now: Instant) {
        if let Some(worker) = self.workers.get(&id)
            && self.timers.cancel(Timer::Pong(id))
        {
            begin(id, worker, now, &mut self.timers);
        }
    }

    /// Asks.
    pub(super) fn ping(&mut self, id: WorkerId, now: Instant, out: &mut Actions) {
        self.timers.cancel(Timer::Ping(id));
        let limit = self.workers.get(&id).and_then(|worker| worker.policy.watchdog);
        if let Some(limit) = limit {
            self.timers.set(Timer::Pong(id), now + limit);
            out.push(Action::SendToWorker { worker: id, command: WorkerCommand::Ping });
        }
    }

    /// Despairs of the answer.
    pub(super) fn hung(&mut self, id: WorkerId, now: Instant, out: &mut Actions) {
        self.timers.cancel(Timer::Pong(id));
        let Some(worker) = self.workers.get_mut(&id) else { return };
        let limit = worker.policy.watchdog.unwrap_or_default();
        let what = format!(
            "the worker of generation {} has not responded to its watchdog for {}",
            worker.generation,
            seconds(limit)
        );
        out.push(log_of(worker.generation, Level::Error, what.clone()));
        out.push(Action::DumpThreads { worker: id });
        if self.life.transition().is_some_and(|t| t.worker == id) {
            self.failed(id, what, now, out);
            return;
        }
        let Some(current) = self.current.as_mut().filter(|c| c.worker == Some(id)) else { return };
        let undecided = worker.state == WorkerState::Paused;
        // It keeps its connections until the next worker serves: should it wake up, it finishes them.
        worker.hung = true;
        worker.failure.get_or_insert(what.clone());
        if worker.policy.exclusive {
            kill(id, worker, &mut self.timers, out);
        } else {
            drain(id, worker, now + worker.policy.drain_timeout, &mut self.timers, out);
        }
        current.worker = None;
        // In a confirm window a newer generation serves: only an abort needs a respawn.
        if self.life.is_active() && !undecided {
            self.crashed(&what, Exit::Signal(9), now, out);
        }
        self.force_excess(now, out);
    }

    /// Kills the workers that still hang, now that another one serves.
    pub(super) fn kill_hung(&mut self, out: &mut Actions) {
        for (&id, worker) in &mut self.workers {
            if worker.hung && worker.state != WorkerState::Killed {
                kill(id, worker, &mut self.timers, out);
            }
        }
    }
}
