//! The watchdog: a serving worker whose runtime does not answer is replaced.

use std::time::Duration;

use crate::Instant;

use super::worker::{Worker, WorkerState, drain, kill};
use super::{Actions, Machine, log_of, seconds};
use crate::Exit;
use crate::event::{Action, Level, WorkerCommand, WorkerId};
use crate::json::{FromJson, ToJson};

/// How a worker is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ToJson, FromJson)]
pub(super) enum WatchdogTimer {
    /// To be asked then.
    Next(Instant),
    /// Asked, and to answer by then.
    Asked(Instant),
}

impl WatchdogTimer {
    pub(super) fn due(self) -> Instant {
        match self {
            WatchdogTimer::Next(at) | WatchdogTimer::Asked(at) => at,
        }
    }
}

/// Questions come twice in the time that an answer may take.
fn interval(watchdog: Duration) -> Duration {
    watchdog / 2
}

/// From here on, if its policy says so.
pub(super) fn begin(worker: &mut Worker, now: Instant) {
    worker.watch = worker.policy.watchdog.map(|limit| WatchdogTimer::Next(now + interval(limit)));
}

impl Machine {
    /// The runtime runs.
    pub(super) fn pong(&mut self, id: WorkerId, now: Instant) {
        if let Some(worker) = self.workers.get_mut(&id)
            && let Some(WatchdogTimer::Asked(_)) = worker.watch
        {
            begin(worker, now);
        }
    }

    /// Asks, or despairs of the answer.
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
        // It keeps what it has until its successor serves: should it wake up, it finishes that.
        worker.hung = true;
        worker.failure.get_or_insert(what.clone());
        if worker.policy.exclusive {
            kill(id, worker, out);
        } else {
            drain(id, worker, now + worker.policy.drain_timeout, out);
        }
        current.worker = None;
        // While a newer generation serves on probation, nobody needs a respawn yet.
        if self.stopping.is_none() && !undecided {
            self.crashed(&what, Exit::Signal(9), now, out);
        }
        self.force_excess(now, out);
    }

    /// Its successor serves: what still hangs will not wake up.
    pub(super) fn kill_hung(&mut self, out: &mut Actions) {
        for (&id, worker) in &mut self.workers {
            if worker.hung && worker.state != WorkerState::Killed {
                kill(id, worker, out);
            }
        }
    }
}
