//! The texts that the verbs print for people.

use std::fmt::Write;
use std::time::{Duration, UNIX_EPOCH};

use crate::control::{DiskStatus, ImageStatus, PastRestart, RestartOutcome, Status};
use crate::counters::{Ledger, Remaining};
use crate::owned_files::FileStatus;
use crate::timestamp::rfc3339;

/// The text of `status`.
pub(super) fn status(status: &Status) -> String {
    let mut out = format!(
        "{} is {} as process {} since {} ({})\n",
        status.name,
        if status.state == "lame-duck" { "a lame duck" } else { &status.state },
        status.pid,
        time(status.since),
        ago(status.uptime)
    );
    let mut line = |key: &str, value: &dyn std::fmt::Display| {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "  {key:<10} {value}");
    };
    let generation = match status.generation {
        Some(generation) => generation.to_string(),
        None => "none yet".into(),
    };
    line("mode", &status.mode);
    line("generation", &generation);
    line("image", &image(&status.image, "since"));
    if let Some(good) = &status.known_good {
        let same = good.generation.is_some() && good.generation == status.image.generation;
        match (same, good.since) {
            (true, Some(at)) => line("known-good", &format!("the same, confirmed {}", time(at))),
            (true, None) => line("known-good", &"the same"),
            (false, _) => line("known-good", &image(good, "confirmed")),
        }
    }
    let build = |image: &ImageStatus| (image.build_id.clone(), image.size, image.modified);
    let other = |own: &&ImageStatus| build(own) != build(&status.image);
    if let Some(own) = status.supervisor_image.as_ref().filter(other) {
        line("supervisor", &format!("runs a different image: {}", image(own, "since")));
    }
    if let Some(disk) = status.on_disk.as_ref().and_then(|disk| on_disk(disk, &status.mode)) {
        line("on disk", &disk);
    }
    line("pidfile", &status.pidfile.display());
    for file in &status.files {
        line("file", &self::file(file));
    }
    match &status.log {
        Some(log) => line("log", &log.display()),
        None => line("log", &"stderr"),
    }
    for listener in &status.listeners {
        let source =
            listener.source.describe().map(|source| format!(", {source}")).unwrap_or_default();
        line("listener", &format!("{} {}{source}", listener.name, listener.addr));
    }
    for addr in &status.probes {
        line("probes", addr);
    }
    for worker in &status.workers {
        let mut text = match worker.tasks {
            0 => String::new(),
            1 => ", 1 task".to_owned(),
            many => format!(", {many} tasks"),
        };
        if worker.state == "draining" && worker.main_ended == Some(false) {
            text.push_str(", `main` has not returned");
        }
        text.extend(worker.text.as_ref().map(|text| format!(": {text}")));
        line(
            "worker",
            &format!(
                "{} generation {} {} for {}, {} connections, {} requests in flight{text}",
                worker.pid,
                worker.generation,
                worker.state,
                ago(worker.uptime),
                worker.connections,
                worker.requests_in_flight,
            ),
        );
    }
    let alive: Ledger = status
        .workers
        .iter()
        .filter(|worker| Some(worker.generation) == status.generation)
        .map(|worker| worker.ledger)
        .sum();
    if let Some(ledger) = status.ledger.filter(|ledger| *ledger != alive) {
        line("ledger", &format!("of this generation, including crashed workers: {ledger}"));
    }
    if let Some(note) = &status.note {
        line("note", note);
    }
    if status.restarts.is_empty() {
        line("restart", &"none yet");
    }
    for restart in &status.restarts {
        line("restart", &past_restart(restart));
    }
    out
}

/// What draining workers wait for; `None` if no worker drains.
pub(super) fn waits(status: &Status) -> Option<String> {
    let draining: Vec<_> =
        status.workers.iter().filter(|worker| worker.state == "draining").collect();
    let several = draining.len() > 1;
    let waits = draining.into_iter().map(|worker| {
        let main = worker.main_ended.map(|ended| !ended);
        let held = Remaining { connections: worker.connections, tasks: worker.tasks, main };
        match several {
            true => format!("generation {}: {held}", worker.generation),
            false => held.to_string(),
        }
    });
    let waits = waits.collect::<Vec<_>>().join("; ");
    (!waits.is_empty()).then_some(waits)
}

/// What happened to one of the daemon's files.
fn file(file: &FileStatus) -> String {
    let (what, path, at) = (&file.what, file.path.display(), time(file.at));
    match (file.state.as_str(), &file.reason) {
        ("restored", _) => format!("{what} {path} was missing and was restored at {at}"),
        ("replaced", _) => {
            format!("{what} {path} was replaced by another file at {at}; remove that file")
        }
        (_, Some(reason)) => format!("{what} {path} has been missing since {at}: {reason}"),
        (state, None) => format!("{what} {path} has been {state} since {at}"),
    }
}

/// An image: its path and build, and the time since which it has its role, introduced by `since`.
fn image(image: &ImageStatus, since: &str) -> String {
    let mut text = image.path.display().to_string();
    match (&image.build_id, image.size, image.modified) {
        (Some(id), ..) => text.push_str(&format!(", build id {}", short(id))),
        (None, Some(size), Some(at)) => {
            text.push_str(&format!(", {size} bytes, written {}, no build id", time(at)));
        }
        _ => {}
    }
    if let Some(at) = image.since {
        text.push_str(&format!(", {since} {}", time(at)));
    }
    text
}

