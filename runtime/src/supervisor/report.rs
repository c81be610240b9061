//! What the supervisor reports: its status, the outcome of restarts, and what draining generations left.

use std::time::{Duration, Instant};

use super::driver::Driver;
use crate::config::Settings;
use crate::control::{
    DiskStatus, ImageStatus, ListenerStatus, PastRestart, RestartOutcome, Status, WorkerStatus,
    unix_seconds,
};
use crate::counters::Ledger;
use unbroken_core::event::{Generation, RestartReport};

use crate::link::{self, MAX_REASON, MAX_STATUS};

/// Collects everything that `status` shows.
pub(super) fn status(driver: &Driver) -> Status {
    let now = Instant::now();
    let generation = driver.machine.serving_generation();
    let holdings = generation.and_then(|generation| driver.generations.get(generation));
    let workers = driver
        .workers
        .iter()
        .map(|(id, process)| WorkerStatus {
            pid: process.child.pid(),
            generation: process.generation,
            state: driver.machine.worker_state(id).map_or("stopping", |s| s.as_str()).to_owned(),
            uptime: now.saturating_duration_since(process.since).as_secs_f64(),
            text: process.text.clone(),
            ..WorkerStatus::of(process.ledger(), process.remaining())
        })
        .collect();
    let listeners = holdings
        .into_iter()
        .flat_map(|holdings| &holdings.listeners)
        .map(|(name, bound)| ListenerStatus::of(name, bound))
        .collect();
    Status {
        mode: "supervised".into(),
        state: driver.machine.state().to_string(),
        generation,
        workers,
        listeners,
        image: generation
            .and_then(|serving| image(driver, serving, driver.times.serves(serving)))
            .unwrap_or_else(|| ImageStatus { path: driver.next_image(), ..ImageStatus::default() }),
        known_good: driver
            .machine
            .confirmed_generation()
            .and_then(|good| image(driver, good, driver.times.confirmed(good))),
        supervisor_image: Some(ImageStatus::of(&driver.image, None, None)),
        on_disk: holdings.map(|holdings| {
            let workers = driver.generations.identities();
            DiskStatus::of(&holdings.image, driver.next_image(), &workers)
        }),
        note: driver.machine.rolled_back().map(str::to_owned),
        ledger: generation.map(|serving| {
            let alive = driver.workers.iter().filter(|(_, process)| process.generation == serving);
            let mut ledger: Ledger = alive.map(|(_, process)| process.ledger()).sum();
            ledger += driver.machine.ledger_of(serving);
            ledger
        }),
        restarts: driver
            .machine
            .restarts()
            .map(|report| PastRestart {
                at: asked_at(driver, report.to),
                outcome: RestartOutcome::of(report, Vec::new()),
            })
            .collect(),
        ..driver.io.status(now)
    }
}

/// Returns the image of a generation, as `status` shows it.
fn image(driver: &Driver, generation: Generation, since: Option<u64>) -> Option<ImageStatus> {
    let holdings = driver.generations.get(generation)?;
    Some(ImageStatus::of(&holdings.image, generation, since))
}

/// Returns when a generation was begun, in seconds since 1970; 0 if that is forgotten.
fn asked_at(driver: &Driver, generation: Generation) -> u64 {
    let asked = driver.asked.iter().find(|(asked, _)| *asked == generation);
    asked.map_or(0, |(_, at)| unix_seconds(*at))
}

/// Cuts a reason from a worker to [`MAX_REASON`] and makes it safe to print.
pub(super) fn short(text: String) -> String {
    cut(text, MAX_REASON)
}

/// Cuts a status text from a worker to [`MAX_STATUS`] and makes it safe to print.
pub(super) fn short_status(text: String) -> String {
    cut(text, MAX_STATUS)
}

/// Cuts a text to so many bytes and replaces control characters: a terminal would interpret them, and in JSON
/// each takes six bytes.
fn cut(text: String, bytes: usize) -> String {
    let odd = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    let mut text = text.replace(odd, "\u{fffd}");
    link::cut(&mut text, bytes);
    text
}

/// Returns advice for a failed restart whose worker wrote `output`.
pub(super) fn advice(output: &[String], settings: &Settings) -> Option<&'static str> {
    let number = format!("(os error {})", rustix::io::Errno::ADDRINUSE.raw_os_error());
    let in_use = |line: &String| line.contains(&number) || line.contains("AddrInUse");
    // An exclusive program never runs beside the generation that serves, so that cannot be the cause.
    (!settings.exclusive && output.iter().any(in_use)).then_some(
        "an address that the program binds itself is in use, probably by the generation that \
         serves; declare it with `listen` or set `exclusive`",
    )
}

