//! The stop of the daemon: requested, or because its program is done or cannot run.

use std::time::Duration;

use crate::Instant;

use super::lame_duck::LameDuck;
use super::lifecycle::Lifecycle;
use super::timers::Timer;
use super::transition::Transition;
use super::worker::{WorkerState, drain, kill};
use super::{Actions, Machine, answer, log, refuse};
use crate::Ledger;
use crate::event::{Action, ClientAnswer, ClientId, Level, RestartReport};
use crate::json::{FromJson, ToJson};

/// How long a worker that has to stop at once may take before it is killed: enough to close what is
/// open, and no more, because a stop at once is urgent.
pub(super) const AT_ONCE_GRACE: Duration = Duration::from_secs(1);

/// A stop in progress: the daemon exits when its last worker has ended.
#[derive(Debug, Clone, ToJson, FromJson)]
pub(super) struct Stopping {
    /// The exit code of the supervisor.
    pub(super) code: u8,
    /// Why the daemon ends by itself; `None` if it was asked to.
    pub(super) reason: Option<String>,
    /// The clients that wait for the end.
    pub(super) clients: Vec<ClientId>,
    /// The sum of the ledgers of all generations that were not released when the stop began.
    pub(super) ledger: Ledger,
    /// When the daemon was asked to stop, or began to.
    since: Instant,
    /// The highest urgency so far.
    pub(super) urgency: Urgency,
    /// Whether a client or a signal asked for the stop; `false` while the daemon ends by itself.
    asked: bool,
    /// Workers that did not end as they should.
    #[json(default)]
    pub(super) warnings: Vec<String>,
}

/// The time that a stop leaves to the workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ToJson, FromJson)]
pub(super) enum Urgency {
    /// Each worker has its drain timeout.
    Drain,
    /// Each worker gets SIGTERM now and SIGKILL after [`AT_ONCE_GRACE`].
    AtOnce,
    /// Each worker gets SIGKILL now.
    Kill,
}

impl Urgency {
    /// Returns the urgency after one more request. Each further signal is more urgent, if the first stop was
    /// `asked` for; a request of a client only counts as what it says.
    pub(super) fn after(self, client: Option<ClientId>, at_once: bool, asked: bool) -> Urgency {
        match (client, self) {
            (None, Urgency::Drain) if asked => Urgency::AtOnce,
            (None, Urgency::AtOnce | Urgency::Kill) => Urgency::Kill,
            (_, urgency) if at_once => urgency.max(Urgency::AtOnce),
            (_, urgency) => urgency,
        }
    }
}

impl Machine {
    /// Handles a request to stop: begins the stop, if no lame-duck phase comes first, or hastens it.
    pub(super) fn stop(
        &mut self,
        client: Option<ClientId>,
        at_once: bool,
        now: Instant,
        out: &mut Actions,
    ) {
        let Some(at_once) = self.lame_duck_first(client, at_once, now, out) else { return };
        let wanted = if at_once { Urgency::AtOnce } else { Urgency::Drain };
        let urgency = match self.life.stopping() {
            None => {
                self.begin_stop(0, None, wanted, now, out);
                wanted
            }
            Some(stopping) => {
                let urgency = stopping.urgency.after(client, at_once, stopping.asked);
                self.stop_orphans(at_once || client.is_none(), now, out);
                urgency
            }
        };
        let Some(stopping) = self.life.stopping_mut() else { return };
        stopping.asked = true;
        stopping.clients.extend(client);
        if urgency > stopping.urgency {
            stopping.urgency = urgency;
            self.escalate(urgency, now, out);
        }
    }

    /// Begins a stop that was not requested, with an exit code and a reason.
    pub(super) fn shut_down(&mut self, code: u8, reason: String, now: Instant, out: &mut Actions) {
        if self.life.is_active() {
            self.begin_stop(code, Some(reason), Urgency::Drain, now, out);
        }
    }

