//! All decisions of the supervisor: pure, with time as an argument and no I/O.
//!
//! The driver tells it what happened and does what it says, in order. What always holds is written
//! down as assertions over random histories in `tests/invariants.rs` beside this file.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::event::{
    Action, Answer, ClientId, Event, Generation, Level, Order, Policy, Report, Source, WorkerId,
};
use crate::config::RestartPolicy;
use crate::counters::Ledger;
use crate::sys::process::Exit;

/// Generations that may drain beside each other; past that the oldest is forced.
const MAX_DRAINING: usize = 8;

/// How long a worker that was told to stop at once may take before it is killed.
const AT_ONCE_GRACE: Duration = Duration::from_secs(1);

/// How long a process may outlive its link.
const LINK_GRACE: Duration = Duration::from_secs(1);

/// The state of the whole daemon.
#[derive(Debug)]
pub(crate) struct Machine {
    /// Before a generation said otherwise.
    initial: Policy,
    workers: BTreeMap<WorkerId, Worker>,
    /// The generation that is committed, if one ever was.
    current: Option<Current>,
    transition: Option<Transition>,
    /// Restarts asked for during a transition: together they are one more.
    pending: Option<Vec<Waiter>>,
    stopping: Option<Stopping>,
    last_worker: WorkerId,
    last_generation: Generation,
    last_restart: Option<Report>,
    exited: bool,
}

/// One process.
#[derive(Debug)]
struct Worker {
    generation: Generation,
    state: WorkerState,
    /// When the state must be over.
    deadline: Option<Instant>,
    /// When SIGKILL follows.
    kill_at: Option<Instant>,
    kill_timeout: Duration,
    /// Why it fails, in its own words or ours.
    failure: Option<String>,
    missing: Option<String>,
    /// Restarts whose answer waits for its end.
    watchers: Vec<(Option<ClientId>, Report, Instant)>,
}

/// What a worker is doing, as far as it was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WorkerState {
    Starting,
    Serving,
    Quiesced,
    Draining,
    /// Killed, not yet reaped.
    Dying,
}

impl WorkerState {
    pub(crate) fn word(self) -> &'static str {
        match self {
            WorkerState::Starting => "starting",
            WorkerState::Serving => "serving",
            WorkerState::Quiesced => "quiesced",
            WorkerState::Draining => "draining",
            WorkerState::Dying => "stopping",
        }
    }
}

#[derive(Debug)]
struct Current {
    generation: Generation,
    policy: Policy,
    /// Serving, or respawned and starting.
    worker: Option<WorkerId>,
    crashes: VecDeque<Instant>,
    respawn_at: Option<Instant>,
    /// The start limit is used up: the code to leave with, and why.
    exhausted: Option<(u8, String)>,
}

#[derive(Debug)]
struct Transition {
    generation: Generation,
    policy: Policy,
    worker: WorkerId,
    since: Instant,
    waiters: Vec<Waiter>,
    /// Committed, and to be confirmed then.
    confirm_at: Option<Instant>,
    committed_after: Option<Duration>,
}

#[derive(Debug, Clone, Copy)]
struct Waiter {
    client: Option<ClientId>,
    wait: bool,
}

#[derive(Debug)]
struct Stopping {
    code: u8,
    reason: Option<String>,
    clients: Vec<ClientId>,
    ledger: Ledger,
    urgency: Urgency,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Urgency {
    Drain,
    AtOnce,
    Kill,
}

type Actions = Vec<Action>;

impl Machine {
    pub(crate) fn new(initial: Policy) -> Machine {
        Machine {
            initial,
            workers: BTreeMap::new(),
            current: None,
            transition: None,
            pending: None,
            stopping: None,
            last_worker: 0,
            last_generation: 0,
            last_restart: None,
            exited: false,
        }
    }

