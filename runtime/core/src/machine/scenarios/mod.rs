//! Scenarios: one short history per test, with exact times, checked by [`Watch`] too.
//!
//! A [`Story`] sends events to a machine and renders the actions as short strings: `spawn 2 of 1 from
//! pinned` is worker 2 of generation 1, `drain 1 by 30.0` has the deadline in seconds from the beginning,
//! `tell 9: …` is the answer to client 9, `up` is [`Action::FirstReady`], `examine` is
//! [`Action::DumpThreads`] and `retire` is [`Action::ReleaseGeneration`].

mod changes;
mod confirm;
mod connections;
mod crashes;
mod ends;
mod exclusive;
mod exe;
mod first_start;
mod lame_duck;
mod orphans;
mod restarts;
mod rollback;
mod solo;
mod upgrade;
mod watchdog;

use std::time::Duration;

use crate::Instant;

use super::RestartReport;
use super::State;
use super::invariants::Watch;
use crate::Exit;
use crate::Ledger;
use crate::event::{Action, ClientAnswer, ClientId, Event, ImageSource, WorkerCommand, WorkerId};
use crate::policy::{Policy, RestartPolicy};

fn policy() -> Policy {
    Policy {
        ready_timeout: Duration::from_secs(60),
        drain_timeout: Duration::from_secs(30),
        kill_timeout: Duration::from_secs(5),
        lame_duck: Duration::ZERO,
        confirm_window: Duration::ZERO,
        exclusive: false,
        watchdog: None,
        restart: RestartPolicy::OnFailure,
        backoff_min: Duration::from_millis(100),
        backoff_max: Duration::from_secs(1),
        start_limit_burst: 5,
        start_limit_interval: Duration::from_secs(60),
    }
}

/// A policy with a confirm window of two seconds.
fn confirming() -> Policy {
    Policy { confirm_window: Duration::from_secs(2), ..policy() }
}

fn restarting(restart: RestartPolicy) -> Policy {
    Policy { restart, ..policy() }
}

fn hello(worker: WorkerId, policy: Policy) -> Event {
    Event::Hello { worker, policy }
}

fn ready(worker: WorkerId) -> Event {
    Event::Ready { worker }
}

fn leaving(worker: WorkerId) -> Event {
    Event::SelfDraining { worker, main_ended: false }
}

fn main_ended(worker: WorkerId) -> Event {
    Event::SelfDraining { worker, main_ended: true }
}

fn lost(worker: WorkerId) -> Event {
    Event::LinkLost { worker, reason: "the link ended".into() }
}

/// The end of a worker whose ledger has as many connections as its number.
fn exited(worker: WorkerId, code: i32) -> Event {
    gone(worker, Exit::Code(code))
}

fn killed(worker: WorkerId) -> Event {
    gone(worker, Exit::Signal(9))
}

fn gone(worker: WorkerId, exit: Exit) -> Event {
    let ledger = Ledger { accepted: worker, finished: worker, ..Ledger::default() };
    Event::Exited { worker, exit, ledger }
}

fn restart(client: ClientId) -> Event {
    Event::Restart { client: Some(client), wait: true }
}

fn restart_no_wait(client: ClientId) -> Event {
    Event::Restart { client: Some(client), wait: false }
}

const HUP: Event = Event::Restart { client: None, wait: false };
const TERM: Event = Event::Stop { client: None, at_once: false };
const QUIT: Event = Event::Stop { client: None, at_once: true };

/// A scenario in progress.
struct Story {
    watch: Watch,
    /// The time at which it begins.
    began: Instant,
    /// The policy in the *hello* of [`Story::boots`].
    policy: Policy,
    /// Whether upgrades of the supervisor succeed at once and are left out of the strings.
    upgrades_at_once: bool,
}

impl Story {
    fn new(policy: Policy) -> Story {
        let watch = Watch::new(policy);
        Story { began: watch.now, watch, policy, upgrades_at_once: true }
    }

    /// A story with orphans of generation 6, which is their own last one.
    fn with_orphans(policy: Policy, exclusive: bool) -> Story {
        let story = Story::new(policy);
        Story { watch: story.watch.with_orphans(6, exclusive), ..story }
    }

    /// A story in which worker 1 of the first generation serves.
    fn serving(policy: Policy) -> Story {
        let mut story = Story::new(policy);
        assert_eq!(story.on(Event::Begin), ["spawn 1 of 1 from disk"]);
        assert_eq!(story.on(hello(1, policy)), ["welcome 1"]);
        assert_eq!(story.on(ready(1)), ["go 1", "up 1"]);
        story
    }

    /// A story within a confirm window: worker 1 of the first generation is paused and worker 2 of the second
    /// serves. Client 9 asked for the restart at 10 s, and it was committed at 11 s.
    fn committed() -> Story {
        let mut story = Story::serving(confirming());
        story.at(10.0);
        assert_eq!(story.on(restart(9)), ["spawn 2 of 2 from disk"]);
        story.at(11.0);
        story.on(hello(2, confirming()));
        assert_eq!(story.on(ready(2)), ["quiesce 1", "go 2"]);
        story
    }

