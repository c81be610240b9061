//! All decisions of the supervisor, as a state machine without I/O or a clock.
//!
//! The driver passes each [`Event`] with the current time to [`Machine::on`], carries out the returned
//! [`Action`]s in their order, and sends [`Event::Tick`] when [`Machine::deadline`] has passed. The machine
//! can be serialized: a supervisor that upgrades hands it to its next image.
//!
//! Each submodule handles one subject in an `impl Machine` of its own: `transition` goes through a restart,
//! `committed` heals crashes of the generation that serves, `worker` follows single processes, `stop`
//! ends the daemon. Methods push actions to their argument `out`. The invariants of the machine are listed
//! and checked in `invariants`, over scenarios and random histories.

mod committed;
mod confirm_window;
mod exclusive;
mod exe;
mod health;
#[cfg(test)]
mod histories;
#[cfg(test)]
mod invariants;
mod lame_duck;
mod retire;
mod rollback;
#[cfg(test)]
mod scenarios;
mod stop;
mod transition;
mod upgrade;
mod watchdog;
mod worker;

use std::collections::VecDeque;
use std::time::Duration;

use crate::Instant;

use self::committed::CommittedGeneration;
use self::exe::Exe;
use self::lame_duck::LameDuck;
use self::retire::Retiring;
use self::stop::Stopping;
use self::transition::{Transition, Waiter};
use self::upgrade::Upgrade;
use self::worker::Worker;
pub use self::worker::WorkerState;
use crate::Exit;
use crate::Ledger;
use crate::event::{
    Action, ClientAnswer, ClientId, Event, Generation, Level, RestartReport, WorkerId,
};
use crate::json::{FromJson, ToJson};
use crate::policy::Policy;
use crate::sorted::SortedMap;

/// The most rounds of one tick: handling what is due can make something else due at once, if timeouts are
/// zero. A few rounds are enough; the limit is there so that an endless loop, which no simulated history has
/// shown, could not keep the supervisor from its other events.
const TICK_ROUNDS: usize = 16;

/// The most warnings in a report. The reports of [`MAX_RESTARTS`] restarts have to fit into the
/// packet that `status` answers with.
const MAX_WARNINGS: usize = 3;

/// The most characters of a worker's own failure text in a warning, for the same packet.
const MAX_FAILURE_TEXT: usize = 100;

/// The most restarts that `status` shows, the latest first.
pub const MAX_RESTARTS: usize = 10;

/// The state of the whole daemon. A supervisor that upgrades hands it to its next image.
#[derive(Debug, Clone, ToJson, FromJson)]
pub struct Machine {
    /// The policy of the supervisor's own start, for the first worker until its *hello*.
    initial: Policy,
    /// All workers whose processes are not reaped yet.
    workers: SortedMap<WorkerId, Worker>,
    /// The generation that was confirmed last; `None` until the first start succeeds.
    current: Option<CommittedGeneration>,
    /// The start or restart in progress: from its request until it is confirmed or aborted.
    transition: Option<Transition>,
    /// The requests for a restart that arrived during a transition or an upgrade. One more restart, right
    /// after it, serves them all.
    pending: Option<Vec<Waiter>>,
    /// The upgrade of the supervisor in progress, after a restart was confirmed.
    upgrade: Option<Upgrade>,
    /// The path of the image, if a restart named one.
    #[json(default)]
    exe: Exe,
    /// The generations that served, no longer do, and still have workers.
    retiring: Vec<Retiring>,
    /// The lame-duck phase: the daemon was asked to stop and still accepts.
    #[json(default)]
    lame_duck: Option<LameDuck>,
    /// The stop in progress: all workers drain.
    stopping: Option<Stopping>,
    /// If a rolled-back image runs instead of the one that was asked for: why.
    rolled_back: Option<String>,
    /// The number of the worker spawned last.
    last_worker: WorkerId,
    /// The number of the generation begun last.
    last_generation: Generation,
    /// The last generation of an earlier supervisor whose orphans this one re-attached, else 0. Until
    /// `last_generation` exceeds it, the daemon has not begun.
    #[json(default)]
    before: Generation,
    /// The sum of the ledgers of a generation's workers that have ended, until the generation is released.
    ledgers: SortedMap<Generation, Ledger>,
    /// The reports of the last restarts, the latest first.
    restarts: VecDeque<RestartReport>,
    /// Whether [`Action::Exit`] was returned: all further events are ignored.
    exited: bool,
}

type Actions = Vec<Action>;

