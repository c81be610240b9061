//! The rules for the state between two events, checked after the last action of each event.

use super::super::State;
use super::super::WorkerState;
use super::super::stop::AT_ONCE_GRACE;
use super::super::worker::{LINK_GRACE, MAX_DRAINING};
use super::{Kept, LastCommand, Seen, Watch};
use crate::event::{Action, Event, ImageSource, WorkerId};

impl Watch {
    /// Returns whether the event is the end of a worker that had nothing to serve: with exit code 0, after its
    /// *hello*, without a failure of any kind, in a daemon that has not served yet.
    pub(super) fn ended_well(&self, event: &Event) -> bool {
        let Event::Exited { worker, exit, ledger } = event else { return false };
        let failed = |(_, event, _): &(_, Event, _)| match event {
            Event::Failing { worker: id, .. } | Event::HelloRejected { worker: id, .. } => {
                id == worker
            }
            _ => false,
        };
        let greeted = self.workers.get(worker).is_some_and(|seen| seen.hello_policy.is_some());
        let well = exit.success() && ledger.lost == 0 && !self.history.iter().any(failed);
        !self.up && greeted && well
    }

    /// Checks that a stop may begin now, and notes whether it may end with exit code 0. `accepted` is the
    /// worker that accepted before the event, and `ended_well` whether one with nothing to serve ended.
    pub(super) fn check_end(
        &mut self,
        event: &Event,
        accepted: Option<WorkerId>,
        ended_well: bool,
    ) {
        let mute = |worker: &Seen| worker.asked.is_some_and(|limit| limit <= self.now);
        let nobody = accepted.is_none_or(|id| self.workers.get(&id).is_none_or(mute));
        let over = self.lame_duck.is_some_and(|until| until <= self.now);
        let asked = matches!(event, Event::Stop { .. }) || over;
        let patient = self.lame_duck.is_none() || over || self.pressed.is_some() || nobody;
        holds!(self, patient, "the lame duck is cut short");
        holds!(self, asked || nobody, "it gives up although a worker accepts");
        let done = match event {
            Event::Exited { worker, exit, .. } => exit.success() && accepted == Some(*worker),
            _ => false,
        };
        self.success = asked || done || ended_well;
    }

    /// Checks a lame-duck phase.
    pub(super) fn check_lame_duck(&self, event: &Event) {
        let Some(until) = self.lame_duck.filter(|_| !self.stopping) else { return };
        let state = self.machine.state();
        holds!(self, state == State::LameDuck, "a lame duck is {state}");
        let over = matches!(event, Event::Tick) && until <= self.now;
        holds!(self, !over && self.pressed.is_none(), "a lame duck does not end");
        let due = self.machine.deadline().is_some_and(|at| at <= until);
        holds!(self, due, "a lame duck has no limit");
    }

    /// Checks that a worker accepts, or why not. `accepted` is the one that accepted before the event.
    pub(super) fn check_service(&self, event: &Event, accepted: Option<WorkerId>) {
        let accepting =
            self.workers.values().filter(|worker| worker.command == LastCommand::Accept).count();
        holds!(self, accepting <= 1, "{accepting} workers accept at once");
        if !self.up || self.stopping || accepting == 1 {
            return;
        }
        if let Some(id) = accepted
            && let Some(worker) = self.workers.get(&id)
        {
            let left = matches!(event, Event::SelfDraining { worker, .. } if *worker == id);
            let lost = worker.command == LastCommand::Die && worker.lost.is_some();
            let mute = worker.hung || worker.asked.is_some_and(|limit| limit <= self.now);
            // The restart is aborted: the old worker resumes, or is respawned if it has ended.
            let sick = matches!(event, Event::Unhealthy { worker, .. } if *worker == id);
            let aborted = worker.command == LastCommand::Die && (sick || worker.checks > 0);
            let excused = left || lost || mute || aborted || self.exclusive();
            holds!(self, excused, "nobody accepts any more, without need");
        }
        let coming = self.workers.values().any(|worker| worker.command == LastCommand::Start);
        let reaping = self.workers.values().any(|worker| worker.command == LastCommand::Die);
        // A pending restart may wait for the end of an upgrade, which has a time limit of its own.
        let due = self.machine.deadline().is_some() || self.upgrading.is_some();
        holds!(self, coming || reaping || due, "nobody accepts, and nobody will");
    }