    /// Takes one event; returns what is to be done, in order.
    pub(crate) fn on(&mut self, event: Event, now: Instant) -> Actions {
        let mut out = Actions::new();
        if self.exited {
            return out;
        }
        match event {
            Event::Begin => self.begin(now, &mut out),
            Event::SpawnFailed { worker, reason } => {
                if let Some(worker) = self.workers.get_mut(&worker) {
                    worker.failure = Some(reason);
                }
                self.ended(worker, Exit::Code(1), Ledger::default(), now, &mut out);
            }
            Event::Hello { worker, policy } => self.hello(worker, policy, now, &mut out),
            Event::Unacceptable { worker, reason } => self.failed(worker, reason, now, &mut out),
            Event::Ready { worker } => self.ready(worker, now, &mut out),
            Event::Failing { worker, reason } => {
                if let Some(worker) = self.workers.get_mut(&worker) {
                    worker.failure.get_or_insert(reason);
                }
            }
            Event::Leaving { worker } => self.leaving(worker, now, &mut out),
            Event::Missing { worker, what } => {
                if let Some(worker) = self.workers.get_mut(&worker) {
                    worker.missing = Some(what);
                }
            }
            Event::LinkLost { worker, reason } => {
                if let Some(worker) = self.workers.get_mut(&worker) {
                    worker.failure.get_or_insert(reason);
                    let limit = now + LINK_GRACE;
                    worker.kill_at = Some(worker.kill_at.map_or(limit, |at| at.min(limit)));
                }
            }
            Event::Exited { worker, exit, ledger } => {
                self.ended(worker, exit, ledger, now, &mut out);
            }
            Event::Restart { client, wait } => self.restart(client, wait, now, &mut out),
            Event::Stop { client, at_once } => self.stop(client, at_once, now, &mut out),
            Event::ClientGone { client } => self.client_gone(client),
            Event::Tick => self.tick(now, &mut out),
        }
        self.leave_if_done(&mut out);
        out
    }

    /// When the next [`Event::Tick`] is due.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let workers = self.workers.values().flat_map(|worker| [worker.deadline, worker.kill_at]);
        let confirm = self.transition.as_ref().and_then(|transition| transition.confirm_at);
        let respawn = self.current.as_ref().and_then(|current| current.respawn_at);
        workers.chain([confirm, respawn]).flatten().min()
    }

    // ---- a transition: start, commit, confirm, abort -------------------------------------------

    fn begin(&mut self, now: Instant, out: &mut Actions) {
        if self.last_generation == 0 && self.stopping.is_none() {
            self.start_transition(Vec::new(), now, out);
        }
    }

    fn restart(&mut self, client: Option<ClientId>, wait: bool, now: Instant, out: &mut Actions) {
        let waiter = Waiter { client, wait };
        if self.stopping.is_some() {
            refuse(client, "the daemon is stopping", out);
        } else if self.last_generation == 0 {
            refuse(client, "the daemon has not begun", out);
        } else if self.transition.is_some() {
            out.push(log(Level::Info, "a restart is in progress; one more follows it".into()));
            self.pending.get_or_insert_default().push(waiter);
        } else {
            self.start_transition(vec![waiter], now, out);
        }
    }

    fn start_transition(&mut self, waiters: Vec<Waiter>, now: Instant, out: &mut Actions) {
        self.last_generation += 1;
        let generation = self.last_generation;
        let policy = self.current.as_ref().map_or(self.initial, |current| current.policy);
        let worker = self.spawn(generation, Source::Disk, policy, now, out);
        self.transition = Some(Transition {
            generation,
            policy,
            worker,
            since: now,
            waiters,
            confirm_at: None,
            committed_after: None,
        });
    }

