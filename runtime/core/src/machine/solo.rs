//! The decisions of a solo daemon, which is one process: its control thread stands in for the supervisor, and
//! the rest of the process is the only worker.
//!
//! [`SoloMachine`] takes the events and returns the actions of the supervisor's [`Machine`](super::Machine),
//! as far as they apply: the worker runs already and is never replaced, enforces its drain deadline itself,
//! and [`Action::Kill`] ends the daemon too.

use std::time::Duration;

use unbroken_schema::duration;

use crate::Instant;

use super::lame_duck::skips_lame_duck;
use super::stop::Urgency;
use super::{Actions, State, WorkerState, answer, log, refuse};
use crate::Ledger;
use crate::event::{
    Action, ClientAnswer, ClientId, Event, Generation, Level, WorkerCommand, WorkerId,
};
use crate::health::{Health, Probe, ProbeResult, ServicePhase};
use crate::policy::Policy;

/// The only generation of a solo daemon.
pub const GENERATION: Generation = 1;

/// The only worker of a solo daemon.
pub const WORKER: WorkerId = 1;

/// The state of a solo daemon.
#[derive(Debug)]
pub struct SoloMachine {
    /// The name of the daemon, for messages.
    name: String,
    policy: Policy,
    phase: Phase,
    /// Whether the program has been ready.
    served: bool,
    /// What the program has not done yet to be ready.
    missing: String,
    /// When the daemon was first asked to stop.
    asked: Option<Instant>,
    /// The clients that wait for the end of the stop.
    clients: Vec<ClientId>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The program has until this time to be ready.
    Starting(Instant),
    Serving,
    /// The daemon was asked to stop, and still accepts until this time.
    LameDuck(Instant),
    /// The program drains.
    Stopping(Urgency),
    Exited,
}

impl SoloMachine {
    pub fn new(name: &str, policy: Policy, now: Instant) -> SoloMachine {
        SoloMachine {
            name: name.to_owned(),
            policy,
            phase: Phase::Starting(now + policy.ready_timeout),
            served: false,
            missing: String::new(),
            asked: None,
            clients: Vec::new(),
        }
    }

    /// Handles one event; returns what must be done, in order.
    pub fn on(&mut self, event: Event, now: Instant) -> Vec<Action> {
        let mut out = Actions::new();
        if self.phase == Phase::Exited {
            return out;
        }
        let before = self.health();
        match event {
            Event::Ready { .. } => self.ready(&mut out),
            Event::ReadinessBlockedBy { what, .. } => self.missing = what,
            Event::HelloRejected { reason, .. } => self.fail(reason, &mut out),
            Event::Unhealthy { reason, .. } => {
                out.push(log(Level::Warn, format!("the program is unhealthy: {reason}")));
            }
            Event::Stop { client, at_once } => self.stop(client, at_once, now, &mut out),
            Event::Restart { client, .. } | Event::RestartFrom { client, .. } => {
                let reason = format!(
                    "{} runs without a supervisor; add `graceful_restart` to its attribute, or stop \
                     and start it",
                    self.name
                );
                refuse(client, &reason, &mut out);
            }
            Event::ClientGone { client } => self.clients.retain(|waiting| *waiting != client),
            Event::Exited { ledger, .. } => self.ended(ledger, now, &mut out),
            Event::Tick => self.tick(now, &mut out),
            _ => {}
        }
        if self.phase != Phase::Exited && self.health() != before {
            out.push(Action::StateChanged);
        }
        out
    }

