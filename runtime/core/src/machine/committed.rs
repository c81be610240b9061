//! The committed generation: what follows when its worker leaves or crashes.

use std::collections::VecDeque;
use std::time::Duration;

use crate::Instant;

use super::timers::Timer;
use super::transition::Transition;
use super::worker::{WorkerState, drain};
use super::{Actions, Machine, log_of, seconds, why};
use crate::Exit;
use crate::event::{Generation, ImageSource, Level, WorkerId};
use crate::json::{FromJson, ToJson};
use crate::policy::{Policy, RestartPolicy};

/// The generation that is committed.
#[derive(Debug, Clone, ToJson, FromJson)]
pub(super) struct CommittedGeneration {
    pub(super) generation: Generation,
    pub(super) policy: Policy,
    /// Serving, or respawned and starting.
    pub(super) worker: Option<WorkerId>,
    pub(super) crashes: VecDeque<Instant>,
    /// To be respawned once nobody else is there.
    pub(super) respawn_when_alone: bool,
    /// The generation that was replaced by this one, while its image may still be gone back to.
    pub(super) rollback_to: Option<Generation>,
    /// The start limit is used up: the code to leave with, and why.
    pub(super) exhausted: Option<(u8, String)>,
}

impl Machine {
    pub(super) fn self_draining(
        &mut self,
        id: WorkerId,
        main_ended: bool,
        now: Instant,
        out: &mut Actions,
    ) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        if self.life.transition().is_some_and(|t| t.worker == id) {
            let reason = format!("the worker of generation {} got SIGTERM", worker.generation);
            if worker.state == WorkerState::Serving {
                // Not confirmed, but with connections to finish.
                drain(id, worker, now + worker.policy.drain_timeout, &mut self.timers, out);
            }
            self.abort(&reason, now, out);
            self.force_excess(now, out);
            return;
        }
        let Some(current) = self.current.as_mut().filter(|c| c.worker == Some(id)) else { return };
        match worker.state {
            // It drains on its own: replaced without counting a crash, but not in an endless hurry.
            WorkerState::Serving | WorkerState::Starting => {
                current.worker = None;
                if self.life.is_active() {
                    let respawn_at = now.max(worker.spawned + current.policy.backoff_min);
                    self.timers.set(Timer::Respawn, respawn_at);
                }
            }
            WorkerState::Paused => current.worker = None,
            WorkerState::Draining | WorkerState::Killed => return,
        }
        let generation = worker.generation;
        drain(id, worker, now + worker.policy.drain_timeout, &mut self.timers, out);
        if main_ended {
            let text = format!(
                "`main` of generation {generation} ended while it waited for the confirm window: what is \
                 open is finished as in a drain"
            );
            self.warn(generation, text, out);
        } else {
            out.push(log_of(
                generation,
                Level::Info,
                format!(
                    "a worker of generation {generation} got SIGTERM: it drains and is replaced"
                ),
            ));
        }
        self.force_excess(now, out);
        self.tick(now, out);
    }

    /// The worker of the committed generation is gone, unasked.
    pub(super) fn current_ended(
        &mut self,
        failure: &Option<String>,
        state: WorkerState,
        exit: Exit,
        now: Instant,
        out: &mut Actions,
    ) {
        let Some(current) = self.current.as_mut() else { return };
        current.worker = None;
        if !self.life.is_active() || state == WorkerState::Draining {
            return;
        }
        let generation = current.generation;
        if self.life.transition().is_some_and(Transition::is_committed) {
            // The new generation serves already; if it fails, this one is respawned.
            let why = why(failure.as_ref());
            let text = format!(
                "generation {generation} {exit} while it waited for the confirm window{why}"
            );
            self.warn(generation, text, out);
            return;
        }
        let what = match failure {
            Some(failure) => format!("the worker of generation {generation} {exit}: {failure}"),
            None => format!("the worker of generation {generation} {exit}"),
        };
        // Before it served, or killed on the way, an exit with 0 is none of a program that is done.
        let finished = exit.success() && state == WorkerState::Serving;
        match current.policy.restart {
            RestartPolicy::OnFailure if finished => {
                out.push(log_of(generation, Level::Info, format!("{what}: the program is done")));
                self.shut_down(0, what, now, out);
                return;
            }
            RestartPolicy::No => {
                let code = if finished { 0 } else { exit.shell_code().max(1) };
                self.shut_down(code, what, now, out);
                return;
            }
            RestartPolicy::OnFailure | RestartPolicy::Always => {}
        }
        self.crashed(&what, exit, now, out);
    }

    /// A worker of the committed generation has failed: it is respawned, or the daemon gives up.
    pub(super) fn crashed(&mut self, what: &str, exit: Exit, now: Instant, out: &mut Actions) {
        let Some(current) = self.current.as_mut() else { return };
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
                "{what}: crash {count} within {}, over the start limit of {}",
                seconds(interval),
                current.policy.start_limit_burst
            );
            let code = exit.shell_code().max(1);
            current.exhausted = Some((code, reason));
            if self.life.transition().is_none() {
                self.roll_back(now, out);
            }
            return;
        }
        let delay = backoff(&current.policy, count);
        self.timers.set(Timer::Respawn, now + delay);
        out.push(log_of(
            current.generation,
            Level::Warn,
            format!("{what}; respawn in {}", seconds(delay)),
        ));
    }

    pub(super) fn respawn(&mut self, now: Instant, out: &mut Actions) {
        self.timers.cancel(Timer::Respawn);
        let Some(current) = self.current.as_mut() else { return };
        if current.policy.exclusive && !self.workers.is_empty() {
            current.respawn_when_alone = true;
            return;
        }
        let (generation, policy) = (current.generation, current.policy);
        let worker = self.spawn(generation, ImageSource::Pinned, policy, now, out);
        if let Some(current) = self.current.as_mut() {
            current.worker = Some(worker);
        }
    }
}

/// `backoff_min` doubled with every crash of the interval, up to `backoff_max`.
pub(super) fn backoff(policy: &Policy, crashes: u32) -> Duration {
    let factor = 2_u32.saturating_pow(crashes.saturating_sub(1).min(30));
    policy.backoff_min.saturating_mul(factor).min(policy.backoff_max)
}
