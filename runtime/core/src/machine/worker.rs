//! Single workers: from *spawn* over their deadlines to their end.

use std::time::Duration;

use crate::Instant;

use crate::json::{FromJson, ToJson};

use super::timers::{Timer, Timers};
use super::watchdog;
use super::{Actions, Machine, log_of, refuse, seconds, why};
use crate::Ledger;
use crate::event::{Action, Generation, ImageSource, Level, WorkerCommand, WorkerId};
use crate::exit::{Exit, SIGTERM};
use crate::policy::Policy;

/// The most generations that drain at the same time; past that the oldest is forced. Each holds its
/// memory and descriptors for up to `drain_timeout`, and restarts in a loop must not add up.
pub(super) const MAX_DRAINING: usize = 8;

/// How long a process may outlive its link before it is killed. It is exiting, or can no longer be
/// controlled.
pub(super) const LINK_GRACE: Duration = Duration::from_secs(1);

/// A worker whose process is not reaped yet.
#[derive(Debug, Clone, ToJson, FromJson)]
pub(super) struct Worker {
    /// The generation that it belongs to.
    pub(super) generation: Generation,
    /// What it is doing.
    pub(super) state: WorkerState,
    /// When it was spawned.
    pub(super) spawned: Instant,
    /// Whether its *hello* arrived.
    pub(super) said_hello: bool,
    /// The policy of its generation; in a transition, until its *hello*, that of the generation before.
    pub(super) policy: Policy,
    /// Why it fails: as it reported itself, or as the supervisor found out.
    pub(super) failure: Option<String>,
    /// What it has not done yet to be ready, for the message about `ready_timeout`.
    pub(super) missing: Option<String>,
    /// Whether it asked to be confirmed before the confirm window is over.
    pub(super) confirms: bool,
    /// The number of its health checks that began and have not passed.
    pub(super) checks: u32,
    /// Whether its *welcome* waits until the old worker has ended.
    pub(super) deferred: bool,
    /// Whether it did not answer its watchdog.
    pub(super) hung: bool,
}

/// The state of a worker, according to the last command sent to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ToJson, FromJson)]
pub enum WorkerState {
    Starting,
    /// It accepts connections.
    Serving,
    /// It does not accept, and can resume.
    Paused,
    /// It finishes what is in flight and then exits.
    Draining,
    /// It was sent SIGKILL and is not reaped yet.
    Killed,
}

impl WorkerState {
    pub fn as_str(self) -> &'static str {
        match self {
            WorkerState::Starting => "starting",
            WorkerState::Serving => "serving",
            WorkerState::Paused => "paused",
            WorkerState::Draining => "draining",
            WorkerState::Killed => "stopping",
        }
    }
}

impl Machine {
    /// Adds a starting worker and has its process spawned.
    pub(super) fn spawn(
        &mut self,
        generation: Generation,
        source: ImageSource,
        policy: Policy,
        now: Instant,
        out: &mut Actions,
    ) -> WorkerId {
        self.last_worker += 1;
        let id = self.last_worker;
        self.workers.insert(
            id,
            Worker {
                generation,
                state: WorkerState::Starting,
                spawned: now,
                said_hello: false,
                policy,
                failure: None,
                missing: None,
                confirms: false,
                checks: 0,
                deferred: false,
                hung: false,
            },
        );
        self.timers.set(Timer::Deadline(id), now + policy.ready_timeout);
        out.push(Action::Spawn { worker: id, generation, source });
        id
    }

    /// Returns whether its generation may be confirmed before the confirm window is over.
    pub(super) fn can_confirm_early(&self, id: WorkerId) -> bool {
        let content = |worker: &Worker| worker.confirms && worker.checks == 0;
        self.workers.get(&id).is_some_and(content) && !self.timers.is_set(Timer::Kill(id))
    }