    fn hello(&mut self, id: WorkerId, policy: Policy, now: Instant, out: &mut Actions) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        if worker.state != WorkerState::Starting {
            return;
        }
        if let Some(transition) = self.transition.as_mut().filter(|t| t.worker == id) {
            transition.policy = policy;
            worker.kill_timeout = policy.kill_timeout;
            worker.deadline = Some(now + policy.ready_timeout);
        }
        out.push(Action::Welcome { worker: id });
    }

    fn ready(&mut self, id: WorkerId, now: Instant, out: &mut Actions) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        if worker.state != WorkerState::Starting || self.stopping.is_some() {
            return;
        }
        if self.transition.as_ref().is_some_and(|t| t.worker == id) {
            self.commit(now, out);
        } else if self.current.as_ref().is_some_and(|c| c.worker == Some(id)) {
            worker.state = WorkerState::Serving;
            worker.deadline = None;
            out.push(Action::Tell { worker: id, order: Order::Go });
            let generation = worker.generation;
            out.push(log(Level::Info, format!("generation {generation} serves again")));
        }
    }

    /// The new generation becomes the one that serves: *quiesce* and *go* back to back.
    fn commit(&mut self, now: Instant, out: &mut Actions) {
        let Some(transition) = self.transition.as_mut() else { return };
        let mut resumable = false;
        if let Some(current) = self.current.as_mut() {
            current.respawn_at = None;
            if let Some(old) = current.worker
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
        }
        if let Some(worker) = self.workers.get_mut(&transition.worker) {
            worker.state = WorkerState::Serving;
            worker.deadline = None;
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
            out.push(log(Level::Info, text));
        }
        if !resumable || transition.policy.confirm_window.is_zero() {
            self.confirm(now, out);
        }
    }

    /// The old generation can no longer be resumed: it drains, and the transition is over.
    fn confirm(&mut self, now: Instant, out: &mut Actions) {
        let Some(transition) = self.transition.take() else { return };
        let old = self.current.replace(Current {
            generation: transition.generation,
            policy: transition.policy,
            worker: Some(transition.worker),
            crashes: VecDeque::new(),
            respawn_at: None,
            exhausted: None,
        });
        let report = Report {
            from: old.as_ref().map(|old| old.generation),
            to: transition.generation,
            committed: true,
            reason: None,
            to_commit: transition.committed_after,
            to_drained: None,
            ledger: None,
        };
        let mut watched = None;
        if let Some(old) = &old {
            if let Some(id) = old.worker
                && let Some(worker) = self.workers.get_mut(&id)
            {
                drain(id, worker, now + old.policy.drain_timeout, out);
                watched = Some(id);
            }
            self.last_restart = Some(report.clone());
        }
        for waiter in transition.waiters {
            match watched.and_then(|id| self.workers.get_mut(&id)) {
                Some(worker) if waiter.wait => {
                    worker.watchers.push((waiter.client, report.clone(), transition.since));
                }
                _ => answer(waiter.client, Answer::Restarted(report.clone()), out),
            }
        }
        if let Some(id) = watched
            && let Some(worker) = self.workers.get_mut(&id)
            && worker.watchers.is_empty()
        {
            // Nobody waits, but `status` shows the figures of the last restart.
            worker.watchers.push((None, report, transition.since));
        }
        self.force_excess(now, out);
        if let Some(old) = old {
            self.retire_if_unused(old.generation, out);
        }
        self.start_pending(now, out);
    }

    /// The restart is undone; the old generation is as it was.
    fn abort(&mut self, reason: &str, now: Instant, out: &mut Actions) {
        let Some(transition) = self.transition.take() else { return };
        if let Some(worker) = self.workers.get_mut(&transition.worker) {
            kill(transition.worker, worker, out);
        }
        let Some(current) = self.current.as_mut() else {
            // There is nothing to go back to: the daemon did not start.
            self.retire_if_unused(transition.generation, out);
            for waiter in
                transition.waiters.into_iter().chain(self.pending.take().into_iter().flatten())
            {
                refuse(waiter.client, reason, out);
            }
            self.give_up(1, reason.to_owned(), now, out);
            return;
        };
        if transition.confirm_at.is_some() {
            match current.worker.and_then(|id| self.workers.get_mut(&id).map(|w| (id, w))) {
                Some((id, worker)) if worker.state == WorkerState::Quiesced => {
                    worker.state = WorkerState::Serving;
                    out.push(Action::Tell { worker: id, order: Order::Resume });
                }
                _ if self.stopping.is_none() => current.respawn_at = Some(now),
                _ => {}
            }
        }
        let report = Report {
            from: Some(current.generation),
            to: transition.generation,
            committed: false,
            reason: Some(reason.to_owned()),
            to_commit: None,
            to_drained: None,
            ledger: None,
        };
        let kept = format!("{reason}; generation {} keeps serving", current.generation);
        out.push(log(Level::Error, format!("the restart failed: {kept}")));
        self.last_restart = Some(report.clone());
        for waiter in transition.waiters {
            answer(waiter.client, Answer::Aborted(report.clone()), out);
        }
        self.retire_if_unused(transition.generation, out);
        if let Some((code, reason)) = self.exhausted() {
            if self.pending.is_none() && self.stopping.is_none() {
                self.give_up(code, reason, now, out);
                return;
            }
        }
        self.start_pending(now, out);
    }

    fn start_pending(&mut self, now: Instant, out: &mut Actions) {
        if self.stopping.is_none()
            && let Some(waiters) = self.pending.take()
        {
            self.start_transition(waiters, now, out);
        }
    }

    // ---- workers: spawn, fail, leave, end -------------------------------------------------------

    fn spawn(
        &mut self,
        generation: Generation,
        source: Source,
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
                deadline: Some(now + policy.ready_timeout),
                kill_at: None,
                kill_timeout: policy.kill_timeout,
                failure: None,
                missing: None,
                watchers: Vec::new(),
            },
        );
        out.push(Action::Spawn { worker: id, generation, source });
        id
    }

    /// A worker that is still there must not go on.
    fn failed(&mut self, id: WorkerId, reason: String, now: Instant, out: &mut Actions) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        worker.failure = Some(reason.clone());
        if self.transition.as_ref().is_some_and(|t| t.worker == id) {
            self.abort(&reason, now, out);
        } else {
            kill(id, worker, out);
        }
    }

    fn leaving(&mut self, id: WorkerId, now: Instant, out: &mut Actions) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        if self.transition.as_ref().is_some_and(|t| t.worker == id) {
            let reason = format!("the worker of generation {} got SIGTERM", worker.generation);
            worker.failure = Some(reason.clone());
            self.abort(&reason, now, out);
            return;
        }
        let Some(current) = self.current.as_mut().filter(|c| c.worker == Some(id)) else { return };
        match worker.state {
            // It drains on its own: replaced without counting a crash.
            WorkerState::Serving | WorkerState::Starting => {
                current.worker = None;
                if self.stopping.is_none() {
                    current.respawn_at = Some(now);
                }
            }
            WorkerState::Quiesced => current.worker = None,
            WorkerState::Draining | WorkerState::Dying => return,
        }
        let generation = worker.generation;
        let deadline = now + current.policy.drain_timeout;
        worker.state = WorkerState::Draining;
        worker.deadline = Some(deadline);
        out.push(Action::Tell { worker: id, order: Order::Drain { deadline } });
        out.push(log(
            Level::Info,
            format!("a worker of generation {generation} got SIGTERM: it drains and is replaced"),
        ));
        self.force_excess(now, out);
        self.tick(now, out);
    }

    /// The process is gone.
    fn ended(&mut self, id: WorkerId, exit: Exit, ledger: Ledger, now: Instant, out: &mut Actions) {
        let Some(worker) = self.workers.remove(&id) else { return };
        if let Some(stopping) = &mut self.stopping {
            stopping.ledger += ledger;
        }
        for (client, mut report, since) in worker.watchers {
            report.to_drained = Some(now.saturating_duration_since(since));
            report.ledger = Some(ledger);
            if let Some(last) = self.last_restart.as_mut().filter(|last| last.to == report.to) {
                *last = report.clone();
            }
            answer(client, Answer::Restarted(report), out);
        }
        if self.transition.as_ref().is_some_and(|t| t.worker == id) {
            let generation = worker.generation;
            let ended = format!("the worker of generation {generation} {exit}");
            let when = match worker.state {
                WorkerState::Starting => "before it was ready",
                _ => "before it was confirmed",
            };
            let reason = match worker.failure {
                Some(failure) => failure,
                None => format!("{ended} {when}"),
            };
            if self.current.is_none() && self.stopping.is_none() {
                // The first start: the daemon ends as its worker did, and success is none.
                self.transition = None;
                self.retire_if_unused(generation, out);
                for waiter in self.pending.take().into_iter().flatten() {
                    refuse(waiter.client, &reason, out);
                }
                self.give_up(exit.shell_code().max(1), reason, now, out);
                return;
            }
            self.abort(&reason, now, out);
            return;
        }
        if self.current.as_ref().is_some_and(|c| c.worker == Some(id)) {
            self.current_ended(&worker.failure, worker.state, exit, now, out);
        }
        self.retire_if_unused(worker.generation, out);
    }

    /// The worker of the committed generation is gone, unasked.
    fn current_ended(
        &mut self,
        failure: &Option<String>,
        state: WorkerState,
        exit: Exit,
        now: Instant,
        out: &mut Actions,
    ) {
        let Some(current) = self.current.as_mut() else { return };
        current.worker = None;
        if self.stopping.is_some() || state == WorkerState::Draining {
            return;
        }
        if self.transition.as_ref().is_some_and(|t| t.confirm_at.is_some()) {
            // The new generation serves already; if it fails, this one is respawned.
            return;
        }
        let generation = current.generation;
        let what = match failure {
            Some(failure) => format!("the worker of generation {generation} {exit}: {failure}"),
            None => format!("the worker of generation {generation} {exit}"),
        };
        let finished = exit.success() && state != WorkerState::Starting;
        match current.policy.restart {
            RestartPolicy::OnFailure if finished => {
                out.push(log(Level::Info, format!("{what}: the program is done")));
                self.give_up(0, what, now, out);
                return;
            }
            RestartPolicy::No => {
                self.give_up(exit.shell_code(), what, now, out);
                return;
            }
            RestartPolicy::OnFailure | RestartPolicy::Always => {}
        }
        current.crashes.push_back(now);
        let interval = current.policy.start_limit_interval;
        while current
            .crashes
            .front()
            .is_some_and(|&at| now.saturating_duration_since(at) > interval)
        {
            current.crashes.pop_front();
        }
        let count = u32::try_from(current.crashes.len()).unwrap_or(u32::MAX);
        if count > current.policy.start_limit_burst {
            let reason = format!(
                "{what}, for the {count}th time within {}: start limit reached",
                seconds(interval)
            );
            let code = exit.shell_code().max(1);
            current.exhausted = Some((code, reason.clone()));
            if self.transition.is_none() {
                self.give_up(code, reason, now, out);
            }
            return;
        }
        let delay = backoff(&current.policy, count);
        current.respawn_at = Some(now + delay);
        out.push(log(Level::Warn, format!("{what}; respawn in {}", seconds(delay))));
    }

    fn exhausted(&self) -> Option<(u8, String)> {
        self.current.as_ref().and_then(|current| current.exhausted.clone())
    }

    fn respawn(&mut self, now: Instant, out: &mut Actions) {
        let Some(current) = self.current.as_mut() else { return };
        current.respawn_at = None;
        let (generation, policy) = (current.generation, current.policy);
        let worker = self.spawn(generation, Source::Pinned, policy, now, out);
        if let Some(current) = self.current.as_mut() {
            current.worker = Some(worker);
        }
    }

    /// Past [`MAX_DRAINING`] the oldest is forced.
    fn force_excess(&mut self, now: Instant, out: &mut Actions) {
        let draining: Vec<WorkerId> = self
            .workers
            .iter()
            .filter(|(_, worker)| worker.state == WorkerState::Draining)
            .map(|(id, _)| *id)
            .collect();
        let excess = draining.len().saturating_sub(MAX_DRAINING);
        for id in draining.into_iter().take(excess) {
            if let Some(worker) = self.workers.get_mut(&id)
                && worker.deadline.is_some_and(|deadline| deadline > now)
            {
                out.push(log(
                    Level::Warn,
                    format!(
                        "more than {MAX_DRAINING} workers drain: the one of generation {} is forced",
                        worker.generation
                    ),
                ));
                drain(id, worker, now, out);
            }
        }
    }

    fn retire_if_unused(&mut self, generation: Generation, out: &mut Actions) {
        let used = self.workers.values().any(|worker| worker.generation == generation)
            || self.current.as_ref().is_some_and(|c| c.generation == generation)
            || self.transition.as_ref().is_some_and(|t| t.generation == generation);
        if !used {
            out.push(Action::Retire { generation });
        }
    }

    // ---- the end --------------------------------------------------------------------------------

    fn stop(&mut self, client: Option<ClientId>, at_once: bool, now: Instant, out: &mut Actions) {
        let wanted = if at_once { Urgency::AtOnce } else { Urgency::Drain };
        let urgency = match &mut self.stopping {
            None => {
                self.begin_stop(0, None, wanted, now, out);
                wanted
            }
            // The same signal again means that it is serious.
            Some(stopping) => match (client, stopping.urgency) {
                (Some(_), urgency) => urgency.max(wanted),
                (None, Urgency::Drain) => Urgency::AtOnce,
                (None, Urgency::AtOnce | Urgency::Kill) => Urgency::Kill,
            },
        };
        let Some(stopping) = &mut self.stopping else { return };
        stopping.clients.extend(client);
        if urgency > stopping.urgency {
            stopping.urgency = urgency;
            self.hurry(urgency, now, out);
        }
    }

    /// The daemon ends by itself.
    fn give_up(&mut self, code: u8, reason: String, now: Instant, out: &mut Actions) {
        if self.stopping.is_none() {
            self.begin_stop(code, Some(reason), Urgency::Drain, now, out);
        }
    }

    fn begin_stop(
        &mut self,
        code: u8,
        reason: Option<String>,
        urgency: Urgency,
        now: Instant,
        out: &mut Actions,
    ) {
        self.stopping = Some(Stopping {
            code,
            reason,
            clients: Vec::new(),
            ledger: Ledger::default(),
            urgency: Urgency::Drain,
        });
        out.push(Action::Progress { text: "stopping".into() });
        self.abandon_transition(now, out);
        let policy = self.current.as_ref().map_or(self.initial, |current| current.policy);
        if let Some(current) = self.current.as_mut() {
            current.respawn_at = None;
        }
        for (&id, worker) in &mut self.workers {
            match worker.state {
                WorkerState::Starting => kill(id, worker, out),
                WorkerState::Serving | WorkerState::Quiesced => {
                    drain(id, worker, now + policy.drain_timeout, out);
                }
                WorkerState::Draining | WorkerState::Dying => {}
            }
        }
        if urgency > Urgency::Drain {
            if let Some(stopping) = &mut self.stopping {
                stopping.urgency = urgency;
            }
            self.hurry(urgency, now, out);
        }
    }

    /// Ends a transition because the daemon stops: neither committed nor undone, all of it drains.
    fn abandon_transition(&mut self, _now: Instant, out: &mut Actions) {
        let pending = self.pending.take().into_iter().flatten();
        let reason = "the daemon was told to stop";
        if let Some(transition) = self.transition.take() {
            let report = Report {
                from: self.current.as_ref().map(|current| current.generation),
                to: transition.generation,
                committed: false,
                reason: Some(reason.into()),
                to_commit: None,
                to_drained: None,
                ledger: None,
            };
            for waiter in transition.waiters {
                answer(waiter.client, Answer::Aborted(report.clone()), out);
            }
            self.last_restart = Some(report);
        }
        for waiter in pending {
            refuse(waiter.client, reason, out);
        }
    }

    fn hurry(&mut self, urgency: Urgency, now: Instant, out: &mut Actions) {
        for (&id, worker) in &mut self.workers {
            match (urgency, worker.state) {
                (_, WorkerState::Dying) => {}
                (Urgency::Kill, _) | (_, WorkerState::Starting) => kill(id, worker, out),
                (Urgency::Drain | Urgency::AtOnce, _) => {
                    drain(id, worker, now, out);
                    worker.kill_at = Some(now + AT_ONCE_GRACE.min(worker.kill_timeout));
                }
            }
        }
    }

    fn leave_if_done(&mut self, out: &mut Actions) {
        if !self.workers.is_empty() {
            return;
        }
        let Some(stopping) = self.stopping.take() else { return };
        for client in stopping.clients {
            answer(Some(client), Answer::Stopped { ledger: stopping.ledger }, out);
        }
        self.exited = true;
        out.push(Action::Exit { code: stopping.code, reason: stopping.reason });
    }

    // ---- time and clients -----------------------------------------------------------------------

    fn tick(&mut self, now: Instant, out: &mut Actions) {
        let due: Vec<WorkerId> = self.workers.keys().copied().collect();
        for id in due {
            self.tick_worker(id, now, out);
        }
        if self.transition.as_ref().is_some_and(|t| t.confirm_at.is_some_and(|at| at <= now)) {
            self.confirm(now, out);
        }
        if self.stopping.is_none()
            && self.current.as_ref().is_some_and(|c| c.respawn_at.is_some_and(|at| at <= now))
        {
            self.respawn(now, out);
        }
    }

    fn tick_worker(&mut self, id: WorkerId, now: Instant, out: &mut Actions) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        if worker.kill_at.is_some_and(|at| at <= now) {
            kill(id, worker, out);
        }
        if worker.deadline.is_none_or(|deadline| deadline > now) {
            return;
        }
        worker.deadline = None;
        match worker.state {
            WorkerState::Starting => {
                let limit = match &self.transition {
                    Some(transition) if transition.worker == id => transition.policy,
                    _ => self.current.as_ref().map_or(self.initial, |current| current.policy),
                }
                .ready_timeout;
                let missing =
                    worker.missing.take().map_or(String::new(), |what| format!(": {what}"));
                let reason = format!(
                    "the worker of generation {} was not ready within {}{missing}; \
                     raise `ready_timeout` if it needs longer",
                    worker.generation,
                    seconds(limit)
                );
                self.failed(id, reason, now, out);
            }
            WorkerState::Draining => {
                out.push(Action::Terminate { worker: id });
                let limit = now + worker.kill_timeout;
                worker.kill_at = Some(worker.kill_at.map_or(limit, |at| at.min(limit)));
            }
            WorkerState::Serving | WorkerState::Quiesced | WorkerState::Dying => {}
        }
    }

    fn client_gone(&mut self, client: ClientId) {
        let gone = |waiter: &mut Waiter| {
            if waiter.client == Some(client) {
                waiter.client = None;
            }
        };
        if let Some(transition) = &mut self.transition {
            transition.waiters.iter_mut().for_each(gone);
        }
        if let Some(pending) = &mut self.pending {
            pending.iter_mut().for_each(gone);
        }
        for worker in self.workers.values_mut() {
            for (watcher, _, _) in &mut worker.watchers {
                if *watcher == Some(client) {
                    *watcher = None;
                }
            }
        }
        if let Some(stopping) = &mut self.stopping {
            stopping.clients.retain(|waiting| *waiting != client);
        }
    }

    // ---- what is shown --------------------------------------------------------------------------

    /// The state of a worker and the generation it belongs to.
    pub(crate) fn worker_state(&self, id: WorkerId) -> Option<WorkerState> {
        self.workers.get(&id).map(|worker| worker.state)
    }

    /// The generation that serves, or will once its worker is back.
    pub(crate) fn serving_generation(&self) -> Option<Generation> {
        match &self.transition {
            Some(transition) if transition.confirm_at.is_some() => Some(transition.generation),
            _ => self.current.as_ref().map(|current| current.generation),
        }
    }

    pub(crate) fn last_restart(&self) -> Option<&Report> {
        self.last_restart.as_ref()
    }

    /// The daemon in one word.
    pub(crate) fn state_word(&self) -> &'static str {
        if self.stopping.is_some() || self.exited {
            "stopping"
        } else if self.current.is_none() {
            "starting"
        } else {
            "running"
        }
    }
}

