//! The rules for each single action, checked in the order of the actions.

use super::super::State;
use super::super::worker::LINK_GRACE;
use super::{LastCommand, Seen, Watch};
use crate::event::{
    Action, ClientAnswer, ClientId, Event, Generation, ImageSource, WorkerCommand, WorkerId,
};

impl Watch {
    /// Checks an action, with the ones before and after it, and updates the model.
    pub(super) fn see(
        &mut self,
        event: &Event,
        before: Option<&Action>,
        action: &Action,
        after: Option<&Action>,
    ) {
        match action {
            Action::Spawn { worker, generation, source } => {
                self.see_spawn(*worker, *generation, *source);
            }
            Action::Welcome { worker: id } => {
                let mut worker = self.living(*id);
                match event {
                    Event::Hello { worker: newcomer, .. } => {
                        holds!(self, newcomer == id, "another one is welcome");
                    }
                    // A deferred *welcome*: the worker had to wait for the end of another.
                    Event::Exited { .. } if self.exclusive() => {}
                    _ => self.fail("a welcome nobody asked for"),
                }
                let Some(policy) = worker.hello_policy else {
                    self.fail("welcome without a hello")
                };
                if self.exclusive() {
                    let begun =
                        self.workers.iter().filter(|(other, it)| *other != id && it.welcomed);
                    holds!(self, begun.count() == 0, "welcome beside others");
                }
                holds!(
                    self,
                    worker.command == LastCommand::Start && !worker.welcomed,
                    "welcome to {worker:?}"
                );
                worker.welcomed = true;
                if worker.source != ImageSource::Pinned {
                    worker.policy = policy;
                    worker.limit = self.now + policy.ready_timeout;
                }
                self.workers.insert(*id, worker);
            }
            Action::SendToWorker { worker, command: order } => {
                self.see_order(event, *worker, *order, before, after)
            }
            Action::DumpThreads { worker: id } => {
                let worker = self.living(*id);
                let mute = worker.asked.is_some_and(|limit| limit <= self.now);
                holds!(self, mute, "{worker:?} is examined for nothing");
            }
            Action::Terminate { worker: id } => {
                let mut worker = self.living(*id);
                holds!(
                    self,
                    worker.command == LastCommand::Drain && worker.limit <= self.now,
                    "too early a SIGTERM for {worker:?}"
                );
                worker.terminated.get_or_insert(self.now);
                self.workers.insert(*id, worker);
            }
            Action::Kill { worker: id } => {
                let mut worker = self.living(*id);
                let lost = worker.lost.is_some_and(|at| at + LINK_GRACE <= self.now);
                let mute = worker.asked.is_some_and(|limit| limit <= self.now);
                let unhealthy = matches!(event, Event::Unhealthy { worker, .. } if worker == id);
                let unproven = worker.checks > 0 && self.accepting() == Some(*id);
                let stayed =
                    worker.terminated.is_some_and(|at| at + worker.policy.kill_timeout <= self.now);
                holds!(
                    self,
                    lost || stayed
                        || worker.hung
                        || mute
                        || unhealthy
                        || unproven
                        || worker.command == LastCommand::Start
                        || self.pressed.is_some(),
                    "{worker:?} is killed for nothing"
                );
                worker.command = LastCommand::Die;
                self.workers.insert(*id, worker);
            }
            Action::Answer { client, answer } => self.see_answer(*client, answer),
            Action::FirstReady { .. } => {
                holds!(self, !self.up, "it comes up twice");
                holds!(self, self.accepting().is_some(), "up, but nobody accepts");
                self.up = true;
            }
            Action::OpenHandoffChannel { from, to } => {
                let (from, to) = (self.living(*from), self.living(*to));
                holds!(self, to.command == LastCommand::Accept, "connections for {to:?}");
                holds!(self, from.command != LastCommand::Accept, "connections from {from:?}");
            }
            Action::Upgrade { generation } => {
                holds!(self, self.upgrading.is_none(), "an upgrade beside another");
                holds!(self, self.confirmed.contains(generation), "an upgrade to unconfirmed code");
                self.upgrading = Some(*generation);
            }
            Action::CloseListeners => {
                let ends = self.machine.state() == State::Stopping;
                holds!(self, ends, "closed to newcomers but not stopping");
            }
            Action::Drained { report } => {
                let generation = report.from.unwrap_or_default();
                holds!(self, self.alive(generation) == 0, "{generation} drained with workers");
                holds!(
                    self,
                    report.committed && report.ledger.is_some() && report.to_drained.is_some(),
                    "incomplete: {report:?}"
                );
                self.check_report(report, generation);
            }
            Action::ReleaseGeneration { generation, .. } => {
                holds!(self, self.unretired.remove(generation), "{generation} retires twice");
                holds!(self, self.alive(*generation) == 0, "{generation} retires with workers");
                let current = self.machine.current.as_ref().map(|current| current.generation);
                holds!(self, current != Some(*generation), "{generation} retires while committed");
            }
            Action::Exit { code, reason } => {
                holds!(self, self.exit.is_none(), "it exits twice");
                holds!(self, after.is_none(), "it acts after its exit");
                holds!(self, self.workers.is_empty(), "it leaves workers behind");
                let drain = self.orphans.is_some_and(|orphans| orphans.limit.is_some());
                holds!(self, !drain, "it leaves draining orphans behind");
                holds!(self, self.clients.is_empty(), "unanswered: {:?}", self.clients);
                holds!(self, *code != 0 || self.success, "a failure is passed off as success");
                self.exit = Some((*code, reason.clone()));
            }
            Action::Progress { text } => {
                self.stopping |= text == "stopping";
                self.upgrading = self.upgrading.filter(|_| !self.stopping);
            }
            Action::DrainOrphans { deadline, .. } => {
                let Some(orphans) = &mut self.orphans else { self.fail("there are no orphans") };
                // The policy of the generation that serves.
                let current =
                    self.workers.values().find(|worker| worker.command == LastCommand::Accept);
                let last = self.machine.current.as_ref().map(|current| current.policy);
                let policy = current.map(|worker| worker.policy).or(last).unwrap_or(self.initial);
                let limit = *deadline + policy.kill_timeout;
                orphans.limit = Some(orphans.limit.map_or(limit, |earlier| earlier.min(limit)));
            }
            Action::KillOrphans => {
                let Some(orphans) = &mut self.orphans else { self.fail("there are no orphans") };
                let over = orphans.limit.is_some_and(|limit| limit <= self.now);
                orphans.killed = true;
                holds!(self, over, "orphans are killed too early");
            }
            // See `changes`.
            Action::Confirming { .. }
            | Action::StateChanged
            | Action::Confirmed { .. }
            | Action::Log { .. } => {}
        }
    }