    /// Returns when the next [`Event::Tick`] is due.
    pub fn deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Starting(until) | Phase::LameDuck(until) => Some(until),
            Phase::Serving | Phase::Stopping(_) | Phase::Exited => None,
        }
    }

    fn tick(&mut self, now: Instant, out: &mut Actions) {
        match self.phase {
            Phase::Starting(until) if until <= now => {
                let limit = duration::format(self.policy.ready_timeout);
                let reason = format!(
                    "{} was not ready within {limit}: {}; raise `ready_timeout` if it needs longer",
                    self.name, self.missing
                );
                self.fail(reason, out);
            }
            Phase::LameDuck(until) if until <= now => self.press(Urgency::Drain, now, out),
            _ => {}
        }
    }

    /// Lets the program accept.
    fn ready(&mut self, out: &mut Actions) {
        if let Phase::Starting(_) = self.phase {
            self.phase = Phase::Serving;
            self.served = true;
            out.push(Action::SendToWorker { worker: WORKER, command: WorkerCommand::Go });
            out.push(Action::FirstReady { generation: GENERATION });
        }
    }

    /// Ends a daemon whose start cannot succeed.
    fn fail(&mut self, reason: String, out: &mut Actions) {
        self.phase = Phase::Exited;
        out.push(log(Level::Error, reason.clone()));
        out.push(Action::Exit { code: 1, reason: Some(reason) });
    }

    /// Handles a request to stop: begins a lame-duck phase or the stop, or hastens it.
    fn stop(&mut self, client: Option<ClientId>, at_once: bool, now: Instant, out: &mut Actions) {
        self.clients.extend(client);
        let length = self.policy.lame_duck;
        let at_once = match self.phase {
            Phase::Starting(_) => Some(at_once),
            Phase::Serving => skips_lame_duck(false, length, client, at_once),
            Phase::LameDuck(_) => skips_lame_duck(true, length, client, at_once),
            Phase::Stopping(urgency) => {
                return self.press(urgency.after(client, at_once, true), now, out);
            }
            Phase::Exited => return,
        };
        if let Some(at_once) = at_once {
            let urgency = if at_once { Urgency::AtOnce } else { Urgency::Drain };
            return self.press(urgency, now, out);
        }
        if self.phase == Phase::Serving {
            self.asked = Some(now);
            self.phase = Phase::LameDuck(now + length);
            let length = duration::format(length);
            let text = format!("lame duck for {length}: not ready, still accepting");
            out.push(log(Level::Info, text));
        }
        let left =
            self.deadline().map_or(0.0, |at| at.saturating_duration_since(now).as_secs_f64());
        let text = format!("lame duck for {left:.0} s: not ready, still accepting");
        out.push(Action::Progress { text });
    }

    /// Has the program stop as urgently as this, unless it does already.
    fn press(&mut self, urgency: Urgency, now: Instant, out: &mut Actions) {
        self.asked.get_or_insert(now);
        let before = std::mem::replace(&mut self.phase, Phase::Stopping(urgency));
        if before == self.phase {
            return;
        }
        if urgency == Urgency::Drain {
            out.push(log(Level::Info, "draining".into()));
            out.push(Action::Progress { text: "stopping".into() });
        }
        if !matches!(before, Phase::Stopping(_)) {
            out.push(Action::CloseListeners);
        }
        let deadline = match urgency {
            Urgency::Drain => now + self.policy.drain_timeout,
            Urgency::AtOnce => now,
            Urgency::Kill => return out.push(Action::Kill { worker: WORKER }),
        };
        let command = WorkerCommand::Drain { deadline, last: true, listeners_end: true };
        out.push(Action::SendToWorker { worker: WORKER, command });
    }

    /// Handles the end of the program: logs what it cost, and answers the clients that wait for it.
    fn ended(&mut self, ledger: Ledger, now: Instant, out: &mut Actions) {
        self.phase = Phase::Exited;
        if let Some(forced) = ledger.forced() {
            out.push(log(Level::Warn, format!("forced at the drain deadline: {forced}")));
        }
        if ledger.dropped_tasks > 0 || ledger.lost > 0 || ledger.forced().is_some() {
            let text = match self.asked {
                Some(_) => format!("stopped: {ledger}"),
                None => format!("exited without being asked to stop: {ledger}"),
            };
            out.push(log(Level::Warn, text));
        }
        let to_drained = now.saturating_duration_since(self.asked.unwrap_or(now));
        for client in std::mem::take(&mut self.clients) {
            let stopped = ClientAnswer::Stopped { ledger, to_drained, warnings: Vec::new() };
            answer(Some(client), stopped, out);
        }
        out.push(Action::Exit { code: 0, reason: None });
    }

    // ---- what is shown --------------------------------------------------------------------------

    pub fn state(&self) -> State {
        match self.phase {
            Phase::Starting(_) => State::Starting,
            Phase::Serving => State::Running,
            Phase::LameDuck(_) => State::LameDuck,
            Phase::Stopping(_) | Phase::Exited => State::Stopping,
        }
    }

    pub fn worker_state(&self) -> WorkerState {
        match self.state() {
            State::Starting => WorkerState::Starting,
            State::Running | State::LameDuck => WorkerState::Serving,
            State::Stopping => WorkerState::Draining,
        }
    }

    pub fn health(&self) -> Health {
        let (phase, text) = match self.state() {
            State::Starting => (ServicePhase::Starting, "starting"),
            State::Running => (ServicePhase::Running, "serving"),
            State::LameDuck => (ServicePhase::Stopping, "lame duck: still accepting"),
            State::Stopping => (ServicePhase::Stopping, "stopping"),
        };
        let Policy { lame_duck, drain_timeout, kill_timeout, .. } = self.policy;
        let ends_within = lame_duck + drain_timeout + kill_timeout + Duration::from_secs(1);
        Health { phase, text: text.into(), reload: None, ends_within }
    }

    /// Answers a probe. The liveness probe always passes: a process cannot detect that it hangs itself.
    pub fn probe(&self, probe: Probe) -> ProbeResult {
        match (probe, self.state()) {
            (Probe::Live, _) => ProbeResult::passes("the process responds"),
            (Probe::Startup, _) if self.served => ProbeResult::passes("the program has been ready"),
            (Probe::Startup, _) | (Probe::Ready, State::Starting) => {
                ProbeResult::fails("the program has not been ready yet")
            }
            (Probe::Ready, State::Running) => ProbeResult::passes("the program is serving"),
            (Probe::Ready, State::LameDuck) => super::health::LAME_DUCK,
            (Probe::Ready, State::Stopping) => super::health::STOPPING,
        }
    }
}