    /// Begins the stop: ends the transition and the upgrade, and has all workers drain.
    pub(super) fn begin_stop(
        &mut self,
        code: u8,
        reason: Option<String>,
        urgency: Urgency,
        now: Instant,
        out: &mut Actions,
    ) {
        // A daemon that ends by itself leaves orphans alone: after a failed start they go on serving.
        if self.life.is_active() && (reason.is_none() || self.life.lame_duck().is_some()) {
            self.stop_orphans(urgency == Urgency::AtOnce, now, out);
        }
        let Some(active) = self.life.active_mut().map(std::mem::take) else { return };
        let asked = active.lame_duck;
        for timer in [Timer::Confirm, Timer::Respawn, Timer::LameDuck] {
            self.timers.cancel(timer);
        }
        self.life = Lifecycle::Stopping(Stopping {
            code,
            reason: reason.clone(),
            since: asked.as_ref().map_or(now, LameDuck::since),
            asked: asked.is_some(),
            clients: asked.map_or(Vec::new(), LameDuck::clients),
            ledger: self.ledgers.values().copied().sum(),
            urgency,
            warnings: Vec::new(),
        });
        out.push(Action::Progress { text: "stopping".into() });
        out.push(Action::CloseListeners);
        let reason = match reason {
            Some(reason) => format!("the daemon is stopping: {reason}"),
            None => "the daemon was asked to stop".into(),
        };
        if let Some(transition) = active.transition {
            self.abandon_transition(transition, &reason, out);
        }
        for waiter in active.pending {
            refuse(waiter.client, &reason, out);
        }
        if let Some(upgrade) = active.upgrade {
            upgrade.abandon(out);
        }
        self.escalate(urgency, now, out);
    }

    /// Ends the transition because the daemon stops. Its clients get it reported as aborted, but neither
    /// worker is resumed or killed for it: both drain.
    fn abandon_transition(&mut self, transition: Transition, reason: &str, out: &mut Actions) {
        let report = RestartReport {
            from: self.current.as_ref().map(|current| current.generation),
            to: transition.generation,
            committed: false,
            reason: Some(reason.to_owned()),
            note: self.rolled_back.clone(),
            to_commit: None,
            to_drained: None,
            ledger: None,
            warnings: transition.warnings,
        };
        for waiter in transition.waiters {
            answer(waiter.client, ClientAnswer::Aborted(report.clone()), out);
        }
        self.record_restart(report);
    }

    /// Gives all workers the time that `urgency` leaves them.
    fn escalate(&mut self, urgency: Urgency, now: Instant, out: &mut Actions) {
        let timers = &mut self.timers;
        for (&id, worker) in &mut self.workers {
            match (urgency, worker.state) {
                (_, WorkerState::Killed) => {}
                (Urgency::Kill, _) | (_, WorkerState::Starting) => kill(id, worker, timers, out),
                (Urgency::AtOnce, state) => {
                    // A draining worker without a deadline has passed it and got its SIGTERM.
                    let in_time = timers.get(Timer::Deadline(id)).is_some_and(|at| at > now);
                    if state != WorkerState::Draining || in_time {
                        drain(id, worker, now, timers, out);
                    }
                    let grace = AT_ONCE_GRACE.min(worker.policy.kill_timeout);
                    timers.set_by(Timer::Kill(id), now + grace);
                }
                (Urgency::Drain, WorkerState::Draining) => {}
                (Urgency::Drain, WorkerState::Serving | WorkerState::Paused) => {
                    drain(id, worker, now + worker.policy.drain_timeout, timers, out);
                }
            }
        }
    }

    /// Returns the exit, which comes after everything else.
    pub(super) fn exit_if_drained(&mut self, now: Instant, out: &mut Actions) -> Option<Action> {
        let orphans_drain = self.orphans.as_ref().is_some_and(|orphans| orphans.draining);
        if !self.workers.is_empty() || orphans_drain || self.life.is_active() {
            return None;
        }
        let life = std::mem::replace(&mut self.life, Lifecycle::Exited);
        let Lifecycle::Stopping(stopping) = life else { return None };
        let (ledger, to_drained) = (stopping.ledger, now.saturating_duration_since(stopping.since));
        for client in stopping.clients {
            let warnings = stopping.warnings.clone();
            answer(Some(client), ClientAnswer::Stopped { ledger, to_drained, warnings }, out);
        }
        if ledger.dropped_tasks > 0 || ledger.lost > 0 || ledger.forced().is_some() {
            out.push(log(Level::Warn, format!("stopped: {ledger}")));
        }
        Some(Action::Exit { code: stopping.code, reason: stopping.reason })
    }
}
