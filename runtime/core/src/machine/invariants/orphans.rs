//! The rules for orphans.

use super::Watch;
use crate::event::{Action, Event};

impl Watch {
    /// Checks, after an event, that orphans drain when they should and only then, and have a time limit.
    pub(super) fn check_orphans(&self, event: &Event, actions: &[Action]) {
        let Some(orphans) = self.orphans else { return };
        let mut orders = actions.iter().filter_map(|action| match action {
            Action::DrainOrphans { deadline, last, listeners_end } => {
                Some((*deadline, *last, *listeners_end))
            }
            _ => None,
        });
        let (order, first) = (orders.next(), orders.next().is_none());
        holds!(self, first, "orphans are commanded twice");
        let ends = actions.contains(&Action::CloseListeners) && self.asked_to_stop
            || matches!(event, Event::Stop { .. }) && self.stopping;
        let serves = actions.iter().any(|action| matches!(action, Action::FirstReady { .. }));
        let makes_way = matches!(event, Event::Begin) && (orphans.exclusive || self.exclusive());
        let due = match (ends, serves) {
            (true, _) => Some((true, true)),
            (_, true) => Some((false, false)),
            _ => order.filter(|_| makes_way).map(|_| (true, false)),
        };
        holds!(self, order.map(|(_, last, ends)| (last, ends)) == due, "{order:?}, not {due:?}");
        let slow = order.is_some_and(|(deadline, ..)| deadline > self.now);
        let at_once = matches!(event, Event::Stop { at_once: true, .. });
        holds!(self, !(at_once && slow), "orphans drain slowly");
        let limit = orphans.limit.filter(|_| !orphans.killed && self.exit.is_none());
        let due = self.machine.deadline();
        holds!(
            self,
            limit.is_none_or(|at| due.is_some_and(|due| due <= at)),
            "no limit: {orphans:?}"
        );
    }
}
