//! What the supervisor tells its control clients.

use std::time::{Instant, UNIX_EPOCH};

use super::driver::Driver;
use super::event::{Generation, Report};
use crate::control::{ImageStatus, LastRestart, ListenerStatus, Outcome, Status, WorkerStatus};

/// Characters of a reason; what is beyond is cut.
const MAX_REASON: usize = 2000;

/// Characters of a status line, as a worker of this release cuts them itself.
const MAX_STATUS: usize = 1000;

/// Everything that `status` shows.
pub(super) fn status(driver: &Driver) -> Status {
    let now = Instant::now();
    let generation = driver.machine.serving_generation();
    let holdings = generation.and_then(|generation| driver.generations.get(generation));
    let workers = driver
        .fleet
        .iter()
        .map(|(id, process)| {
            let ledger = process.ledger();
            WorkerStatus {
                pid: process.child.pid(),
                generation: process.generation,
                state: driver.machine.worker_state(id).map_or("stopping", |s| s.word()).to_owned(),
                uptime: now.saturating_duration_since(process.since).as_secs_f64(),
                connections: ledger.open,
                requests_in_flight: ledger.in_flight,
                requests: ledger.requests,
                text: process.text.clone(),
            }
        })
        .collect();
    let listeners = holdings
        .into_iter()
        .flat_map(|holdings| &holdings.listeners)
        .map(|(name, bound)| ListenerStatus { name: name.clone(), addr: bound.addr().to_string() })
        .collect();
    let settings = &driver.setup.configuration.settings;
    Status {
        name: settings.name.clone(),
        pid: std::process::id(),
        mode: "supervised".into(),
        state: driver.machine.state_word().into(),
        uptime: now.saturating_duration_since(driver.began.0).as_secs_f64(),
        since: unix_seconds(driver.began.1),
        generation,
        workers,
        listeners,
        image: ImageStatus {
            path: holdings.map_or_else(
                || driver.setup.origin.exe.clone(),
                |holdings| holdings.image.path().to_owned(),
            ),
            release: None,
        },
        pidfile: settings.pidfile.clone(),
        log: driver.setup.log.as_ref().map(|log| log.path().to_owned()),
        last_restart: driver.machine.last_restart().map(|report| LastRestart {
            at: asked_at(driver, report.to),
            to: report.to,
            outcome: outcome(report, Vec::new()),
        }),
    }
}

fn asked_at(driver: &Driver, generation: Generation) -> u64 {
    let asked = driver.asked.iter().find(|(asked, _)| *asked == generation);
    unix_seconds(asked.unwrap_or(&driver.asked[1]).1)
}

/// What a worker says of its end, no longer than people read and a packet holds.
pub(super) fn short(text: String) -> String {
    cut(text, MAX_REASON)
}

/// What a worker says of what it does: the text of each has a place in one packet.
pub(super) fn short_status(text: String) -> String {
    cut(text, MAX_STATUS)
}

fn cut(mut text: String, characters: usize) -> String {
    if let Some((end, _)) = text.char_indices().nth(characters) {
        text.truncate(end);
        text.push('…');
    }
    text
}

/// How a restart ended, for people and programs.
pub(super) fn outcome(report: &Report, output: Vec<String>) -> Outcome {
    let ms = |duration: Option<std::time::Duration>| duration.map(|d| d.as_secs_f64() * 1000.0);
    Outcome {
        result: if report.committed { "ok" } else { "aborted" }.into(),
        reason: report.reason.clone(),
        generation: report.to,
        from: report.from,
        ledger: report.ledger,
        to_commit_ms: ms(report.to_commit),
        to_drained_ms: ms(report.to_drained),
        output,
    }
}

pub(crate) fn unix_seconds(at: std::time::SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
