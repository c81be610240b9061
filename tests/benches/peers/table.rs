//! The figures, to be read by people (as Markdown) and by programs.

use std::time::Duration;

use serde_json::{Value, json};
use unbroken_tests::load::Ledger;

use super::machine::Machine;
use super::phase::{Phase, Restart, Run};
use super::{Figures, Measured};

pub(crate) fn print(phases: &[Phase], measured: &[Measured]) {
    println!("{}\n", Machine::this());
    let found = || measured.iter().filter_map(|it| Some((it.name, it.found.as_ref().ok()?)));
    for (number, phase) in phases.iter().enumerate() {
        let mut rows = vec![
            [
                "",
                "requests",
                "failed",
                "ended",
                "p50 ms",
                "p99 ms",
                "p99.9 ms",
                "max ms",
                "new code p50 ms",
                "max ms",
            ]
            .map(str::to_owned)
            .to_vec(),
        ];
        rows.extend(found().map(|(name, figures)| phase_row(name, &figures.runs[number])));
        println!("{}\n\n{}", phase.title, aligned(&rows));
    }
    let mut rows = vec![
        [
            "",
            "version",
            "restarts",
            "failed",
            "ended",
            "new code p50 ms",
            "max ms",
            "processes",
            "RSS MiB",
            "PSS MiB",
        ]
        .map(str::to_owned)
        .to_vec(),
    ];
    for Measured { name, found } in measured {
        rows.push(match found {
            Ok(figures) => sum_row(name, figures),
            Err(reason) => vec![(*name).to_owned(), format!("missing: {reason}")],
        });
    }
    println!("All phases, and the memory after them\n\n{}", aligned(&rows));
}

fn phase_row(name: &str, run: &Run) -> Vec<String> {
    let Run { ledger, restarts } = run;
    let [p50, p99, p999, max] = latency(ledger).map(ms);
    let [new_p50, new_max] = new_code(restarts);
    let count = |count: u64| count.to_string();
    let (failed, ended) = (count(ledger.failed()), count(ledger.ended_by_server()));
    vec![
        name.to_owned(),
        count(ledger.total()),
        failed,
        ended,
        p50,
        p99,
        p999,
        max,
        new_p50,
        new_max,
    ]
}

fn sum_row(name: &str, figures: &Figures) -> Vec<String> {
    let sum =
        |of: fn(&Ledger) -> u64| -> u64 { figures.runs.iter().map(|run| of(&run.ledger)).sum() };
    let restarts = all_restarts(figures);
    let [new_p50, new_max] = new_code(&restarts);
    let mib = |bytes: u64| format!("{:.1}", bytes as f64 / 1024.0 / 1024.0);
    vec![
        name.to_owned(),
        figures.version.clone(),
        restarts.len().to_string(),
        sum(Ledger::failed).to_string(),
        sum(Ledger::ended_by_server).to_string(),
        new_p50,
        new_max,
        figures.memory.processes.to_string(),
        mib(figures.memory.rss),
        mib(figures.memory.pss),
    ]
}

fn all_restarts(figures: &Figures) -> Vec<Restart> {
    figures.runs.iter().flat_map(|run| run.restarts.iter().copied()).collect()
}

/// p50 and max; a restart whose code never answered counts as endless.
fn new_code(restarts: &[Restart]) -> [String; 2] {
    new_code_times(restarts).map(|time| time.map_or("never".into(), ms))
}

fn new_code_times(restarts: &[Restart]) -> [Option<Duration>; 2] {
    let mut times: Vec<Duration> =
        restarts.iter().map(|it| it.new_code.unwrap_or(Duration::MAX)).collect();
    times.sort();
    let at = |index: usize| times.get(index).copied().filter(|time| *time != Duration::MAX);
    [at(times.len() / 2), at(times.len().saturating_sub(1))]
}

fn latency(ledger: &Ledger) -> [Duration; 4] {
    let quantile = |quantile| ledger.quantile(quantile);
    [quantile(0.5), quantile(0.99), quantile(0.999), ledger.max()]
}

fn ms(time: Duration) -> String {
    let ms = time.as_secs_f64() * 1000.0;
    if ms < 10.0 { format!("{ms:.2}") } else { format!("{ms:.0}") }
}

/// A table of Markdown whose source is one too.
fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let length = |cell: &String| cell.chars().count();
    // A reason may be as long as it likes.
    let full = || rows.iter().filter(|row| row.len() == columns);
    let widths: Vec<usize> = (0..columns)
        .map(|column| full().map(|row| length(&row[column])).max().unwrap_or(0))
        .collect();
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        for (column, cell) in row.iter().enumerate() {
            let width = widths[column];
            let cell = if column == 0 {
                format!("| {cell:<width$} ")
            } else {
                format!("| {cell:>width$} ")
            };
            text.push_str(&cell);
        }
        text.push_str(&" |".repeat(columns - row.len()));
        text.push_str("|\n");
        if number == 0 {
            for (column, width) in widths.iter().enumerate() {
                let line = "-".repeat(width + 1);
                text.push_str(&if column == 0 { format!("|{line}-") } else { format!("|{line}:") });
            }
            text.push_str("|\n");
        }
    }
    text
}

pub(crate) fn json(phases: &[Phase], measured: &[Measured]) -> Value {
    let machine = Machine::this();
    let peers: serde_json::Map<String, Value> = measured
        .iter()
        .map(|Measured { name, found }| {
            let value = match found {
                Ok(figures) => peer_json(phases, figures),
                Err(reason) => json!({ "missing": reason }),
            };
            ((*name).to_owned(), value)
        })
        .collect();
    json!({
        "kernel": machine.kernel, "cpu": machine.cpu, "cpus": machine.cpus, "date": machine.date,
        "peers": peers,
    })
}

fn peer_json(phases: &[Phase], figures: &Figures) -> Value {
    let float = |time: Duration| time.as_secs_f64() * 1000.0;
    let runs: serde_json::Map<String, Value> = phases
        .iter()
        .zip(&figures.runs)
        .map(|(phase, Run { ledger, restarts })| {
            let [p50, p99, p999, max] = latency(ledger).map(float);
            let [new_p50, new_max] = new_code_times(restarts).map(|time| time.map(float));
            let run = json!({
                "requests": ledger.total(), "failed": ledger.failed(),
                "ended_by_server": ledger.ended_by_server(), "idle_closed": ledger.idle_closed,
                "told_to_close": ledger.told_to_close, "restarts": restarts.len(),
                "p50_ms": p50, "p99_ms": p99, "p999_ms": p999, "max_ms": max,
                "new_code_p50_ms": new_p50, "new_code_max_ms": new_max,
            });
            (phase.key.to_owned(), run)
        })
        .collect();
    let memory = &figures.memory;
    json!({
        "version": figures.version, "phases": runs, "processes": memory.processes,
        "rss_bytes": memory.rss, "pss_bytes": memory.pss,
    })
}