    /// Handles a *hello* that is unacceptable.
    pub(super) fn hello_rejected(
        &mut self,
        id: WorkerId,
        reason: String,
        now: Instant,
        out: &mut Actions,
    ) {
        if self.workers.get(&id).is_some_and(|worker| worker.state == WorkerState::Starting) {
            self.failed(id, reason, now, out);
        }
    }

    /// Ends a worker that must not go on, and aborts the transition if it is the new one.
    pub(super) fn failed(&mut self, id: WorkerId, reason: String, now: Instant, out: &mut Actions) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        worker.failure = Some(reason.clone());
        if self.life.transition().is_some_and(|t| t.worker == id) {
            self.abort(&reason, now, out);
        } else {
            kill(id, worker, &mut self.timers, out);
        }
    }

    /// Handles the loss of a worker's link: the worker is killed after [`LINK_GRACE`].
    pub(super) fn link_lost(&mut self, id: WorkerId, reason: String, now: Instant) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        if worker.state == WorkerState::Killed {
            return;
        }
        worker.failure.get_or_insert(reason);
        let limit = now + LINK_GRACE;
        self.timers.set_by(Timer::Kill(id), limit);
        if self.life.transition().is_some_and(|t| t.worker == id)
            && let Some(confirm_at) = self.timers.get(Timer::Confirm)
        {
            // The worker may be dead: it is not confirmed before that is known.
            self.timers.set(Timer::Confirm, limit.max(confirm_at));
        }
    }

    /// Handles the end of a worker's process.
    pub(super) fn ended(
        &mut self,
        id: WorkerId,
        exit: Exit,
        ledger: Ledger,
        now: Instant,
        out: &mut Actions,
    ) {
        let Some(worker) = self.workers.remove(&id) else { return };
        self.timers.forget(id);
        self.add_to_ledger(worker.generation, ledger);
        self.log_worker_end(&worker, exit, &ledger, out);
        if self.life.transition().is_some_and(|t| t.worker == id) {
            let generation = worker.generation;
            let ended = format!("the worker of generation {generation} {exit}");
            let when = match worker.state {
                WorkerState::Starting => "before it was ready",
                _ => "before it was confirmed",
            };
            let well =
                exit.success() && worker.said_hello && worker.failure.is_none() && ledger.lost == 0;
            let reason = match worker.failure {
                Some(failure) => failure,
                None => format!("{ended} {when}"),
            };
            if self.current.is_none() && self.life.is_active() {
                // The first start failed: the daemon exits with the worker's code, or 1 if that was 0. A program
                // that ended well, with nothing to serve, has not failed in the foreground; `start` reports
                // it as a failure all the same.
                self.end_transition();
                self.retire_if_unused(generation, now, out);
                for waiter in self.life.take_pending() {
                    refuse(waiter.client, &reason, out);
                }
                let code = if well { exit.shell_code() } else { exit.shell_code().max(1) };
                self.shut_down(code, reason, now, out);
                return;
            }
            self.abort(&reason, now, out);
            return;
        }
        if self.current.as_ref().is_some_and(|c| c.worker == Some(id)) {
            self.current_ended(&worker.failure, worker.state, exit, now, out);
        }
        self.retire_if_unused(worker.generation, now, out);
        self.start_deferred(now, out);
    }

    /// Logs what a worker's end cost: connections that were lost or forced, and an unexpected exit.
    fn log_worker_end(&mut self, worker: &Worker, exit: Exit, ledger: &Ledger, out: &mut Actions) {
        let generation = worker.generation;
        if ledger.lost > 0 {
            let (lost, were) = match ledger.lost {
                1 => ("1 connection".to_owned(), "was"),
                many => (format!("{many} connections"), "were"),
            };
            let text =
                format!("{lost} {were} lost with a worker of generation {generation} that {exit}");
            out.push(log_of(generation, Level::Warn, text));
        }
        if let Some(forced) = ledger.forced() {
            let text =
                format!("generation {generation} was forced at its drain deadline: {forced}");
            out.push(log_of(generation, Level::Warn, text));
        }
        // A program that does not handle drains ends by the SIGTERM at its drain deadline.
        let asked = exit.success() || exit == Exit::Signal(SIGTERM);
        if worker.state == WorkerState::Draining && !asked {
            let why = why(worker.failure.as_ref());
            let text = format!("generation {generation} {exit} while draining{why}");
            self.warn(generation, text, out);
        }
    }

    /// Sets the drain deadline of the oldest draining workers to now, so that [`MAX_DRAINING`] are left.
    pub(super) fn force_excess(&mut self, now: Instant, out: &mut Actions) {
        let draining: Vec<WorkerId> = self
            .workers
            .iter()
            .filter(|(_, worker)| worker.state == WorkerState::Draining)
            .map(|(id, _)| *id)
            .collect();
        let excess = draining.len().saturating_sub(MAX_DRAINING);
        for id in draining.into_iter().take(excess) {
            if let Some(worker) = self.workers.get_mut(&id)
                && self.timers.get(Timer::Deadline(id)).is_some_and(|deadline| deadline > now)
            {
                out.push(log_of(
                    worker.generation,
                    Level::Warn,
                    format!(
                        "more than {MAX_DRAINING} workers are draining; forcing the one of \
                         generation {}",
                        worker.generation
                    ),
                ));
                drain(id, worker, now, &mut self.timers, out);
            }
        }
    }

    /// It had to be gone by now.
    pub(super) fn end_of_grace(&mut self, id: WorkerId, now: Instant, out: &mut Actions) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        if worker.state == WorkerState::Draining && worker.failure.is_none() {
            let text = format!(
                "killing the worker of generation {}, which did not exit by its drain deadline",
                worker.generation
            );
            out.push(log_of(worker.generation, Level::Warn, text));
        }
        let reason = worker.failure.clone().unwrap_or_default();
        self.failed(id, reason, now, out);
    }

    /// It had to be ready, or to have drained, by now.
    pub(super) fn end_of_state(&mut self, id: WorkerId, now: Instant, out: &mut Actions) {
        self.timers.cancel(Timer::Deadline(id));
        let Some(worker) = self.workers.get_mut(&id) else { return };
        match worker.state {
            WorkerState::Starting => {
                let missing =
                    worker.missing.take().map_or(String::new(), |what| format!(": {what}"));
                let reason = format!(
                    "the worker of generation {} was not ready within {}{missing}; \
                     raise `ready_timeout` if it needs longer",
                    worker.generation,
                    seconds(worker.policy.ready_timeout)
                );
                self.failed(id, reason, now, out);
            }
            WorkerState::Draining => {
                out.push(Action::Terminate { worker: id });
                let limit = now + worker.policy.kill_timeout;
                self.timers.set_by(Timer::Kill(id), limit);
            }
            WorkerState::Serving | WorkerState::Paused | WorkerState::Killed => {}
        }
    }
}

/// It accepts from now on, and has time without limit, but for its watchdog.
pub(super) fn serve(id: WorkerId, worker: &mut Worker, now: Instant, timers: &mut Timers) {
    worker.state = WorkerState::Serving;
    timers.cancel(Timer::Deadline(id));
    watchdog::begin(id, worker, now, timers);
}

/// Commands a worker to drain until `deadline`.
pub(super) fn drain(
    id: WorkerId,
    worker: &mut Worker,
    deadline: Instant,
    timers: &mut Timers,
    out: &mut Actions,
) {
    worker.state = WorkerState::Draining;
    watchdog::end(id, timers);
    timers.set(Timer::Deadline(id), deadline);
    let last = worker.policy.exclusive;
    let command = WorkerCommand::Drain { deadline, last, listeners_end: false };
    out.push(Action::SendToWorker { worker: id, command });
}

/// Sends SIGKILL to a worker.
pub(super) fn kill(id: WorkerId, worker: &mut Worker, timers: &mut Timers, out: &mut Actions) {
    timers.forget(id);
    worker.state = WorkerState::Killed;
    out.push(Action::Kill { worker: id });
}
