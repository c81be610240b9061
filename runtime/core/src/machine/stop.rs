//! The stop of the daemon: requested, or because its program is done or cannot run.

use std::time::Duration;

use crate::Instant;

use super::lame_duck::LameDuck;
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
        let urgency = match &mut self.stopping {
            None => {
                self.begin_stop(0, None, wanted, now, out);
                wanted
            }
            // Each further signal is more urgent; a request of a client only counts as what it says.
            Some(stopping) => match (client, stopping.urgency) {
                (None, Urgency::Drain) if stopping.asked => Urgency::AtOnce,
                (None, Urgency::AtOnce | Urgency::Kill) => Urgency::Kill,
                (_, urgency) => urgency.max(wanted),
            },
        };
        let Some(stopping) = &mut self.stopping else { return };
        stopping.asked = true;
        stopping.clients.extend(client);
        if urgency > stopping.urgency {
            stopping.urgency = urgency;
            self.escalate(urgency, now, out);
        }
    }

    /// Begins a stop that was not requested, with an exit code and a reason.
    pub(super) fn shut_down(&mut self, code: u8, reason: String, now: Instant, out: &mut Actions) {
        if self.stopping.is_none() {
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
        let asked = self.lame_duck.take();
        self.stopping = Some(Stopping {
            code,
            reason,
            since: asked.as_ref().map_or(now, LameDuck::since),
            asked: asked.is_some(),
            clients: asked.map_or(Vec::new(), LameDuck::clients),
            ledger: self.ledgers.values().copied().sum(),
            urgency,
            warnings: Vec::new(),
        });
        out.push(Action::Progress { text: "stopping".into() });
        out.push(Action::CloseListeners);
        self.abandon_transition(out);
        self.abandon_upgrade(out);
        if let Some(current) = self.current.as_mut() {
            current.respawn_at = None;
        }
        self.escalate(urgency, now, out);
    }

    /// Ends the transition because the daemon stops. Its clients get it reported as aborted, but neither
    /// worker is resumed or killed for it: both drain.
    pub(super) fn abandon_transition(&mut self, out: &mut Actions) {
        let pending = self.pending.take().into_iter().flatten();
        let reason = match self.stopping.as_ref().and_then(|stopping| stopping.reason.clone()) {
            Some(reason) => format!("the daemon is stopping: {reason}"),
            None => "the daemon was asked to stop".into(),
        };
        if let Some(transition) = self.transition.take() {
            let report = RestartReport {
                from: self.current.as_ref().map(|current| current.generation),
                to: transition.generation,
                committed: false,
                reason: Some(reason.clone()),
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
        for waiter in pending {
            refuse(waiter.client, &reason, out);
        }
    }

    /// Gives all workers the time that `urgency` leaves them.
    fn escalate(&mut self, urgency: Urgency, now: Instant, out: &mut Actions) {
        for (&id, worker) in &mut self.workers {
            match (urgency, worker.state) {
                (_, WorkerState::Killed) => {}
                (Urgency::Kill, _) | (_, WorkerState::Starting) => kill(id, worker, out),
                (Urgency::AtOnce, state) => {
                    // A draining worker without a deadline has passed it and got its SIGTERM.
                    if state != WorkerState::Draining || worker.deadline.is_some_and(|at| at > now)
                    {
                        drain(id, worker, now, out);
                    }
                    worker.kill_by(now + AT_ONCE_GRACE.min(worker.policy.kill_timeout));
                }
                (Urgency::Drain, WorkerState::Draining) => {}
                (Urgency::Drain, WorkerState::Serving | WorkerState::Paused) => {
                    drain(id, worker, now + worker.policy.drain_timeout, out);
                }
            }
        }
    }

    /// Ends a stop whose last worker has ended: answers the clients and exits.
    pub(super) fn exit_if_drained(&mut self, now: Instant, out: &mut Actions) {
        if !self.workers.is_empty() {
            return;
        }
        let Some(stopping) = self.stopping.take() else { return };
        let (ledger, to_drained) = (stopping.ledger, now.saturating_duration_since(stopping.since));
        for client in stopping.clients {
            let warnings = stopping.warnings.clone();
            answer(Some(client), ClientAnswer::Stopped { ledger, to_drained, warnings }, out);
        }
        if ledger.dropped_tasks > 0 || ledger.lost > 0 || ledger.forced().is_some() {
            out.push(log(Level::Warn, format!("stopped: {ledger}")));
        }
        self.exited = true;
        out.push(Action::Exit { code: stopping.code, reason: stopping.reason });
    }
}