/// Emits a tracing event for a generation whose last worker has ended, and returns the same as a log line;
/// `None` if the report is not complete.
pub(super) fn trace(report: &RestartReport) -> Option<String> {
    let (generation, ledger, took) = (report.from?, report.ledger?, report.to_drained?);
    let ms = |duration: Duration| duration.as_secs_f64() * 1000.0;
    tracing::info!(
        generation,
        to = report.to,
        accepted = ledger.accepted,
        received = ledger.received,
        finished = ledger.finished,
        handed_off = ledger.handed_off,
        closed = ledger.closed,
        forced = ledger.forced,
        lost = ledger.lost,
        requests = ledger.requests,
        forced_tasks = ledger.forced_tasks,
        forced_main = ledger.forced_main,
        dropped_tasks = ledger.dropped_tasks,
        to_commit_ms = report.to_commit.map(ms),
        to_drained_ms = ms(took),
        "generation drained"
    );
    Some(format!("generation {generation} drained after {:.0} ms: {ledger}", ms(took)))
}

/// Returns the ledger in a report as fields for the log line.
pub(super) fn fields(report: &RestartReport) -> Vec<(String, serde_json::Value)> {
    let Some(ledger) = report.ledger else { return Vec::new() };
    [
        ("to", u64::from(report.to)),
        ("accepted", ledger.accepted),
        ("received", ledger.received),
        ("finished", ledger.finished),
        ("handed_off", ledger.handed_off),
        ("closed", ledger.closed),
        ("forced", ledger.forced),
        ("lost", ledger.lost),
        ("requests", ledger.requests),
        ("forced_tasks", ledger.forced_tasks),
        ("forced_main", ledger.forced_main),
        ("dropped_tasks", ledger.dropped_tasks),
    ]
    .map(|(name, value)| (name.to_owned(), value.into()))
    .into()
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::json;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn text_of_a_worker_is_cut_and_safe_to_print() {
        assert_eq!(short("two\nlines\tof it".into()), "two\nlines\tof it");
        assert_eq!(short_status("\u{1b}[2J\u{9b}2J".into()), "\u{fffd}[2J\u{fffd}2J");
        let worst = json::to_string(&short("\u{1}\"ä".repeat(5_000))).unwrap();
        assert!(worst.len() < 2 * MAX_REASON, "{}", worst.len());
        assert!(short("ä".repeat(5_000)).ends_with("ä…"));
    }

    #[test]
    fn ledger_is_an_event_with_fields() {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber =
            tracing_subscriber::fmt().json().with_writer(move || writer.clone()).finish();
        let ledger =
            Ledger { accepted: 9, handed_off: 7, lost: 2, requests: 40, ..Ledger::default() };
        let report = RestartReport {
            from: Some(3),
            to: 4,
            committed: true,
            reason: None,
            note: None,
            to_commit: Some(Duration::from_micros(2500)),
            to_drained: Some(Duration::from_millis(20)),
            ledger: Some(ledger),
            warnings: Vec::new(),
        };
        let text = tracing::subscriber::with_default(subscriber, || trace(&report));
        assert_eq!(
            text.as_deref(),
            Some(
                "generation 3 drained after 20 ms: 9 connections: 0 finished, 7 handed off, 0 \
                 closed, 0 forced, 2 lost; 40 requests"
            )
        );
        let event: serde_json::Value = serde_json::from_slice(&lines.0.lock().unwrap()).unwrap();
        let fields = &event["fields"];
        for (name, value) in [("generation", 3), ("to", 4), ("accepted", 9), ("received", 0)] {
            assert_eq!(fields[name], value, "{name}: {event}");
        }
        for (name, value) in [("handed_off", 7), ("closed", 0), ("forced", 0), ("lost", 2)] {
            assert_eq!(fields[name], value, "{name}: {event}");
        }
        assert_eq!((&fields["requests"], &fields["finished"]), (&40.into(), &0.into()));
        assert_eq!(
            (&fields["to_commit_ms"], &fields["to_drained_ms"]),
            (&2.5.into(), &20.0.into())
        );
        assert_eq!(fields["message"], "generation drained");
        let incomplete = RestartReport { ledger: None, ..report };
        assert_eq!(trace(&incomplete), None);
    }
}