    /// Sets the time, in seconds from the beginning.
    fn at(&mut self, seconds: f64) {
        self.watch.now = self.began + Duration::from_secs_f64(seconds);
    }

    /// Sends a tick at this time.
    fn tick(&mut self, seconds: f64) -> Vec<String> {
        self.at(seconds);
        self.on(Event::Tick)
    }

    /// Returns when the machine wants its next tick.
    fn due(&self) -> Option<f64> {
        self.watch
            .machine
            .deadline()
            .map(|at| at.saturating_duration_since(self.began).as_secs_f64())
    }

    /// Sends an event; returns the actions as short strings, without logs and progress.
    fn on(&mut self, event: Event) -> Vec<String> {
        let mut actions = self.watch.on(event);
        if self.upgrades_at_once && self.watch.upgrading.is_some() {
            actions.retain(|action| !matches!(action, Action::Upgrade { .. }));
            actions.extend(self.watch.on(Event::UpgradeFinished { kept: None }));
        }
        actions.into_iter().filter_map(|action| say(self.began, action)).collect()
    }

    /// Sends *hello* and *ready* of a worker.
    fn boots(&mut self, worker: WorkerId) -> Vec<String> {
        let policy = self.policy;
        let mut actions = self.on(hello(worker, policy));
        actions.extend(self.on(ready(worker)));
        actions
    }
}

/// Renders an action, if it is not left out.
fn say(began: Instant, action: Action) -> Option<String> {
    Some(match action {
        Action::Spawn { worker, generation, source } => {
            let source = match source {
                ImageSource::Disk => "disk".to_owned(),
                ImageSource::Pinned => "pinned".to_owned(),
                ImageSource::KnownGood(good) => format!("known-good {good}"),
            };
            format!("spawn {worker} of {generation} from {source}")
        }
        Action::Welcome { worker } => format!("welcome {worker}"),
        Action::SendToWorker { worker, command: order } => match order {
            WorkerCommand::Go => format!("go {worker}"),
            WorkerCommand::Quiesce => format!("quiesce {worker}"),
            WorkerCommand::Resume => format!("resume {worker}"),
            WorkerCommand::Ping => format!("ping {worker}"),
            WorkerCommand::Drain { deadline, .. } => {
                format!("drain {worker} by {:?}", (deadline - began).as_secs_f64())
            }
        },
        Action::DumpThreads { worker } => format!("examine {worker}"),
        Action::Terminate { worker } => format!("terminate {worker}"),
        Action::Kill { worker } => format!("kill {worker}"),
        Action::Answer { client, answer } => match answer {
            ClientAnswer::Restarted(report) => {
                format!("tell {client}: restarted {}", report_of(report))
            }
            ClientAnswer::Aborted(report) => {
                format!("tell {client}: aborted {}", report_of(report))
            }
            ClientAnswer::Stopped { ledger, .. } => {
                format!("tell {client}: stopped, {}", ledger.accepted)
            }
            ClientAnswer::Refused { reason } => format!("tell {client}: refused, {reason}"),
        },
        Action::DrainOrphans { deadline, last, listeners_end } => {
            let by = (deadline - began).as_secs_f64();
            let how = if last { ", the last" } else { "" };
            let end = if listeners_end { ", with their listeners" } else { "" };
            format!("drain orphans by {by:?}{how}{end}")
        }
        Action::KillOrphans => "kill orphans".to_owned(),
        Action::FirstReady { generation } => format!("up {generation}"),
        Action::Upgrade { generation } => format!("upgrade {generation}"),
        Action::ReleaseGeneration { generation, .. } => format!("retire {generation}"),
        Action::Exit { code, reason: Some(reason) } => format!("exit {code}: {reason}"),
        Action::Exit { code, reason: None } => format!("exit {code}"),
        // Shown by the tests in `connections`.
        Action::OpenHandoffChannel { .. } => return None,
        Action::CloseListeners
        | Action::Confirmed { .. }
        | Action::Confirming { .. }
        | Action::Drained { .. }
        | Action::Progress { .. }
        | Action::Log { .. }
        | Action::StateChanged => return None,
    })
}

/// Renders a report: `1→2`, the seconds to the commit and to the end of the drain, the connections in its
/// ledger, the reason, the note and the warnings.
fn report_of(report: RestartReport) -> String {
    let mut text = format!("{}→{}", report.from.unwrap_or_default(), report.to);
    if let Some(took) = report.to_commit {
        text += &format!(" committed {:?}", took.as_secs_f64());
    }
    if let Some(took) = report.to_drained {
        text += &format!(" drained {:?}", took.as_secs_f64());
    }
    if let Some(ledger) = report.ledger {
        text += &format!(" accepted {}", ledger.accepted);
    }
    if let Some(reason) = report.reason {
        text += &format!(": {reason}");
    }
    if let Some(note) = report.note.filter(|note| note.contains("supervisor keeps")) {
        text += &format!("; {note}");
    }
    for warning in report.warnings {
        text += &format!("; {warning}");
    }
    text
}

const NOTHING: [&str; 0] = [];