fn drain(id: WorkerId, worker: &mut Worker, deadline: Instant, out: &mut Actions) {
    worker.state = WorkerState::Draining;
    worker.deadline = Some(deadline);
    out.push(Action::Tell { worker: id, order: Order::Drain { deadline } });
}

fn kill(id: WorkerId, worker: &mut Worker, out: &mut Actions) {
    worker.deadline = None;
    worker.kill_at = None;
    if worker.state != WorkerState::Dying {
        worker.state = WorkerState::Dying;
        out.push(Action::Kill { worker: id });
    }
}

fn answer(client: Option<ClientId>, answer: Answer, out: &mut Actions) {
    if let Some(client) = client {
        out.push(Action::Answer { client, answer });
    }
}

fn refuse(client: Option<ClientId>, reason: &str, out: &mut Actions) {
    answer(client, Answer::Refused { reason: reason.to_owned() }, out);
}

fn log(level: Level, text: String) -> Action {
    Action::Log { level, text }
}

/// `backoff_min` doubled with every crash of the interval, up to `backoff_max`.
fn backoff(policy: &Policy, crashes: u32) -> Duration {
    let factor = 2_u32.saturating_pow(crashes.saturating_sub(1).min(30));
    policy.backoff_min.saturating_mul(factor).min(policy.backoff_max)
}

/// A duration as people read it: `0.042 s`, `30 s`.
fn seconds(duration: Duration) -> String {
    let text = format!("{:.3}", duration.as_secs_f64());
    format!("{} s", text.trim_end_matches('0').trim_end_matches('.'))
}
