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
use crate::event::{Action, ClientId, Event, Level};
use crate::json::{FromJson, ToJson};
use crate::policy::Policy;

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
        if let Some(at_once) = self.stops_now(client, at_once) {
            // The clients of the lame-duck phase keep waiting: `begin_stop` takes them over.
            return Some(at_once);
        }
        let length = self.lame_duck_of();
        let active = self.life.active_mut()?;
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

    /// Returns whether a requested stop is one at once, or `None` if it does not begin now.
    fn stops_now(&self, client: Option<ClientId>, at_once: bool) -> Option<bool> {
        if !self.life.is_active() {
            return Some(at_once);
        }
        skips_lame_duck(self.life.lame_duck().is_some(), self.lame_duck_of(), client, at_once)
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

    /// Returns whether an event would make the daemon stop at once; `None` if it would neither begin nor
    /// hasten a stop. The driver asks this before it passes the event on, to drain orphans too.
    fn stops_by(&self, event: &Event, now: Instant) -> Option<bool> {
        match event {
            Event::Stop { client, at_once } => {
                let again = client.is_none() && !self.life.is_active();
                self.stops_now(*client, *at_once).map(|at_once| at_once || again)
            }
            Event::Tick => self.timers.is_due(Timer::LameDuck, now).then_some(false),
            _ => None,
        }
    }

    /// A stop that is asked for is one of the orphans, too: they drain as the generation that serves would.
    pub(super) fn drain_orphans(&self, event: &Event, now: Instant, out: &mut Actions) {
        let Some(at_once) = self.stops_by(event, now) else { return };
        let policy = self.serving_policy();
        let deadline = if at_once { now } else { now + policy.drain_timeout };
        out.push(Action::DrainOrphans { deadline, kill_timeout: policy.kill_timeout });
    }

    fn serving_policy(&self) -> Policy {
        match (self.life.transition(), &self.current) {
            (Some(transition), _) if transition.is_committed() => transition.policy,
            (_, Some(current)) => current.policy,
            (_, None) => self.initial,
        }
    }
}
