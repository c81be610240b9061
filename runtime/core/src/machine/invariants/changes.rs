//! What holds of the announcements of changes, and of what is the same in all orders of one event.

use super::super::State;
use super::super::state::Shown;
use super::Watch;
use crate::event::{Action, WorkerCommand};

impl Watch {
    /// After an event: exactly what differs is announced, at its place in the list.
    pub(super) fn check_changes(&self, before: &Shown, actions: &[Action]) {
        let now = self.machine.shown();
        let mut rest = actions;
        if let [others @ .., Action::Exit { .. }] = rest {
            rest = others;
        }
        if now.confirmed != before.confirmed {
            let [
                Action::Confirming { generation },
                others @ ..,
                Action::Confirmed { generation: confirmed, previous },
            ] = rest
            else {
                self.fail("a confirmation is not announced")
            };
            let right = Some(*generation) == now.confirmed && generation == confirmed;
            holds!(self, right && *previous == before.confirmed, "another one is confirmed");
            rest = others;
        }
        if now != *before {
            let [others @ .., Action::StateChanged] = rest else {
                self.fail(&format!("not announced: {now:?}"))
            };
            rest = others;
        }
        let more = rest.iter().find(|action| {
            matches!(
                action,
                Action::Confirming { .. } | Action::StateChanged | Action::Confirmed { .. }
            )
        });
        holds!(self, more.is_none(), "announced without a change, or out of place: {more:?}");
    }

    /// After an event: its orders to drain agree with what has become of the daemon.
    pub(super) fn check_drains(&self, actions: &[Action]) {
        let stops = self.machine.state() == State::Stopping;
        for action in actions {
            if let Action::SendToWorker { command, .. } = action
                && let WorkerCommand::Drain { last, listeners_end, .. } = command
            {
                holds!(self, *listeners_end == stops, "not the end of its listeners: {action:?}");
                holds!(self, *last == (stops || self.exclusive()), "not the last one: {action:?}");
            }
        }
    }
}
