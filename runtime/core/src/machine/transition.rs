//! The transition to a new generation.
//!
//! A restart goes through these steps: [`begin_generation`](Machine::begin_generation) spawns the worker,
//! [`hello`](Machine::hello) welcomes it, [`ready`](Machine::ready) leads to [`commit`](Machine::commit), and
//! the confirm window ends with [`confirm`](Machine::confirm). At each step before that,
//! [`abort`](Machine::abort) returns to the old generation. The first start and a rollback take the same way.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::Duration;

use crate::Instant;

use super::committed::CommittedGeneration;
use super::timers::Timer;
use super::worker::{WorkerState, drain, kill, serve};
use super::{Actions, Machine, answer, log, log_of, refuse, seconds};
use crate::event::{
    Action, ClientAnswer, ClientId, Generation, ImageSource, Level, RestartReport, WorkerCommand,
    WorkerId,
};
use crate::json::{FromJson, ToJson};
use crate::policy::Policy;

/// A new generation from its request until it is confirmed or aborted.
#[derive(Debug, Clone, ToJson, FromJson)]
pub(super) struct Transition {
    /// The new generation.
    pub(super) generation: Generation,
    /// The policy of the old generation until the new worker's *hello*, then its own.
    pub(super) policy: Policy,
    /// The only worker of the new generation. If it ends, the transition is aborted.
    pub(super) worker: WorkerId,
    /// When the transition began.
    pub(super) since: Instant,
    /// The requests that this transition serves.
    pub(super) waiters: Vec<Waiter>,
    /// Whether the old worker had to end before the new one got its *welcome*.
    pub(super) exclusive: bool,
    /// Whether the image is the one on disk; `false` for a rollback to a known-good image.
    pub(super) from_disk: bool,
    /// The time from the request to the commit.
    pub(super) committed_after: Option<Duration>,
    /// Unexpected ends of workers of the old and the new generation during the transition.
    #[json(default)]
    pub(super) warnings: Vec<String>,
}

/// A request for a restart.
#[derive(Debug, Clone, Copy, ToJson, FromJson)]
pub(super) struct Waiter {
    /// The client to answer; `None` for a signal, and after the client disconnected.
    pub(super) client: Option<ClientId>,
    /// Whether the answer waits for the end of the last worker that the restart replaces.
    pub(super) wait: bool,
}

impl Transition {
    /// Whether its worker serves, in the confirm window.
    pub(super) fn is_committed(&self) -> bool {
        self.committed_after.is_some()
    }
}

impl Machine {
    /// Takes the transition away, with its confirm window.
    pub(super) fn end_transition(&mut self) -> Option<Transition> {
        self.timers.cancel(Timer::Confirm);
        self.life.active_mut()?.transition.take()
    }

    /// Starts the first generation, once, or when the orphans that it must not run beside are gone.
    pub(super) fn begin(&mut self, now: Instant, out: &mut Actions) {
        if self.last_generation == self.before
            && self.life.is_active()
            && !self.waits_for_orphans(now, out)
        {
            self.start_transition(Vec::new(), now, out);
        }
    }

    /// Begins a restart, from `exe` or from the path used before, or queues it behind the one in progress.
    pub(super) fn restart(
        &mut self,
        exe: Option<PathBuf>,
        client: Option<ClientId>,
        wait: bool,
        now: Instant,
        out: &mut Actions,
    ) {
        let waiter = Waiter { client, wait };
        if !self.life.is_active() || self.life.lame_duck().is_some() {
            refuse(client, "the daemon is stopping", out);
            return;
        }
        if self.last_generation == self.before {
            refuse(client, "the daemon has not started yet", out);
            return;
        }
        self.exe.pending = exe.or(self.exe.pending.take());
        if !self.life.changes() {
            self.start_transition(vec![waiter], now, out);
        } else if let Some(active) = self.life.active_mut() {
            out.push(log(Level::Info, "a restart is in progress; another one follows it".into()));
            active.pending.push(waiter);
        }
    }

    /// Begins a generation from the image on disk.
    pub(super) fn start_transition(
        &mut self,
        waiters: Vec<Waiter>,
        now: Instant,
        out: &mut Actions,
    ) {
        self.begin_generation(ImageSource::Disk, waiters, now, out);
    }

    /// Begins the transition to a new generation and spawns its worker.
    pub(super) fn begin_generation(
        &mut self,
        source: ImageSource,
        waiters: Vec<Waiter>,
        now: Instant,
        out: &mut Actions,
    ) -> Generation {
        self.last_generation += 1;
        let generation = self.last_generation;
        let policy = self.current.as_ref().map_or(self.initial, |current| current.policy);
        if source == ImageSource::Disk {
            self.exe.begin();
        }
        let worker = self.spawn(generation, source, policy, now, out);
        let transition = Transition {
            generation,
            policy,
            worker,
            since: now,
            waiters,
            exclusive: false,
            from_disk: source == ImageSource::Disk,
            committed_after: None,
            warnings: Vec::new(),
        };
        if let Some(active) = self.life.active_mut() {
            active.transition = Some(transition);
        }
        generation
    }

