//! A transition to a new generation: start, commit, confirm or abort.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::respawn::Current;
use super::watchdog;
use super::worker::{WorkerState, drain, kill};
use super::{Actions, Machine, answer, log, log_of, refuse, seconds};
use crate::json::{FromJson, ToJson};
use crate::supervisor::event::{
    Action, Answer, ClientId, Generation, Level, Order, Policy, Report, Source, WorkerId,
};

/// A new generation on its way: from the request until it is confirmed or undone.
#[derive(Debug, Clone, ToJson, FromJson)]
pub(super) struct Transition {
    pub(super) generation: Generation,
    pub(super) policy: Policy,
    pub(super) worker: WorkerId,
    pub(super) since: Instant,
    pub(super) waiters: Vec<Waiter>,
    /// Committed, and to be confirmed then.
    pub(super) confirm_at: Option<Instant>,
    /// The old worker had to be gone before the new one began.
    pub(super) exclusive: bool,
    /// As asked for; else of a known-good image.
    pub(super) from_disk: bool,
    pub(super) committed_after: Option<Duration>,
    /// What went wrong meanwhile with the generation that is to be replaced.
    #[json(default)]
    pub(super) warnings: Vec<String>,
}

/// Who asked for a restart, if anybody wants the answer, and whether it waits for the old worker's end.
#[derive(Debug, Clone, Copy, ToJson, FromJson)]
pub(super) struct Waiter {
    pub(super) client: Option<ClientId>,
    pub(super) wait: bool,
}

impl Machine {
    pub(super) fn begin(&mut self, now: Instant, out: &mut Actions) {
        if self.last_generation == self.before && self.stopping.is_none() {
            self.start_transition(Vec::new(), now, out);
        }
    }

    pub(super) fn restart(
        &mut self,
        exe: Option<PathBuf>,
        client: Option<ClientId>,
        wait: bool,
        now: Instant,
        out: &mut Actions,
    ) {
        let waiter = Waiter { client, wait };
        if self.stopping.is_some() || self.lame_duck.is_some() {
            refuse(client, "the daemon is stopping", out);
            return;
        }
        if self.last_generation == self.before {
            refuse(client, "the daemon has not started yet", out);
            return;
        }
        self.exe.pending = exe.or(self.exe.pending.take());
        if self.transition.is_some() || self.upgrade.is_some() {
            out.push(log(Level::Info, "a restart is in progress; another one follows it".into()));
            self.pending.get_or_insert_default().push(waiter);
        } else {
            self.start_transition(vec![waiter], now, out);
        }
    }

    pub(super) fn start_transition(
        &mut self,
        waiters: Vec<Waiter>,
        now: Instant,
        out: &mut Actions,
    ) {
        self.begin_generation(Source::Disk, waiters, now, out);
    }

    pub(super) fn begin_generation(
        &mut self,
        source: Source,
        waiters: Vec<Waiter>,
        now: Instant,
        out: &mut Actions,
    ) -> Generation {
        self.last_generation += 1;
        let generation = self.last_generation;
        let policy = self.current.as_ref().map_or(self.initial, |current| current.policy);
        if source == Source::Disk {
            self.exe.begin();
        }
        let worker = self.spawn(generation, source, policy, now, out);
        self.transition = Some(Transition {
            generation,
            policy,
            worker,
            since: now,
            waiters,
            confirm_at: None,
            exclusive: false,
            from_disk: source == Source::Disk,
            committed_after: None,
            warnings: Vec::new(),
        });
        generation
    }

