//! The end of a generation: its last worker ends, its report is completed, clients that waited are answered
//! and its image is released.

use crate::Instant;

use super::committed::CommittedGeneration;
use super::transition::Waiter;
use super::{Actions, Machine, answer};
use crate::Ledger;
use crate::event::{Action, ClientAnswer, Generation, RestartReport};
use crate::json::{FromJson, ToJson};

/// A generation that has stopped serving and still has workers: it was replaced, or its restart was
/// aborted after the commit.
#[derive(Debug, Clone, ToJson, FromJson)]
pub(super) struct Retiring {
    /// Its number.
    pub(super) generation: Generation,
    /// The report of the restart that ended its service, still without `to_drained` and `ledger`.
    pub(super) report: RestartReport,
    /// When that restart was requested.
    requested: Instant,
    /// The requests whose answers wait for the end of its last worker.
    pub(super) waiters: Vec<Waiter>,
}

impl Machine {
    /// Handles a confirmed restart: answers the clients that do not wait for the old generation to drain, and
    /// keeps the others until then.
    pub(super) fn replaced(
        &mut self,
        report: RestartReport,
        requested: Instant,
        waiters: Vec<Waiter>,
        out: &mut Actions,
    ) {
        let old = report.from;
        let (waiting, answered) =
            waiters.into_iter().partition(|waiter| waiter.wait && old.is_some());
        for Waiter { client, .. } in answered {
            self.restarted(client, report.clone(), out);
        }
        // Also without clients that wait: `status` shows the figures of the last restarts.
        if let Some(generation) = old {
            self.retiring.push(Retiring { generation, report, requested, waiters: waiting });
        }
    }

    /// Handles a restart that was aborted after its commit: the answers wait for the end of the new worker.
    pub(super) fn aborted_after_commit(
        &mut self,
        report: RestartReport,
        requested: Instant,
        waiters: Vec<Waiter>,
    ) {
        self.retiring.push(Retiring { generation: report.to, report, requested, waiters });
    }

    /// Adds the ledger of a worker that has ended to that of its generation, and of the stop in progress.
    pub(super) fn add_to_ledger(&mut self, generation: Generation, ledger: Ledger) {
        if let Some(stopping) = self.life.stopping_mut() {
            stopping.ledger += ledger;
        }
        *self.ledgers.entry(generation).or_default() += ledger;
    }

    /// Releases a generation that has no workers and will get none: completes its reports, sends the answers
    /// that waited for its end, and keeps its image only for a possible rollback.
    pub(super) fn retire_if_unused(
        &mut self,
        generation: Generation,
        now: Instant,
        out: &mut Actions,
    ) {
        let used = self.workers.values().any(|worker| worker.generation == generation)
            || self.current.as_ref().is_some_and(|c| c.generation == generation)
            || self.life.transition().is_some_and(|t| t.generation == generation);
        if used {
            return;
        }
        let ledger = self.ledgers.remove(&generation).unwrap_or_default();
        let ended: Vec<Retiring> =
            self.retiring.extract_if(.., |old| old.generation == generation).collect();
        for ended in ended {
            let mut report = ended.report;
            let took = now.saturating_duration_since(ended.requested);
            report.to_drained = report.committed.then_some(took);
            report.ledger = Some(ledger);
            if let Some(listed) = self.restarts.iter_mut().find(|listed| listed.to == report.to) {
                *listed = report.clone();
            }
            if report.committed {
                out.push(Action::Drained { report: report.clone() });
            }
            for waiter in ended.waiters {
                match report.committed {
                    true => self.restarted(waiter.client, report.clone(), out),
                    false => answer(waiter.client, ClientAnswer::Aborted(report.clone()), out),
                }
            }
        }
        let fallback = |current: &CommittedGeneration| current.rollback_to == Some(generation);
        let keep = self.current.as_ref().is_some_and(fallback);
        out.push(Action::ReleaseGeneration { generation, keep });
    }
}
