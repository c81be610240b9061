//! The life of the daemon: active, stopping, gone.

use super::lame_duck::LameDuck;
use super::stop::Stopping;
use super::transition::{Transition, Waiter};
use super::upgrade::Upgrade;
use crate::json::{FromJson, ToJson};

/// Which part of its life the daemon is in, with what exists only in that part.
#[derive(Debug, Clone, ToJson, FromJson)]
pub(super) enum Lifecycle {
    Active(Active),
    /// No longer accepting: what was going on was abandoned.
    Stopping(Stopping),
    /// The last worker is gone, and nothing follows.
    Exited,
}

/// What goes on in a daemon that does not stop.
#[derive(Debug, Clone, Default, ToJson, FromJson)]
pub(super) struct Active {
    pub(super) transition: Option<Transition>,
    /// The requests for a restart that arrived during a transition or an upgrade. One more restart, right after
    /// it, serves them all.
    pub(super) pending: Vec<Waiter>,
    pub(super) upgrade: Option<Upgrade>,
    /// The lame-duck phase: the daemon was asked to stop and still accepts.
    pub(super) lame_duck: Option<LameDuck>,
}

impl Lifecycle {
    pub(super) fn active(&self) -> Option<&Active> {
        match self {
            Lifecycle::Active(active) => Some(active),
            Lifecycle::Stopping(_) | Lifecycle::Exited => None,
        }
    }

    pub(super) fn active_mut(&mut self) -> Option<&mut Active> {
        match self {
            Lifecycle::Active(active) => Some(active),
            Lifecycle::Stopping(_) | Lifecycle::Exited => None,
        }
    }

    pub(super) fn is_active(&self) -> bool {
        self.active().is_some()
    }

    pub(super) fn transition(&self) -> Option<&Transition> {
        self.active()?.transition.as_ref()
    }

    pub(super) fn transition_mut(&mut self) -> Option<&mut Transition> {
        self.active_mut()?.transition.as_mut()
    }

    pub(super) fn lame_duck(&self) -> Option<&LameDuck> {
        self.active()?.lame_duck.as_ref()
    }

    /// Whether a restart would have to wait.
    pub(super) fn changes(&self) -> bool {
        self.active().is_some_and(|active| active.transition.is_some() || active.upgrade.is_some())
    }

    pub(super) fn has_pending(&self) -> bool {
        self.active().is_some_and(|active| !active.pending.is_empty())
    }

    pub(super) fn take_pending(&mut self) -> Vec<Waiter> {
        self.active_mut().map(|active| std::mem::take(&mut active.pending)).unwrap_or_default()
    }

    pub(super) fn stopping(&self) -> Option<&Stopping> {
        match self {
            Lifecycle::Stopping(stopping) => Some(stopping),
            Lifecycle::Active(_) | Lifecycle::Exited => None,
        }
    }

    pub(super) fn stopping_mut(&mut self) -> Option<&mut Stopping> {
        match self {
            Lifecycle::Stopping(stopping) => Some(stopping),
            Lifecycle::Active(_) | Lifecycle::Exited => None,
        }
    }
}