    /// Checks each worker's state, and that no worker is left over.
    pub(super) fn check_transition(&self) {
        let committed = self.machine.current.as_ref().and_then(|current| current.worker);
        for (id, worker) in &self.workers {
            let known = self.transition() == Some(*id) || committed == Some(*id);
            let ending = matches!(worker.command, LastCommand::Drain | LastCommand::Die);
            holds!(self, known || ending, "nobody knows {worker:?}");
            let state = match worker.command {
                LastCommand::Start => WorkerState::Starting,
                LastCommand::Accept => WorkerState::Serving,
                LastCommand::Quiesce => WorkerState::Paused,
                LastCommand::Drain => WorkerState::Draining,
                LastCommand::Die => WorkerState::Killed,
            };
            let shown = self.machine.worker_state(*id);
            holds!(self, shown == Some(state), "{shown:?} is shown of {worker:?}");
            let undecided = self.transition().is_some() || worker.command != LastCommand::Quiesce;
            holds!(self, undecided, "{worker:?} is neither resumed nor drained");
        }
        if let Some(id) = self.transition() {
            let worker = self.living(id);
            let fit = matches!(worker.command, LastCommand::Start | LastCommand::Accept);
            holds!(self, fit && worker.source != ImageSource::Pinned, "a transition to {worker:?}");
        }
        let draining =
            self.workers.values().filter(|w| w.command == LastCommand::Drain && w.limit > self.now);
        holds!(self, self.stopping || draining.count() <= MAX_DRAINING, "too many drain");
    }

    /// Checks, after the end of a transition that was not confirmed, that the committed generation is as
    /// before.
    pub(super) fn check_abort(&self, actions: &[Action], before: Kept) {
        let Some(after) = self.kept() else { self.fail("the committed generation is lost") };
        if after.generation != before.generation {
            return;
        }
        let respawned = actions
            .iter()
            .any(|action| matches!(action, Action::Spawn { source: ImageSource::Pinned, .. }));
        let old = before.worker.and_then(|id| self.workers.get(&id));
        if old.is_some_and(|old| old.hung) {
            // The old worker was found hung at the same tick, which is a crash of its own.
            return;
        }
        let serves =
            old.is_some_and(|old| matches!(old.command, LastCommand::Accept | LastCommand::Start));
        let expected = if self.exclusive() {
            // The old generation is respawned when no worker is left.
            after.clone()
        } else if respawned || !serves {
            // The old worker ended on its own before or while the new one served.
            Kept { worker: after.worker, respawn_at: after.respawn_at, ..before }
        } else {
            before
        };
        holds!(self, after == expected, "the aborted restart left {after:?}, not {expected:?}");
    }

    /// Checks that each generation without workers was released, unless it may get one.
    pub(super) fn check_generations(&self) {
        for &generation in &self.unretired {
            let committed = self.machine.current.as_ref().map(|current| current.generation);
            let coming = self.machine.life.transition().map(|transition| transition.generation);
            holds!(
                self,
                self.alive(generation) > 0
                    || committed == Some(generation)
                    || coming == Some(generation),
                "generation {generation} is not retired"
            );
        }
    }

    /// Checks that no client waits for nothing.
    pub(super) fn check_clients(&self) {
        // A client that asked for a stop waits for its end.
        let ends = self.stopping || self.lame_duck.is_some();
        if ends || self.transition().is_some() || self.upgrading.is_some() {
            return;
        }
        let committed = self.machine.current.as_ref().map_or(0, |current| current.generation);
        let old = self.workers.values().any(|worker| worker.generation < committed);
        let unconfirmed =
            self.workers.values().any(|worker| !self.confirmed.contains(&worker.generation));
        for (client, waits) in &self.clients {
            holds!(self, (*waits && old) || unconfirmed, "client {client} waits for nothing");
        }
    }

    /// Checks that each worker has a time limit, that the machine's deadline is not later, and that nothing
    /// is due after a tick.
    pub(super) fn check_time(&self, event: &Event) {
        let deadline = self.machine.deadline();
        if let (Event::Tick, Some(at)) = (event, deadline) {
            holds!(self, at > self.now, "after a tick something is due");
        }
        for worker in self.machine.timers.workers() {
            let dead =
                self.workers.get(&worker).is_none_or(|worker| worker.command == LastCommand::Die);
            holds!(self, !dead, "a timer of worker {worker}, which is gone");
        }
        let held = self.exclusive();
        let candidate = self.transition().map(|id| self.living(id));
        for worker in self.workers.values().filter(|worker| worker.command != LastCommand::Die) {
            let limit = match worker.command {
                LastCommand::Start if held => None,
                LastCommand::Start => Some(worker.limit),
                LastCommand::Drain => match worker.terminated {
                    Some(at) => Some(at + worker.policy.kill_timeout),
                    None => Some(worker.limit),
                },
                LastCommand::Quiesce => {
                    let lost = candidate.as_ref().and_then(|candidate| candidate.lost);
                    Some(lost.map_or(worker.limit, |at| worker.limit.max(at + LINK_GRACE)))
                }
                LastCommand::Accept | LastCommand::Die => None,
            };
            let limits = [
                limit,
                worker.lost.map(|at| at + LINK_GRACE),
                self.pressed.map(|at| at + AT_ONCE_GRACE),
            ];
            if let Some(limit) = limits.into_iter().flatten().min() {
                holds!(self, deadline.is_some_and(|at| at <= limit), "{worker:?} has no limit");
                let over = matches!(event, Event::Tick) && limit <= self.now;
                holds!(self, !over, "{worker:?} is beyond its limit");
            }
        }
    }
}
