//! The rules for what the log and the reports say about the ends of workers and their connections.

use super::{LastCommand, Seen, Watch};
use crate::Exit;
use crate::Ledger;
use crate::event::{Action, Event, Generation, RestartReport};

/// A worker that has ended, as it was just before.
pub(super) struct Ended {
    worker: Seen,
    exit: Exit,
    ledger: Ledger,
    /// Whether the daemon was not stopping.
    running: bool,
}

impl Watch {
    /// Notes the end of a worker and its ledger.
    pub(super) fn ended(&mut self, event: &Event) -> Option<Ended> {
        let Event::Exited { worker, exit, ledger } = event else { return None };
        let worker = self.workers.get(worker).filter(|_| self.exit.is_none())?.clone();
        *self.ledgers.entry(worker.generation).or_default() += *ledger;
        let coming = self.transition().and_then(|id| self.workers.get(&id));
        let coming = coming.filter(|coming| coming.command == LastCommand::Accept);
        if worker.command == LastCommand::Quiesce && !self.stopping {
            self.bereft.extend(coming.map(|coming| coming.generation));
        }
        Some(Ended { worker, exit: *exit, ledger: *ledger, running: !self.stopping })
    }

    /// Checks that the log mentions an end without a command, and the connections that were lost with it.
    pub(super) fn check_told(&self, ended: Option<Ended>, actions: &[Action]) {
        let Some(Ended { worker, exit, ledger, running }) = ended else { return };
        let of = worker.generation;
        let logged = |part: &str| {
            actions.iter().any(|action| match action {
                Action::Log { text, generation, .. } => {
                    *generation == Some(of) && text.contains(part)
                }
                Action::Exit { reason: Some(reason), .. } => reason.contains(part),
                _ => false,
            })
        };
        holds!(self, ledger.lost == 0 || logged("lost"), "the loss is not reported: {worker:?}");
        let unasked =
            matches!(worker.command, LastCommand::Accept | LastCommand::Quiesce) && running;
        // The end may instead be mentioned as the reason of what follows: a rollback or the exit.
        let exhausted = self.machine.current.as_ref().is_some_and(|it| it.exhausted.is_some());
        let ends = self.machine.life.stopping().is_some_and(|it| it.reason.is_some());
        let reported = logged("") || exhausted || ends;
        holds!(self, !unasked || reported, "not reported that {worker:?} {exit}");
    }

    /// Checks a report that contains the ledger of `generation`.
    pub(super) fn check_report(&self, report: &RestartReport, generation: Generation) {
        let sum = self.ledgers.get(&generation).copied().unwrap_or_default();
        let right = report.ledger.is_none_or(|ledger| ledger == sum);
        holds!(self, right, "not what the workers reported, {sum:?}: {report:?}");
        let reported = !self.bereft.contains(&report.to) || !report.warnings.is_empty();
        holds!(self, reported, "the end of the old worker is not reported: {report:?}");
    }
}