impl Machine {
    pub fn new(initial: Policy) -> Machine {
        Machine {
            initial,
            workers: SortedMap::new(),
            current: None,
            transition: None,
            pending: None,
            upgrade: None,
            exe: Exe::default(),
            retiring: Vec::new(),
            lame_duck: None,
            stopping: None,
            rolled_back: None,
            last_worker: 0,
            last_generation: 0,
            before: 0,
            ledgers: SortedMap::new(),
            restarts: VecDeque::new(),
            exited: false,
        }
    }

    /// Numbers generations after `generation`, the last one of an earlier supervisor.
    pub fn counting_from(mut self, generation: Generation) -> Machine {
        (self.last_generation, self.before) = (generation, generation);
        self
    }

    /// Handles one event; returns what must be done, in order.
    pub fn on(&mut self, event: Event, now: Instant) -> Actions {
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
            Event::HelloRejected { worker, reason } => {
                self.hello_rejected(worker, reason, now, &mut out)
            }
            Event::Ready { worker } => self.ready(worker, now, &mut out),
            Event::Failing { worker, reason } => {
                if let Some(worker) = self.workers.get_mut(&worker) {
                    worker.failure.get_or_insert(reason);
                }
            }
            Event::SelfDraining { worker, main_ended } => {
                self.self_draining(worker, main_ended, now, &mut out);
            }
            Event::Unhealthy { worker, reason } => self.unhealthy(worker, reason, now, &mut out),
            Event::ConfirmEarly { worker } => self.confirm_early(worker, now, &mut out),
            Event::HealthCheck { worker, passed } => self.check(worker, passed, now, &mut out),
            Event::Pong { worker } => self.pong(worker, now),
            Event::ReadinessBlockedBy { worker, what } => {
                if let Some(worker) = self.workers.get_mut(&worker) {
                    worker.missing = Some(what);
                }
            }
            Event::LinkLost { worker, reason } => self.link_lost(worker, reason, now),
            Event::Exited { worker, exit, ledger } => {
                self.ended(worker, exit, ledger, now, &mut out);
            }
            Event::Restart { client, wait } => self.restart(None, client, wait, now, &mut out),
            Event::RestartFrom { exe, client, wait } => {
                self.restart(Some(exe), client, wait, now, &mut out);
            }
            Event::Stop { client, at_once } => self.stop(client, at_once, now, &mut out),
            Event::ClientGone { client } => self.client_gone(client),
            Event::UpgradeFinished { kept } => self.upgraded(kept, now, &mut out),
            Event::Tick => self.tick(now, &mut out),
        }
        self.exit_if_drained(now, &mut out);
        out
    }

    /// Returns when the next [`Event::Tick`] is due.
    pub fn deadline(&self) -> Option<Instant> {
        let workers = self.workers.values().flat_map(|worker| {
            [worker.deadline, worker.kill_at, worker.watch.map(|watch| watch.due())]
        });
        let confirm = self.transition.as_ref().and_then(|transition| transition.confirm_at);
        let respawn = self.current.as_ref().and_then(|current| current.respawn_at);
        let lame_duck = self.lame_duck.as_ref().map(LameDuck::until);
        workers.chain([confirm, respawn, lame_duck]).flatten().min()
    }

    // ---- time and clients -----------------------------------------------------------------------

    /// Handles all that is due, and what becomes due by that.
    fn tick(&mut self, now: Instant, out: &mut Actions) {
        for _ in 0..TICK_ROUNDS {
            self.tick_once(now, out);
            if self.deadline().is_none_or(|at| at > now) {
                return;
            }
        }
    }

    fn tick_once(&mut self, now: Instant, out: &mut Actions) {
        let due: Vec<WorkerId> = self.workers.keys().copied().collect();
        for id in due {
            self.tick_worker(id, now, out);
        }
        if self.transition.as_ref().is_some_and(|t| t.confirm_at.is_some_and(|at| at <= now)) {
            self.end_confirm_window(now, out);
        }
        if self.stopping.is_none()
            && self.current.as_ref().is_some_and(|c| c.respawn_at.is_some_and(|at| at <= now))
        {
            self.respawn(now, out);
        }
        self.tick_lame_duck(now, out);
    }

    /// Forgets a client that disconnected, wherever it waits.
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
        for retiring in &mut self.retiring {
            retiring.waiters.iter_mut().for_each(gone);
        }
        if let Some(upgrade) = &mut self.upgrade {
            upgrade.forget(client);
        }
        if let Some(stopping) = &mut self.stopping {
            stopping.clients.retain(|waiting| *waiting != client);
        }
        if let Some(lame_duck) = &mut self.lame_duck {
            lame_duck.forget(client);
        }
    }

    // ---- what is shown --------------------------------------------------------------------------

    /// Returns the state of a worker; `None` after its process was reaped.
    pub fn worker_state(&self, id: WorkerId) -> Option<WorkerState> {
        self.workers.get(&id).map(|worker| worker.state)
    }

    /// Returns whether the deadline of a worker's state has passed.
    pub fn is_overdue(&self, id: WorkerId, now: Instant) -> bool {
        let deadline = self.workers.get(&id).and_then(|worker| worker.deadline);
        deadline.is_some_and(|deadline| deadline <= now)
    }

    /// Returns the generation that serves or, if its worker has crashed, will serve after the respawn.
    pub fn serving_generation(&self) -> Option<Generation> {
        match &self.transition {
            Some(transition) if transition.confirm_at.is_some() => Some(transition.generation),
            _ => self.current.as_ref().map(|current| current.generation),
        }
    }

    /// Returns the generation that was confirmed last: its image is the known-good one.
    pub fn confirmed_generation(&self) -> Option<Generation> {
        self.current.as_ref().map(|current| current.generation)
    }

    /// Returns the reports of the last restarts, the latest first.
    pub fn restarts(&self) -> impl Iterator<Item = &RestartReport> {
        self.restarts.iter()
    }

    /// Returns the sum of the ledgers of a generation's workers that have ended.
    pub fn ledger_of(&self, generation: Generation) -> Ledger {
        self.ledgers.get(&generation).copied().unwrap_or_default()
    }

    /// Logs that a worker did not end as it should, and adds the text to the warnings of the report or stop
    /// to which its generation belongs.
    fn warn(&mut self, generation: Generation, text: String, out: &mut Actions) {
        out.push(log_of(generation, Level::Warn, text.clone()));
        let current = self.current.as_ref().map(|current| current.generation);
        let warnings = if let Some(retiring) =
            self.retiring.iter_mut().find(|it| it.generation == generation)
        {
            &mut retiring.report.warnings
        } else if let Some(transition) = &mut self.transition
            && [Some(transition.generation), current].contains(&Some(generation))
        {
            &mut transition.warnings
        } else if let Some(stopping) = &mut self.stopping {
            &mut stopping.warnings
        } else {
            return;
        };
        if warnings.len() < MAX_WARNINGS {
            warnings.push(text);
        }
    }

    /// Adds a report to those of the last restarts.
    fn record_restart(&mut self, report: RestartReport) {
        self.restarts.push_front(report);
        self.restarts.truncate(MAX_RESTARTS);
    }

    /// Returns why a rolled-back image runs instead of the one that was asked for, if so.
    pub fn rolled_back(&self) -> Option<&str> {
        self.rolled_back.as_deref()
    }

    /// Returns the state of the daemon as one word.
    pub fn state_word(&self) -> &'static str {
        if self.stopping.is_some() || self.exited {
            "stopping"
        } else if self.lame_duck.is_some() {
            "lame-duck"
        } else if self.current.is_none() {
            "starting"
        } else {
            "running"
        }
    }
}