    /// Handles the *hello* of a starting worker: sends its *welcome*, now or when the old worker has ended.
    pub(super) fn hello(&mut self, id: WorkerId, policy: Policy, now: Instant, out: &mut Actions) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        if worker.state != WorkerState::Starting || self.timers.is_set(Timer::Kill(id)) {
            return;
        }
        if worker.said_hello {
            let reason = format!("the worker of generation {} sent hello twice", worker.generation);
            self.failed(id, reason, now, out);
            return;
        }
        worker.said_hello = true;
        if let Some(transition) = self.life.transition_mut().filter(|t| t.worker == id) {
            transition.policy = policy;
            worker.policy = policy;
            self.timers.set(Timer::Deadline(id), now + policy.ready_timeout);
            if self.defer_start(id, now, out) {
                return;
            }
        }
        out.push(Action::Welcome { worker: id });
    }

    /// Handles *ready*: commits the transition, or lets a respawned worker serve.
    pub(super) fn ready(&mut self, id: WorkerId, now: Instant, out: &mut Actions) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        // A worker that has lost its link is about to be killed.
        if worker.state != WorkerState::Starting || self.timers.is_set(Timer::Kill(id)) {
            return;
        }
        if !worker.said_hello || worker.deferred {
            let generation = worker.generation;
            let when = if worker.deferred { "it received its settings" } else { "it sent hello" };
            let reason =
                format!("the worker of generation {generation} reported ready before {when}");
            self.failed(id, reason, now, out);
            return;
        }
        if self.life.transition().is_some_and(|t| t.worker == id) {
            self.commit(now, out);
        } else if self.current.as_ref().is_some_and(|c| c.worker == Some(id)) {
            serve(id, worker, now, &mut self.timers);
            out.push(Action::SendToWorker { worker: id, command: WorkerCommand::Go });
            let generation = worker.generation;
            self.kill_hung(out);
            self.connect(id, None, out);
            out.push(log_of(
                generation,
                Level::Info,
                format!("generation {generation} serves again"),
            ));
        }
    }

    /// Makes the new generation the one that serves: sends *quiesce* to the old worker and *go* to the new
    /// one, back to back. Connections that arrive in between wait in the kernel.
    pub(super) fn commit(&mut self, now: Instant, out: &mut Actions) {
        let exhausted = self.start_limit_reached();
        let Some(transition) = self.life.transition_mut() else { return };
        let mut resumable = false;
        if let Some(current) = self.current.as_mut()
            && let Some(old) = current.worker
            && let Some(worker) = self.workers.get_mut(&old)
        {
            match worker.state {
                WorkerState::Serving => {
                    worker.state = WorkerState::Paused;
                    resumable = true;
                    out.push(Action::SendToWorker { worker: old, command: WorkerCommand::Quiesce });
                }
                // A respawn of the old generation, which is no longer needed.
                WorkerState::Starting => {
                    current.worker = None;
                    kill(old, worker, &mut self.timers, out);
                }
                _ => {}
            }
        }
        if let Some(worker) = self.workers.get_mut(&transition.worker) {
            serve(transition.worker, worker, now, &mut self.timers);
        }
        out.push(Action::SendToWorker { worker: transition.worker, command: WorkerCommand::Go });
        let took = now.saturating_duration_since(transition.since);
        transition.committed_after = Some(took);
        self.timers.set(Timer::Confirm, now + transition.policy.confirm_window);
        let (generation, worker) = (transition.generation, transition.worker);
        let (at_once, exclusive) =
            (transition.policy.confirm_window.is_zero(), transition.exclusive);
        if self.current.is_none() {
            out.push(Action::FirstReady { generation });
            self.replace_orphans(now, out);
        } else {
            let text = format!("generation {generation} serves after {}", seconds(took));
            out.push(Action::Progress { text: text.clone() });
            out.push(log_of(generation, Level::Info, text));
        }
        // Without an old worker to resume, an abort could gain nothing, except by a respawn of an exclusive
        // generation; and one that has used up its start limit is not respawned.
        let undoable = resumable || (exclusive && !exhausted);
        if !undoable || at_once || self.can_confirm_early(worker) {
            self.confirm(now, out);
        }
        self.kill_hung(out);
    }

    /// Opens a channel over which each draining worker hands off its connections to `to`. `also` is a paused
    /// worker that is about to drain.
    fn connect(&self, to: WorkerId, also: Option<WorkerId>, out: &mut Actions) {
        for (&from, worker) in &self.workers {
            let about_to = also == Some(from) && worker.state == WorkerState::Paused;
            if about_to || worker.state == WorkerState::Draining {
                out.push(Action::OpenHandoffChannel { from, to });
            }
        }
    }

    /// Confirms the new generation and ends the transition: the old generation drains and can no longer be
    /// resumed.
    pub(super) fn confirm(&mut self, now: Instant, out: &mut Actions) {
        let Some(transition) = self.end_transition() else { return };
        self.timers.cancel(Timer::Respawn);
        self.exe.end(true);
        let old = self.current.replace(CommittedGeneration {
            generation: transition.generation,
            policy: transition.policy,
            worker: Some(transition.worker),
            crashes: VecDeque::new(),
            respawn_when_alone: false,
            rollback_to: self
                .current
                .as_ref()
                .map(|old| old.generation)
                .filter(|_| transition.from_disk),
            exhausted: None,
        });
        let report = RestartReport {
            from: old.as_ref().map(|old| old.generation),
            to: transition.generation,
            committed: true,
            reason: None,
            note: if transition.from_disk {
                self.rolled_back.take()
            } else {
                self.rolled_back.clone()
            },
            to_commit: transition.committed_after,
            to_drained: None,
            ledger: None,
            warnings: transition.warnings,
        };
        if let Some(old) = &old {
            // Before the *drain*: a worker without a channel would close connections that it could hand off.
            self.connect(transition.worker, old.worker, out);
            if let Some(id) = old.worker
                && let Some(worker) = self.workers.get_mut(&id)
                && worker.state != WorkerState::Killed
            {
                drain(id, worker, now + worker.policy.drain_timeout, &mut self.timers, out);
            }
            self.record_restart(report.clone());
        }
        if transition.from_disk {
            self.begin_upgrade(transition.generation, out);
        }
        self.replaced(report, transition.since, transition.waiters, out);
        self.force_excess(now, out);
        if let Some(old) = old {
            self.retire_if_unused(old.generation, now, out);
        }
        self.start_pending(now, out);
    }

    /// Aborts the restart: kills the new worker and resumes the old generation, or respawns it if its worker
    /// has ended. Without an old generation the daemon ends.
    pub(super) fn abort(&mut self, reason: &str, now: Instant, out: &mut Actions) {
        let Some(transition) = self.end_transition() else { return };
        self.exe.end(false);
        let committed = transition.is_committed();
        if let Some(worker) = self.workers.get_mut(&transition.worker)
            && worker.state != WorkerState::Draining
        {
            kill(transition.worker, worker, &mut self.timers, out);
        }
        let Some(current) = self.current.as_mut() else {
            // There is no old generation: the first start failed.
            self.retire_if_unused(transition.generation, now, out);
            for waiter in transition.waiters.into_iter().chain(self.life.take_pending()) {
                refuse(waiter.client, reason, out);
            }
            self.shut_down(1, reason.to_owned(), now, out);
            return;
        };
        if transition.exclusive {
            current.respawn_when_alone = true;
        } else if committed {
            match current.worker.and_then(|id| self.workers.get_mut(&id).map(|w| (id, w))) {
                Some((id, worker)) if worker.state == WorkerState::Paused => {
                    worker.state = WorkerState::Serving;
                    out.push(Action::SendToWorker { worker: id, command: WorkerCommand::Resume });
                }
                _ => {
                    current.worker = None;
                    self.timers.set(Timer::Respawn, now);
                }
            }
        }
        let report = RestartReport {
            from: Some(current.generation),
            to: transition.generation,
            committed: false,
            reason: Some(reason.to_owned()),
            note: self.rolled_back.clone(),
            to_commit: None,
            to_drained: None,
            ledger: None,
            warnings: transition.warnings,
        };
        let kept = if current.worker.is_some() { "keeps serving" } else { "is kept" };
        let generation = current.generation;
        let text = format!("restart aborted: {reason}; generation {generation} {kept}");
        out.push(log_of(transition.generation, Level::Error, text));
        self.record_restart(report.clone());
        if committed {
            // The new worker had connections: the answer waits for their ledger.
            self.aborted_after_commit(report, transition.since, transition.waiters);
        } else {
            for waiter in transition.waiters {
                answer(waiter.client, ClientAnswer::Aborted(report.clone()), out);
            }
        }
        self.retire_if_unused(transition.generation, now, out);
        self.respawn_if_alone(now, out);
        if self.start_limit_reached() && !self.life.has_pending() {
            self.roll_back(now, out);
            return;
        }
        self.start_pending(now, out);
    }

    /// Begins the restart that was requested during the last transition or upgrade, if there is one.
    pub(super) fn start_pending(&mut self, now: Instant, out: &mut Actions) {
        if !self.life.changes() && self.life.has_pending() {
            let waiters = self.life.take_pending();
            self.start_transition(waiters, now, out);
        }
    }
}
