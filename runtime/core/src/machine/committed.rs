//! The committed generation: respawns of its worker, backoff and start limit.

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

/// The generation that was confirmed last.
///
/// During a confirm window it is paused, and the generation of the transition serves.
#[derive(Debug, Clone, ToJson, FromJson)]
pub(super) struct CommittedGeneration {
    /// Its number.
    pub(super) generation: Generation,
    /// The policy in its settings; it does not change.
    pub(super) policy: Policy,
    /// The worker that serves, is paused, or starts after a respawn; `None` while a respawn is due.
    pub(super) worker: Option<WorkerId>,
    /// The times of the crashes within the last `start_limit_interval`.
    pub(super) crashes: VecDeque<Instant>,
    /// Whether a worker is to be spawned when no other worker is left.
    pub(super) respawn_when_alone: bool,
    /// The generation that this one replaced, while a rollback to its image is possible.
    pub(super) rollback_to: Option<Generation>,
    /// Set when the start limit is used up: the exit code of the daemon, and why.
    pub(super) exhausted: Option<(u8, String)>,
}

impl Machine {
    /// Handles a worker that began to drain without a command.
    pub(super) fn self_draining(
        &mut self,
        id: WorkerId,
        main_ended: bool,
        now: Instant,
        out: &mut Actions,
    ) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        if self.life.transition().is_some_and(|t| t.worker == id) {
            let reason = format!("the worker of generation {} received SIGTERM", worker.generation);
            if worker.state == WorkerState::Serving {
                // The restart is aborted, but the worker has connections to finish.
                drain(id, worker, now + worker.policy.drain_timeout, &mut self.timers, out);
            }
            self.abort(&reason, now, out);
            self.force_excess(now, out);
            return;
        }
        let Some(current) = self.current.as_mut().filter(|c| c.worker == Some(id)) else { return };
        match worker.state {
            // Replaced without counting a crash. The delay keeps workers that get SIGTERM as soon as they
            // start from being respawned in a tight loop.
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
                "`main` of generation {generation} returned while it was paused in the confirm \
                 window; its connections are finished as in a drain"
            );
            self.warn(generation, text, out);
        } else {
            out.push(log_of(
                generation,
                Level::Info,
                format!(
                    "a worker of generation {generation} received SIGTERM; it drains and is \
                     replaced"
                ),
            ));
        }
        self.force_excess(now, out);
        self.tick(now, out);
    }

    /// Handles the end of the committed generation's worker: as a crash, unless it was draining or the
    /// restart policy says otherwise.
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
            // The new generation serves already; if it fails, the abort respawns this one.
            let why = why(failure.as_ref());
            let text = format!(
                "generation {generation} {exit} while it was paused in the confirm window{why}"
            );
            self.warn(generation, text, out);
            return;
        }
        let what = match failure {
            Some(failure) => format!("the worker of generation {generation} {exit}: {failure}"),
            None => format!("the worker of generation {generation} {exit}"),
        };
        // Exit code 0 means that the program is done only if its worker was serving, not if it was still
        // starting or was killed.
        let finished = exit.success() && state == WorkerState::Serving;
        match current.policy.restart {
            RestartPolicy::OnFailure if finished => {
                out.push(log_of(
                    generation,
                    Level::Info,
                    format!("{what}: the program has finished"),
                ));
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

    /// Counts a crash of the committed generation: schedules its respawn or, past the start limit, rolls back
    /// or stops the daemon.
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
            format!("{what}; respawning in {}", seconds(delay)),
        ));
    }

    /// Spawns a worker of the committed generation from its pinned image.
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

/// Returns the delay before a respawn: `backoff_min`, doubled with each further crash of the interval, up to
/// `backoff_max`.
pub(super) fn backoff(policy: &Policy, crashes: u32) -> Duration {
    let factor = 2_u32.saturating_pow(crashes.saturating_sub(1).min(30));
    policy.backoff_min.saturating_mul(factor).min(policy.backoff_max)
}