/// Answers `client`, if there is one.
fn answer(client: Option<ClientId>, answer: ClientAnswer, out: &mut Actions) {
    if let Some(client) = client {
        out.push(Action::Answer { client, answer });
    }
}

/// Refuses the request of `client`, if there is one.
fn refuse(client: Option<ClientId>, reason: &str, out: &mut Actions) {
    answer(client, ClientAnswer::Refused { reason: reason.to_owned() }, out);
}

/// Returns a log line that is not about one generation.
fn log(level: Level, text: String) -> Action {
    Action::Log { level, text, generation: None }
}

/// Returns a log line about one generation.
fn log_of(generation: Generation, level: Level, text: String) -> Action {
    Action::Log { level, text, generation: Some(generation) }
}

/// Renders a worker's reason for its failure as the end of a sentence: `: reason`, or nothing.
fn why(failure: Option<&String>) -> String {
    failure.map_or(String::new(), |failure| {
        let words: String = failure.chars().take(MAX_FAILURE_TEXT).collect();
        let more = if words.len() < failure.len() { "…" } else { "" };
        format!(": {words}{more}")
    })
}

/// Renders a duration in seconds: `0.042 s`, `30 s`.
fn seconds(duration: Duration) -> String {
    let text = format!("{:.3}", duration.as_secs_f64());
    format!("{} s", text.trim_end_matches('0').trim_end_matches('.'))
}
