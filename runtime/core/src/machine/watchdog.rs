//! The watchdog: a worker whose runtime does not answer a *ping* in time is replaced.

use std::time::Duration;

use crate::Instant;

use super::worker::{Worker, WorkerState, drain, kill};
use super::{Actions, Machine, log_of, seconds};
use crate::Exit;
use crate::event::{Action, Level, WorkerCommand, WorkerId};
use crate::json::{FromJson, ToJson};

/// The watchdog of one worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ToJson, FromJson)]
pub(super) enum WatchdogTimer {
    /// The time of the next *ping*.
    Next(Instant),
    /// A *ping* was sent and must be answered by this time.
    Asked(Instant),
}

impl WatchdogTimer {
    /// Returns when the watchdog needs attention.
    pub(super) fn due(self) -> Instant {
        match self {
            WatchdogTimer::Next(at) | WatchdogTimer::Asked(at) => at,
        }
    }
}

/// Returns the pause between an answer and the next *ping*: half the time that an answer may take.
fn interval(watchdog: Duration) -> Duration {
    watchdog / 2
}

/// Schedules the next *ping* to a worker, if its policy has a watchdog.
pub(super) fn begin(worker: &mut Worker, now: Instant) {
    worker.watch = worker.policy.watchdog.map(|limit| WatchdogTimer::Next(now + interval(limit)));
}

impl Machine {
    /// Handles the answer to a *ping*.
    pub(super) fn pong(&mut self, id: WorkerId, now: Instant) {
        if let Some(worker) = self.workers.get_mut(&id)
            && let Some(WatchdogTimer::Asked(_)) = worker.watch
        {
            begin(worker, now);
        }
    }

    /// Sends the *ping* that is due, or declares a worker hung that did not answer.
    pub(super) fn tick_watch(&mut self, id: WorkerId, now: Instant, out: &mut Actions) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        if !matches!(worker.state, WorkerState::Serving | WorkerState::Paused) {
            worker.watch = None;
            return;
        }
        let (Some(watch), Some(limit)) = (worker.watch, worker.policy.watchdog) else { return };
        if watch.due() > now {
            return;
        }
        match watch {
            WatchdogTimer::Next(_) => {
                worker.watch = Some(WatchdogTimer::Asked(now + limit));
                out.push(Action::SendToWorker { worker: id, command: WorkerCommand::Ping });
            }
            WatchdogTimer::Asked(_) => self.hung(id, limit, now, out),
        }
    }

    /// Handles a hung worker: aborts the restart if it is the new one; else drains it and has it replaced,
    /// which counts as a crash.
    fn hung(&mut self, id: WorkerId, limit: Duration, now: Instant, out: &mut Actions) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        worker.watch = None;
        let what = format!(
            "the worker of generation {} has not responded to its watchdog for {}",
            worker.generation,
            seconds(limit)
        );
        out.push(log_of(worker.generation, Level::Error, what.clone()));
        out.push(Action::DumpThreads { worker: id });
        if self.transition.as_ref().is_some_and(|t| t.worker == id) {
            self.failed(id, what, now, out);
            return;
        }
        let Some(current) = self.current.as_mut().filter(|c| c.worker == Some(id)) else { return };
        let undecided = worker.state == WorkerState::Paused;
        // It keeps its connections until the next worker serves: should it wake up, it finishes them.
        worker.hung = true;
        worker.failure.get_or_insert(what.clone());
        if worker.policy.exclusive {
            kill(id, worker, out);
        } else {
            drain(id, worker, now + worker.policy.drain_timeout, out);
        }
        current.worker = None;
        // In a confirm window a newer generation serves: only an abort needs a respawn.
        if self.stopping.is_none() && !undecided {
            self.crashed(&what, Exit::Signal(9), now, out);
        }
        self.force_excess(now, out);
    }

    /// Kills the workers that still hang, now that another one serves.
    pub(super) fn kill_hung(&mut self, out: &mut Actions) {
        for (&id, worker) in &mut self.workers {
            if worker.hung && worker.state != WorkerState::Killed {
                kill(id, worker, out);
            }
        }
    }
}
