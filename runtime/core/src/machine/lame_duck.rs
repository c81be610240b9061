//! The lame-duck phase: a daemon that is asked to stop first fails its readiness probe and keeps accepting
//! for a while, until load balancers no longer send it clients.
//!
//! Other than that, the daemon goes on: a transition continues, a crashed worker is respawned. New restarts
//! are refused, and a second signal stops the daemon at once.

use std::time::Duration;

use crate::Instant;

use super::stop::Urgency;
use super::worker::WorkerState;
use super::{Actions, Machine, log, refuse, seconds};
use crate::event::{Action, ClientId, Event, Level};
use crate::json::{FromJson, ToJson};

/// A lame-duck phase in progress.
#[derive(Debug, Clone, ToJson, FromJson)]
pub(super) struct LameDuck {
    /// When the daemon was asked to stop.
    since: Instant,
    /// When the stop begins.
    until: Instant,
    /// The clients that asked for the stop and wait for its end.
    clients: Vec<ClientId>,
}

impl LameDuck {
    /// Returns when the daemon was asked to stop.
    pub(super) fn since(&self) -> Instant {
        self.since
    }

    /// Returns when the stop begins.
    pub(super) fn until(&self) -> Instant {
        self.until
    }

    /// Returns the length of the phase.
    pub(super) fn length(&self) -> Duration {
        self.until.saturating_duration_since(self.since)
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
        if self.lame_duck.is_none() {
            for waiter in self.pending.take().into_iter().flatten() {
                refuse(waiter.client, "the daemon is stopping", out);
            }
            let text = format!("lame duck for {}: not ready, still accepting", seconds(length));
            out.push(log(Level::Info, text));
        }
        let lame_duck = self.lame_duck.get_or_insert_with(|| LameDuck {
            since: now,
            until: now + length,
            clients: Vec::new(),
        });
        lame_duck.clients.extend(client);
        let left = lame_duck.until.saturating_duration_since(now);
        out.push(Action::Progress {
            text: format!("lame duck for {}: not ready, still accepting", seconds(left)),
        });
        None
    }

    /// Returns whether a requested stop is one at once, or `None` if it does not begin now.
    fn stops_now(&self, client: Option<ClientId>, at_once: bool) -> Option<bool> {
        if at_once || self.stopping.is_some() {
            return Some(at_once);
        }
        match (&self.lame_duck, client) {
            // A second signal stops at once.
            (Some(_), None) => Some(true),
            (Some(_), Some(_)) => None,
            (None, _) => self.lame_duck_of().is_zero().then_some(false),
        }
    }

    /// Returns the length of a lame-duck phase, which is that of the worker that serves; zero if none does.
    fn lame_duck_of(&self) -> Duration {
        let accepts = self.workers.values().filter(|worker| worker.state == WorkerState::Serving);
        accepts.map(|worker| worker.policy.lame_duck).max().unwrap_or_default()
    }

    /// Begins the stop when the phase is over.
    pub(super) fn tick_lame_duck(&mut self, now: Instant, out: &mut Actions) {
        if self.lame_duck.as_ref().is_some_and(|lame_duck| lame_duck.until <= now) {
            self.begin_stop(0, None, Urgency::Drain, now, out);
        }
    }

    /// Returns whether an event would make the daemon stop at once; `None` if it would neither begin nor
    /// hasten a stop. The driver asks this before it passes the event on, to drain orphans too.
    pub fn stops_by(&self, event: &Event, now: Instant) -> Option<bool> {
        let over = |lame_duck: &LameDuck| lame_duck.until <= now;
        match event {
            Event::Stop { client, at_once } => {
                let again = client.is_none() && self.stopping.is_some();
                self.stops_now(*client, *at_once).map(|at_once| at_once || again)
            }
            Event::Tick => self.lame_duck.as_ref().is_some_and(over).then_some(false),
            _ => None,
        }
    }
}