    /// Checks a spawn and adds the worker to the model.
    fn see_spawn(&mut self, id: WorkerId, generation: Generation, source: ImageSource) {
        holds!(self, !self.stopping, "a spawn while stopping");
        let beside = self.orphans.is_some_and(|it| it.exclusive || self.exclusive());
        holds!(self, !beside, "a spawn beside exclusive orphans");
        holds!(self, id == self.last_worker + 1, "worker {id} after {}", self.last_worker);
        self.last_worker = id;
        let serving = self.machine.current.as_ref().map(|current| current.generation);
        self.check_source(generation, source);
        match source {
            ImageSource::Disk | ImageSource::KnownGood(_) => {
                let waits = self.upgrading.is_some() && source == ImageSource::Disk;
                holds!(self, !waits, "a restart beside an upgrade");
                let ends = self.lame_duck.is_some() && source == ImageSource::Disk;
                holds!(self, !ends, "a restart of a lame duck");
                holds!(
                    self,
                    generation == self.last_generation + 1,
                    "generation {generation} after {}",
                    self.last_generation
                );
                self.last_generation = generation;
                self.unretired.insert(generation);
            }
            ImageSource::Pinned => {
                holds!(self, serving == Some(generation), "a respawn of {generation}");
                let rivals = self.workers.values().filter(|other| {
                    other.generation == generation
                        && !matches!(other.command, LastCommand::Drain | LastCommand::Die)
                });
                holds!(self, rivals.count() == 0, "a respawn beside a living worker");
            }
        }
        let policy = self.machine.current.as_ref().map_or(self.initial, |current| current.policy);
        self.workers.insert(
            id,
            Seen {
                generation,
                source,
                policy,
                command: LastCommand::Start,
                hello_policy: None,
                welcomed: false,
                leaving: false,
                limit: self.now + policy.ready_timeout,
                terminated: None,
                asked: None,
                hung: false,
                checks: 0,
                content: false,
                lost: None,
            },
        );
    }