/// The first 12 digits of a build id, enough to compare. The id is from another process and may be any text.
fn short(build_id: &str) -> &str {
    build_id.get(..12).unwrap_or(build_id)
}

/// The difference between the image on disk and the code that runs, if there is one.
fn on_disk(disk: &DiskStatus, mode: &str) -> Option<String> {
    let path = disk.path.display();
    let (verbs, would) = match mode {
        "solo" => ("`stop` and `start`", "`stop` and `start` would fail"),
        _ => ("`restart`", "`restart` would fail"),
    };
    let build = disk.build_id.as_deref().map(|id| format!(" (build id {})", short(id)));
    let build = build.unwrap_or_default();
    match disk.state.as_str() {
        "other" => Some(format!(
            "the image on disk differs from the running one; {verbs} would switch to {path}{build}"
        )),
        "same-build" => Some(format!("a different file of the same build: {path}")),
        "missing" => Some(format!("the image on disk is missing; {would} until {path} exists")),
        "unusable" => {
            let reason = disk.reason.as_deref().unwrap_or("the image on disk cannot be used");
            Some(format!("{would}: {reason}"))
        }
        _ => None,
    }
}

/// One line about an earlier restart.
fn past_restart(past: &PastRestart) -> String {
    let outcome = &past.outcome;
    let from = outcome.from.map(|from| format!("generation {from} to ")).unwrap_or_default();
    let mut text = format!("{} {from}{}: {}", time(past.at), outcome.generation, outcome.result);
    if let Some(reason) = &outcome.reason {
        let _ = write!(text, ", {reason}");
    }
    if let Some(ledger) = &outcome.ledger {
        let _ = write!(text, "; {ledger}");
    }
    for warning in &outcome.warnings {
        let _ = write!(text, "; {warning}");
    }
    text
}

/// The text of a successful `restart`.
pub(super) fn restarted(name: &str, outcome: &RestartOutcome) -> String {
    let mut text = format!("{name} serves generation {}", outcome.generation);
    if let Some(ms) = outcome.to_commit_ms {
        let _ = write!(text, " after {ms:.0} ms");
    }
    if let (Some(from), Some(ms)) = (outcome.from, outcome.to_drained_ms) {
        let _ = write!(text, "; generation {from} drained after {ms:.0} ms");
    }
    if let Some(ledger) = &outcome.ledger {
        let _ = write!(text, ": {ledger}");
    }
    note(name, outcome, &mut text);
    warn(name, &outcome.warnings, &mut text);
    text
}

/// Appends the warnings.
fn warn(name: &str, warnings: &[String], text: &mut String) {
    for warning in warnings {
        let _ = write!(text, "\n{name}: {warning}");
    }
}

/// Appends the note of what happened before the restart.
fn note(name: &str, outcome: &RestartOutcome, text: &mut String) {
    if let Some(note) = &outcome.note {
        let _ = write!(text, "\n{name}: before this restart: {note}");
    }
}

/// The text of `stop`; with the ledger, if the daemon reported it before it exited.
pub(super) fn stopped(name: &str, farewell: Option<StopReport>) -> String {
    let mut text = format!("{name} stopped");
    if let Some(StopReport { ledger, to_drained_ms, warnings }) = farewell {
        if let Some(ms) = to_drained_ms {
            let _ = write!(text, " after {ms:.0} ms");
        }
        let _ = write!(text, ": {ledger}");
        warn(name, &warnings, &mut text);
    }
    text
}

/// What a daemon reports when it stops.
pub(super) struct StopReport {
    pub(super) ledger: Ledger,
    pub(super) to_drained_ms: Option<f64>,
    pub(super) warnings: Vec<String>,
}

/// The text of a `restart` that was aborted.
pub(super) fn aborted(name: &str, outcome: &RestartOutcome) -> String {
    let reason = outcome.reason.as_deref().unwrap_or("no reason given");
    let kept =
        outcome.from.map_or(String::new(), |from| format!("; generation {from} keeps serving"));
    let mut text = format!("{name}: restart aborted: {reason}{kept}");
    if let Some(ledger) = outcome.ledger.filter(|ledger| ledger.accepted > 0 || ledger.received > 0)
    {
        let _ = write!(text, "; generation {} had {ledger}", outcome.generation);
    }
    note(name, outcome, &mut text);
    warn(name, &outcome.warnings, &mut text);
    if !outcome.output.is_empty() {
        let _ = write!(text, "\n{name}: the last lines of its log:");
        for line in &outcome.output {
            let _ = write!(text, "\n  {line}");
        }
    }
    text
}

fn time(unix: u64) -> String {
    // The number came over the wire.
    let time = UNIX_EPOCH.checked_add(Duration::from_secs(unix)).unwrap_or(UNIX_EPOCH);
    rfc3339(time, 0)
}

fn ago(seconds: f64) -> String {
    // The number is from another process, and may be negative or not a number.
    let duration = Duration::try_from_secs_f64(seconds.floor().max(0.0)).unwrap_or_default();
    unbroken_schema::duration::format(duration)
}
