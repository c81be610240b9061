//! The supervisor's own change of image: a part of every restart, between its confirmation and its
//! answers.

use crate::Instant;

use super::{Actions, Machine, answer, log};
use crate::event::{Action, ClientAnswer, ClientId, Generation, Level, RestartReport};
use crate::json::{FromJson, ToJson};

/// The supervisor is about to run the image of this generation.
#[derive(Debug, Clone, ToJson, FromJson)]
pub(super) struct Upgrade {
    generation: Generation,
    /// Answers that say how it went.
    held: Vec<(ClientId, RestartReport)>,
}

impl Machine {
    /// Whatever is confirmed and was asked for, the supervisor runs as well.
    pub(super) fn begin_upgrade(&mut self, generation: Generation, out: &mut Actions) {
        let Some(active) = self.life.active_mut() else { return };
        active.upgrade = Some(Upgrade { generation, held: Vec::new() });
        out.push(Action::Upgrade { generation });
    }

    /// The supervisor runs the image it should; or it does not, and why.
    pub(super) fn upgraded(&mut self, kept: Option<String>, now: Instant, out: &mut Actions) {
        let upgrade = self.life.active_mut().and_then(|active| active.upgrade.take());
        let Some(upgrade) = upgrade else { return };
        let mut held = upgrade.held;
        if let Some(reason) = kept {
            let text = format!("workers new, supervisor kept, because {reason}");
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

    /// A restart is done: whoever asked is answered, at the earliest when the supervisor's own part of it
    /// is done too.
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
    /// The daemon stops: that its supervisor is not the newest does not matter any more.
    pub(super) fn abandon(self, out: &mut Actions) {
        for (client, report) in self.held {
            answer(Some(client), ClientAnswer::Restarted(report), out);
        }
    }

    pub(super) fn forget(&mut self, client: ClientId) {
        self.held.retain(|(waiting, _)| *waiting != client);
    }
}