    /// Checks a command to a worker and updates its model.
    fn see_order(
        &mut self,
        event: &Event,
        id: WorkerId,
        order: WorkerCommand,
        before: Option<&Action>,
        after: Option<&Action>,
    ) {
        let mut worker = self.living(id);
        match order {
            WorkerCommand::Go => {
                let fit = worker.command == LastCommand::Start
                    && worker.welcomed
                    && worker.lost.is_none();
                holds!(self, fit, "go to {worker:?}");
                holds!(self, self.accepting().is_none(), "go while another one accepts");
                if let Some((_, old)) =
                    self.workers.iter_mut().find(|(_, old)| old.command == LastCommand::Quiesce)
                {
                    let quiesce = |action: &Action| {
                        matches!(
                            action,
                            Action::SendToWorker { command: WorkerCommand::Quiesce, .. }
                        )
                    };
                    old.limit = self.now + worker.policy.confirm_window;
                    holds!(self, before.is_some_and(quiesce), "go long after quiesce");
                }
                worker.command = LastCommand::Accept;
            }
            WorkerCommand::Quiesce => {
                holds!(self, worker.command == LastCommand::Accept, "quiesce to {worker:?}");
                let go = |action: &Action| {
                    matches!(action, Action::SendToWorker { command: WorkerCommand::Go, .. })
                };
                holds!(self, after.is_some_and(go) || self.exclusive(), "quiesce without go");
                worker.command = LastCommand::Quiesce;
            }
            WorkerCommand::Resume => {
                holds!(self, worker.command == LastCommand::Quiesce, "resume to {worker:?}");
                holds!(self, self.accepting().is_none(), "resume while the new one accepts");
                self.check_resume();
                worker.command = LastCommand::Accept;
            }
            WorkerCommand::Ping => {
                let fit = matches!(worker.command, LastCommand::Accept | LastCommand::Quiesce);
                holds!(self, fit && worker.policy.watchdog.is_some(), "a ping to {worker:?}");
                holds!(self, worker.asked.is_none(), "a second question to {worker:?}");
                worker.asked = worker.policy.watchdog.map(|limit| self.now + limit);
            }
            WorkerCommand::Drain { deadline, .. } => {
                let leaves = matches!(event, Event::SelfDraining { worker, .. } if *worker == id);
                let limit = match worker.command {
                    LastCommand::Drain => worker.limit,
                    _ => self.now + worker.policy.drain_timeout,
                };
                holds!(self, deadline <= limit, "too long a drain for {worker:?}");
                let hurried = worker.command == LastCommand::Drain
                    && (self.pressed.is_some() || !self.stopping);
                let begun = worker.command != LastCommand::Drain && self.stopping;
                let content = self.workers.values().any(|new| new.content && new.checks == 0);
                let replaced = worker.command == LastCommand::Quiesce
                    && (worker.limit <= self.now || content)
                    && self.accepting().is_some()
                    || self.exclusive();
                let mute = worker.asked.is_some_and(|limit| limit <= self.now);
                worker.hung |= mute && !self.stopping;
                holds!(
                    self,
                    leaves || replaced || begun || hurried || mute,
                    "{worker:?} drains for nothing"
                );
                worker.command = LastCommand::Drain;
                worker.limit = deadline;
            }
        }
        self.workers.insert(id, worker);
    }

    /// Checks an answer to a client.
    fn see_answer(&mut self, client: ClientId, answer: &ClientAnswer) {
        let Some(waits) = self.clients.remove(&client) else {
            self.fail(&format!("client {client} is answered, but does not wait"))
        };
        match answer {
            ClientAnswer::Restarted(report) => {
                holds!(
                    self,
                    report.committed && self.confirmed.contains(&report.to),
                    "a report of what is not so: {report:?}"
                );
                let early = self.upgrading == Some(report.to) && !self.stopping;
                holds!(self, !early, "answered before the supervisor's part is done: {report:?}");
                self.check_report(report, report.from.unwrap_or_default());
                let left = report.from.map_or(0, |from| self.alive(from));
                holds!(self, !waits || left == 0, "the old generation is not gone: {report:?}");
            }
            ClientAnswer::Aborted(report) => {
                holds!(
                    self,
                    !report.committed && !self.confirmed.contains(&report.to),
                    "a report of what is not so: {report:?}"
                );
                self.check_report(report, report.to);
            }
            ClientAnswer::Stopped { .. } => {
                holds!(self, self.workers.is_empty(), "stopped, with workers");
            }
            ClientAnswer::Refused { .. } => {}
        }
    }
}
