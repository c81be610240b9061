//! The end of a generation, and whoever waits for it.

use std::time::Instant;

use super::transition::Waiter;
use super::{Actions, Machine, answer};
use crate::counters::Ledger;
use crate::supervisor::event::{Action, Answer, Generation, Report};

/// A generation that was replaced and has workers left.
#[derive(Debug)]
pub(super) struct Retiring {
    generation: Generation,
    /// Of its replacement, complete but for the end.
    report: Report,
    requested: Instant,
    pub(super) waiters: Vec<Waiter>,
}

impl Machine {
    /// The restart that replaced a generation is done: answers those who do not wait for the end of its
    /// last worker now, the others then.
    pub(super) fn replaced(
        &mut self,
        report: Report,
        requested: Instant,
        waiters: Vec<Waiter>,
        out: &mut Actions,
    ) {
        let old = report.from;
        let (waiting, answered) =
            waiters.into_iter().partition(|waiter| waiter.wait && old.is_some());
        for Waiter { client, .. } in answered {
            answer(client, Answer::Restarted(report.clone()), out);
        }
        // Even where nobody waits: `status` shows the figures of the last restart.
        if let Some(generation) = old {
            self.retiring.push(Retiring { generation, report, requested, waiters: waiting });
        }
    }

    /// A worker has ended.
    pub(super) fn account(&mut self, generation: Generation, ledger: Ledger) {
        if let Some(stopping) = &mut self.stopping {
            stopping.ledger += ledger;
        }
        *self.ledgers.entry(generation).or_default() += ledger;
    }

    pub(super) fn retire_if_unused(
        &mut self,
        generation: Generation,
        now: Instant,
        out: &mut Actions,
    ) {
        let used = self.workers.values().any(|worker| worker.generation == generation)
            || self.current.as_ref().is_some_and(|c| c.generation == generation)
            || self.transition.as_ref().is_some_and(|t| t.generation == generation);
        if used {
            return;
        }
        let ledger = self.ledgers.remove(&generation).unwrap_or_default();
        for ended in self.retiring.extract_if(.., |old| old.generation == generation) {
            let mut report = ended.report;
            report.to_drained = Some(now.saturating_duration_since(ended.requested));
            report.ledger = Some(ledger);
            if let Some(told) = self.restarts.iter_mut().find(|told| told.to == report.to) {
                *told = report.clone();
            }
            out.push(Action::Drained { report: report.clone() });
            for waiter in ended.waiters {
                answer(waiter.client, Answer::Restarted(report.clone()), out);
            }
        }
        out.push(Action::Retire { generation });
    }
}
