//! The upgrade of the supervisor's own image: a part of every restart from disk, between its confirmation and
//! the answers to its clients.
//!
//! The machine asks for it by [`Action::Upgrade`] and holds back answers until the driver reports
//! [`Event::UpgradeFinished`](crate::supervisor::event::Event::UpgradeFinished).

use crate::Instant;

use super::{Actions, Machine, answer, log};
use crate::event::{Action, ClientAnswer, ClientId, Generation, Level, RestartReport};
use crate::json::{FromJson, ToJson};

/// An upgrade in progress.
#[derive(Debug, Clone, ToJson, FromJson)]
pub(super) struct Upgrade {
    /// The generation whose image the supervisor is about to run.
    generation: Generation,
    /// The clients of this generation's restart whose answers wait for the end of the upgrade.
    held: Vec<(ClientId, RestartReport)>,
}

impl Machine {
    /// Begins the upgrade to the image of a generation that was just confirmed.
    pub(super) fn begin_upgrade(&mut self, generation: Generation, out: &mut Actions) {
        let Some(active) = self.life.active_mut() else { return };
        active.upgrade = Some(Upgrade { generation, held: Vec::new() });
        out.push(Action::Upgrade { generation });
    }

    /// Ends the upgrade: notes in the reports why the supervisor kept its own image, if it did, sends the
    /// answers held back and begins the pending restart.
    pub(super) fn upgraded(&mut self, kept: Option<String>, now: Instant, out: &mut Actions) {
        let upgrade = self.life.active_mut().and_then(|active| active.upgrade.take());
        let Some(upgrade) = upgrade else { return };
        let mut held = upgrade.held;
        if let Some(reason) = kept {
            let text = format!(
                "the workers run the new image, but the supervisor keeps the old one: {reason}"
            );
            out.push(log(Level::Error, text.clone()));
            let remembered = self.restarts.iter_mut();
            let retiring = self.retiring.iter_mut().map(|retiring| &mut retiring.report);
            let held = held.iter_mut().map(|(_, report)| report);
            for report in remembered.chain(retiring).chain(held) {
                if report.to == upgrade.generation && report.committed {
                    let before = report.note.take().map(|note| format!("{note}; "));
                    report.note = Some(before.unwrap_or_default() + &text);
                }
            }
        }
        for (client, report) in held {
            answer(Some(client), ClientAnswer::Restarted(report), out);
        }
        self.start_pending(now, out);
    }

    /// Answers a client whose restart is done, or holds the answer back until the upgrade to the same
    /// generation is over.
    pub(super) fn restarted(
        &mut self,
        client: Option<ClientId>,
        report: RestartReport,
        out: &mut Actions,
    ) {
        let upgrade = self.life.active_mut().and_then(|active| active.upgrade.as_mut());
        match (upgrade, client) {
            (Some(upgrade), Some(client)) if upgrade.generation == report.to => {
                upgrade.held.push((client, report));
            }
            _ => answer(client, ClientAnswer::Restarted(report), out),
        }
    }
}

impl Upgrade {
    /// Drops the upgrade and sends the answers held back, because the daemon stops.
    pub(super) fn abandon(self, out: &mut Actions) {
        for (client, report) in self.held {
            answer(Some(client), ClientAnswer::Restarted(report), out);
        }
    }

    /// Drops the answer to a client that disconnected.
    pub(super) fn forget(&mut self, client: ClientId) {
        self.held.retain(|(waiting, _)| *waiting != client);
    }
}