    pub(super) fn hello(&mut self, id: WorkerId, policy: Policy, now: Instant, out: &mut Actions) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        if worker.state != WorkerState::Starting || worker.kill_at.is_some() {
            return;
        }
        if worker.greeted {
            let reason = format!("the worker of generation {} sent hello twice", worker.generation);
            self.failed(id, reason, now, out);
            return;
        }
        worker.greeted = true;
        if let Some(transition) = self.transition.as_mut().filter(|t| t.worker == id) {
            transition.policy = policy;
            worker.policy = policy;
            worker.deadline = Some(now + policy.ready_timeout);
            if self.hold_back(id, now, out) {
                return;
            }
        }
        out.push(Action::Welcome { worker: id });
    }

    pub(super) fn ready(&mut self, id: WorkerId, now: Instant, out: &mut Actions) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        // One whose link is lost is about to be killed.
        if worker.state != WorkerState::Starting || worker.kill_at.is_some() {
            return;
        }
        if !worker.greeted || worker.held {
            let generation = worker.generation;
            let when = if worker.held { "it received its settings" } else { "it sent hello" };
            let reason =
                format!("the worker of generation {generation} reported ready before {when}");
            self.failed(id, reason, now, out);
            return;
        }
        if self.transition.as_ref().is_some_and(|t| t.worker == id) {
            self.commit(now, out);
        } else if self.current.as_ref().is_some_and(|c| c.worker == Some(id)) {
            worker.state = WorkerState::Serving;
            worker.deadline = None;
            watchdog::begin(worker, now);
            out.push(Action::Tell { worker: id, order: Order::Go });
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

    /// The new generation becomes the one that serves: *quiesce* and *go* back to back.
    pub(super) fn commit(&mut self, now: Instant, out: &mut Actions) {
        let exhausted = self.is_exhausted();
        let Some(transition) = self.transition.as_mut() else { return };
        let (mut resumable, mut content) = (false, false);
        if let Some(current) = self.current.as_mut()
            && let Some(old) = current.worker
            && let Some(worker) = self.workers.get_mut(&old)
        {
            match worker.state {
                WorkerState::Serving => {
                    worker.state = WorkerState::Quiesced;
                    resumable = true;
                    out.push(Action::Tell { worker: old, order: Order::Quiesce });
                }
                // A respawn that came too late.
                WorkerState::Starting => {
                    current.worker = None;
                    kill(old, worker, out);
                }
                _ => {}
            }
        }
        if let Some(worker) = self.workers.get_mut(&transition.worker) {
            worker.state = WorkerState::Serving;
            worker.deadline = None;
            watchdog::begin(worker, now);
            content = worker.is_content();
        }
        out.push(Action::Tell { worker: transition.worker, order: Order::Go });
        let took = now.saturating_duration_since(transition.since);
        transition.committed_after = Some(took);
        transition.confirm_at = Some(now + transition.policy.confirm_window);
        let generation = transition.generation;
        if generation == 1 || self.current.is_none() {
            out.push(Action::Up { generation });
        } else {
            let text = format!("generation {generation} serves after {}", seconds(took));
            out.push(Action::Progress { text: text.clone() });
            out.push(log_of(generation, Level::Info, text));
        }
        // One that used up its start limit does not begin again.
        let undoable = resumable || (transition.exclusive && !exhausted);
        if !undoable || content || transition.policy.confirm_window.is_zero() {
            self.confirm(now, out);
        }
        self.kill_hung(out);
    }

    /// Lets every worker that drains, and the one that is about to, pass its connections to `to`.
    fn connect(&self, to: WorkerId, also: Option<WorkerId>, out: &mut Actions) {
        for (&from, worker) in &self.workers {
            let about_to = also == Some(from) && worker.state == WorkerState::Quiesced;
            if about_to || worker.state == WorkerState::Draining {
                out.push(Action::Connect { from, to });
            }
        }
    }

    /// The old generation can no longer be resumed: it drains, and the transition is over.
    pub(super) fn confirm(&mut self, now: Instant, out: &mut Actions) {
        let Some(transition) = self.transition.take() else { return };
        self.exe.end(true);
        let old = self.current.replace(Current {
            generation: transition.generation,
            policy: transition.policy,
            worker: Some(transition.worker),
            crashes: VecDeque::new(),
            respawn_at: None,
            revive: false,
            fallback: self
                .current
                .as_ref()
                .map(|old| old.generation)
                .filter(|_| transition.from_disk),
            exhausted: None,
        });
        let report = Report {
            from: old.as_ref().map(|old| old.generation),
            to: transition.generation,
            committed: true,
            reason: None,
            note: if transition.from_disk {
                self.fallen_back.take()
            } else {
                self.fallen_back.clone()
            },
            to_commit: transition.committed_after,
            to_drained: None,
            ledger: None,
            warnings: transition.warnings,
        };
        if let Some(old) = &old {
            // Before it drains: a connection that is told to go could have been passed.
            self.connect(transition.worker, old.worker, out);
            if let Some(id) = old.worker
                && let Some(worker) = self.workers.get_mut(&id)
                && worker.state != WorkerState::Dying
            {
                drain(id, worker, now + worker.policy.drain_timeout, out);
            }
            self.remember(report.clone());
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

    /// The restart is undone; the old generation is as it was.
    pub(super) fn abort(&mut self, reason: &str, now: Instant, out: &mut Actions) {
        let Some(transition) = self.transition.take() else { return };
        self.exe.end(false);
        if let Some(worker) = self.workers.get_mut(&transition.worker)
            && worker.state != WorkerState::Draining
        {
            kill(transition.worker, worker, out);
        }
        let Some(current) = self.current.as_mut() else {
            // There is nothing to go back to: the daemon did not start.
            self.retire_if_unused(transition.generation, now, out);
            for waiter in
                transition.waiters.into_iter().chain(self.pending.take().into_iter().flatten())
            {
                refuse(waiter.client, reason, out);
            }
            self.give_up(1, reason.to_owned(), now, out);
            return;
        };
        if transition.exclusive {
            current.revive = true;
        } else if transition.confirm_at.is_some() {
            match current.worker.and_then(|id| self.workers.get_mut(&id).map(|w| (id, w))) {
                Some((id, worker)) if worker.state == WorkerState::Quiesced => {
                    worker.state = WorkerState::Serving;
                    out.push(Action::Tell { worker: id, order: Order::Resume });
                }
                _ => {
                    current.worker = None;
                    current.respawn_at = Some(now);
                }
            }
        }
        let report = Report {
            from: Some(current.generation),
            to: transition.generation,
            committed: false,
            reason: Some(reason.to_owned()),
            note: self.fallen_back.clone(),
            to_commit: None,
            to_drained: None,
            ledger: None,
            warnings: transition.warnings,
        };
        let kept = if current.worker.is_some() { "keeps serving" } else { "is kept" };
        let generation = current.generation;
        let text = format!("restart aborted: {reason}; generation {generation} {kept}");
        out.push(log_of(transition.generation, Level::Error, text));
        self.remember(report.clone());
        if transition.confirm_at.is_some() {
            // It had connections: whoever waits is told what became of them.
            self.undone(report, transition.since, transition.waiters);
        } else {
            for waiter in transition.waiters {
                answer(waiter.client, Answer::Aborted(report.clone()), out);
            }
        }
        self.retire_if_unused(transition.generation, now, out);
        self.revive_if_alone(now, out);
        if self.is_exhausted() && self.pending.is_none() {
            self.fall_back(now, out);
            return;
        }
        self.start_pending(now, out);
    }

    pub(super) fn start_pending(&mut self, now: Instant, out: &mut Actions) {
        if self.stopping.is_none()
            && self.upgrade.is_none()
            && self.transition.is_none()
            && let Some(waiters) = self.pending.take()
        {
            self.start_transition(waiters, now, out);
        }
    }
}
