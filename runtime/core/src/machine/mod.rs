//! All decisions of the supervisor, as a state machine without I/O or a clock.
//!
//! The driver passes each [`Event`] with the current time to [`Machine::on`], carries out the returned
//! [`Action`]s in their order, and sends [`Event::Tick`] when [`Machine::deadline`] has passed. The machine
//! can be serialized: a supervisor that upgrades hands it to its next image.
//!
//! Each submodule handles one subject in an `impl Machine` of its own: `transition` goes through a restart,
//! `committed` heals crashes of the generation that serves, `worker` follows single processes, `stop`
//! ends the daemon. Methods push actions to their argument `out`. The invariants of the machine are listed
//! and checked in `invariants`, over scenarios and random histories. A daemon without a supervisor has a
//! smaller machine of its own, [`solo`].

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
mod lifecycle;
mod orphans;
mod retire;
mod rollback;
#[cfg(test)]
mod scenarios;
pub mod solo;
mod state;
mod stop;
mod timers;
mod transition;
mod upgrade;
mod watchdog;
mod worker;

use std::collections::VecDeque;
use std::time::Duration;

use crate::Instant;

use self::committed::CommittedGeneration;
use self::exe::Exe;
use self::lifecycle::{Active, Lifecycle};
use self::orphans::Orphans;
use self::retire::Retiring;
pub use self::state::State;
use self::stop::Urgency;
use self::timers::{Timer, Timers};
use self::transition::Waiter;
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
    timers: Timers,
    /// The orphans that have not ended; `None` if there are none.
    #[json(default)]
    orphans: Option<Orphans>,
    /// The generation that was confirmed last; `None` until the first start succeeds.
    current: Option<CommittedGeneration>,
    life: Lifecycle,
    #[json(default)]
    exe: Exe,
    /// The generations that served, no longer do, and still have workers.
    retiring: Vec<Retiring>,
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
}

type Actions = Vec<Action>;

impl Machine {
    pub fn new(initial: Policy) -> Machine {
        Machine {
            initial,
            workers: SortedMap::new(),
            timers: Timers::default(),
            orphans: None,
            current: None,
            life: Lifecycle::Active(Active::default()),
            exe: Exe::default(),
            retiring: Vec::new(),
            rolled_back: None,
            last_worker: 0,
            last_generation: 0,
            before: 0,
            ledgers: SortedMap::new(),
            restarts: VecDeque::new(),
        }
    }

    /// Handles one event; returns what must be done, in order.
    pub fn on(&mut self, event: Event, now: Instant) -> Actions {
        let mut out = Actions::new();
        if matches!(self.life, Lifecycle::Exited) {
            return out;
        }
        let before = self.shown();
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
            Event::RestartFrom { exe, client, .. } if !exe.is_absolute() => {
                refuse(client, &format!("{} is not an absolute path", exe.display()), &mut out);
            }
            Event::RestartFrom { exe, client, wait } => {
                self.restart(Some(exe), client, wait, now, &mut out);
            }
            Event::Stop { client, at_once } => self.stop(client, at_once, now, &mut out),
            Event::ClientGone { client } => self.client_gone(client),
            Event::OrphansGone => self.orphans_gone(now, &mut out),
            Event::UpgradeFinished { kept } => self.upgraded(kept, now, &mut out),
            Event::Tick => self.tick(now, &mut out),
        }
        let exit = self.exit_if_drained(now, &mut out);
        self.mark_last_drains(&mut out);
        self.announce_changes(&before, &mut out);
        out.extend(exit);
        out
    }

    /// Returns when the next [`Event::Tick`] is due.
    pub fn deadline(&self) -> Option<Instant> {
        self.timers.next()
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
        let mut last = None;
        while let Some(timer) = self.timers.expired(now, last) {
            match timer {
                Timer::Kill(worker) => self.end_of_grace(worker, now, out),
                Timer::Deadline(worker) => self.end_of_state(worker, now, out),
                Timer::Ping(worker) => self.ping(worker, now, out),
                Timer::Pong(worker) => self.hung(worker, now, out),
                Timer::Confirm => self.end_confirm_window(now, out),
                Timer::Respawn => self.respawn(now, out),
                Timer::LameDuck => self.begin_stop(0, None, Urgency::Drain, now, out),
                Timer::Orphans => self.kill_orphans(now, out),
            }
            last = Some(timer);
        }
    }

    /// Forgets a client that disconnected, wherever it waits.
    fn client_gone(&mut self, client: ClientId) {
        let gone = |waiter: &mut Waiter| {
            if waiter.client == Some(client) {
                waiter.client = None;
            }
        };
        for retiring in &mut self.retiring {
            retiring.waiters.iter_mut().for_each(gone);
        }
        match &mut self.life {
            Lifecycle::Active(Active { transition, pending, upgrade, lame_duck }) => {
                if let Some(transition) = transition {
                    transition.waiters.iter_mut().for_each(gone);
                }
                pending.iter_mut().for_each(gone);
                if let Some(upgrade) = upgrade {
                    upgrade.forget(client);
                }
                if let Some(lame_duck) = lame_duck {
                    lame_duck.forget(client);
                }
            }
            Lifecycle::Stopping(stopping) => {
                stopping.clients.retain(|waiting| *waiting != client);
            }
            Lifecycle::Exited => {}
        }
    }

    // ---- what is shown --------------------------------------------------------------------------

    /// Returns the state of a worker; `None` after its process was reaped.
    pub fn worker_state(&self, id: WorkerId) -> Option<WorkerState> {
        self.workers.get(&id).map(|worker| worker.state)
    }

    /// Returns whether the deadline of a worker's state has passed.
    pub fn is_overdue(&self, id: WorkerId, now: Instant) -> bool {
        self.timers.is_due(Timer::Deadline(id), now)
    }

    /// Returns the generation that serves or, if its worker has crashed, will serve after the respawn.
    pub fn serving_generation(&self) -> Option<Generation> {
        match self.life.transition() {
            Some(transition) if transition.is_committed() => Some(transition.generation),
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
        } else if let Some(transition) = self.life.transition_mut()
            && [Some(transition.generation), current].contains(&Some(generation))
        {
            &mut transition.warnings
        } else if let Some(stopping) = self.life.stopping_mut() {
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
