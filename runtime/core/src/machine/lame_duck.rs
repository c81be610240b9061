//! The lame-duck phase: a daemon that is asked to stop first fails its readiness probe and keeps accepting
//! for a while, until load balancers no longer send it clients.
//!
//! Other than that, the daemon goes on: a transition continues, a crashed worker is respawned. New restarts
//! are refused, and a second signal stops the daemon at once.

use std::time::Duration;

use crate::Instant;

use super::timers::Timer;
use super::worker::WorkerState;
use super::{Actions, Machine, log, refuse, seconds};
use crate::event::{Action, ClientId, Level};
use crate::json::{FromJson, ToJson};

/// A lame-duck phase in progress.
#[derive(Debug, Clone, ToJson, FromJson)]
pub(super) struct LameDuck {
    /// When the daemon was asked to stop.
    since: Instant,
    clients: Vec<ClientId>,
}

impl LameDuck {
    /// Returns when the daemon was asked to stop.
    pub(super) fn since(&self) -> Instant {
        self.since
    }

    /// Returns the clients that wait for the end of the stop.
    pub(super) fn clients(self) -> Vec<ClientId> {
        self.clients
    }

    /// Forgets a client that disconnected.
    pub(super) fn forget(&mut self, client: ClientId) {
        self.clients.retain(|waiting| *waiting != client);
    }
}

/// Returns whether a stop that is requested from a daemon that accepts is one at once, or `None` if a
/// lame-duck phase of this `length` begins or goes on.
pub(super) fn skips_lame_duck(
    lame_duck: bool,
    length: Duration,
    client: Option<ClientId>,
    at_once: bool,
) -> Option<bool> {
    match (lame_duck, client) {
        _ if at_once => Some(true),
        // A second signal stops at once.
        (true, None) => Some(true),
        (true, Some(_)) => None,
        (false, _) => length.is_zero().then_some(false),
    }
}

impl Machine {
    /// Handles a request to stop. Returns `None` if it begins or continues a lame-duck phase; else the stop
    /// begins now, and the value is whether it is one at once.
    pub(super) fn lame_duck_first(
        &mut self,
        client: Option<ClientId>,
        at_once: bool,
        now: Instant,
        out: &mut Actions,
    ) -> Option<bool> {
        let length = self.lame_duck_of();
        let Some(active) = self.life.active_mut() else { return Some(at_once) };
        let in_phase = active.lame_duck.is_some();
        if let Some(at_once) = skips_lame_duck(in_phase, length, client, at_once) {
            // The clients of the lame-duck phase keep waiting: `begin_stop` takes them over.
            return Some(at_once);
        }
        if active.lame_duck.is_none() {
            for waiter in active.pending.drain(..) {
                refuse(waiter.client, "the daemon is stopping", out);
            }
            let text = format!("lame duck for {}: not ready, still accepting", seconds(length));
            out.push(log(Level::Info, text));
            self.timers.set(Timer::LameDuck, now + length);
        }
        let lame_duck =
            active.lame_duck.get_or_insert_with(|| LameDuck { since: now, clients: Vec::new() });
        lame_duck.clients.extend(client);
        let until = self.timers.get(Timer::LameDuck).unwrap_or(now);
        let left = until.saturating_duration_since(now);
        out.push(Action::Progress {
            text: format!("lame duck for {}: not ready, still accepting", seconds(left)),
        });
        None
    }

    /// Returns the length of a lame-duck phase, which is that of the worker that serves; zero if none does.
    fn lame_duck_of(&self) -> Duration {
        let accepts = self.workers.values().filter(|worker| worker.state == WorkerState::Serving);
        accepts.map(|worker| worker.policy.lame_duck).max().unwrap_or_default()
    }

    /// How long the lame duck is in all, if there is one.
    pub(super) fn lame_duck_length(&self) -> Duration {
        let since = self.life.lame_duck().map(LameDuck::since);
        let until = self.timers.get(Timer::LameDuck);
        until.zip(since).map_or(Duration::ZERO, |(until, since)| until - since)
    }
}
