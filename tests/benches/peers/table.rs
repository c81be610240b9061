//! The figures as Markdown tables and as JSON.

use std::time::Duration;

use serde_json::{Value, json};
use unbroken_tests::load::Ledger;

use super::machine::Machine;
use super::phase::{Phase, Restart, Run};
use super::{Figures, Measured};

pub(crate) fn print(phases: &[Phase], measured: &[Measured]) {
    println!("{}\n", Machine::this());
    for (number, phase) in phases.iter().enumerate() {
        println!("{}\n\n{}", phase.title, phase_table(number, measured));
    }
    println!("All phases, and the memory after them\n\n{}", sums(measured));
    println!("Releases and options\n\n{}", releases(measured));
}

fn found(measured: &[Measured]) -> impl Iterator<Item = (&Measured, &Figures)> {
    measured.iter().filter_map(|it| Some((it, it.found.as_ref().ok()?)))
}

fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).to_vec()
}

/// The table of one phase.
pub(crate) fn phase_table(number: usize, measured: &[Measured]) -> String {
    let mut rows = vec![row([
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
    ])];
    rows.extend(found(measured).map(|(it, figures)| phase_row(it.name, &figures.runs[number])));
    aligned(&rows, NUMBERS)
}

/// The table of all phases together.
pub(crate) fn sums(measured: &[Measured]) -> String {
    let mut rows = vec![row([
        "",
        "restarts",
        "failed",
        "ended",
        "new code p50 ms",
        "max ms",
        "processes",
        "RSS MiB",
        "PSS MiB",
    ])];
    rows.extend(found(measured).map(|(it, figures)| sum_row(it.name, figures)));
    aligned(&rows, NUMBERS)
}

/// The table of releases and options.
pub(crate) fn releases(measured: &[Measured]) -> String {
    let mut rows = vec![row(["", "release", "run with"])];
    rows.extend(measured.iter().map(|Measured { name, options, found }| match found {
        Ok(figures) => row([name, &figures.version, options]),
        Err(reason) => row([name, "missing", reason]),
    }));
    aligned(&rows, TEXT)
}

/// The table of the README: the most important figures, of all phases or of phase `open_loop`.
pub(crate) fn overview(open_loop: usize, measured: &[Measured]) -> String {
    let mut rows = vec![row([
        "",
        "requests failed",
        "connections ended",
        "p99.9 at an even rate",
        "until new code answers, p50",
        "memory (PSS)",
    ])];
    rows.extend(found(measured).map(|(it, figures)| {
        let [_, _, p999, _] = latency(&figures.runs[open_loop].ledger).map(ms);
        let [new_code, _] = new_code(&all_restarts(figures));
        // Without the part of the package.
        let version = figures.version.split('-').next().unwrap_or_default();
        let name = match it.name {
            "unbroken" => "**unbroken**".to_owned(),
            // The version includes the name of the crate.
            "stop and start" => format!("stop and start ({version})"),
            name => format!("{name} {version}"),
        };
        vec![
            name,
            sum(figures, Ledger::failed).to_string(),
            sum(figures, Ledger::ended_by_server).to_string(),
            format!("{p999} ms"),
            format!("{new_code} ms"),
            format!("{} MiB", mib(figures.memory.pss)),
        ]
    }));
    aligned(&rows, NUMBERS)
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

fn sum(figures: &Figures, of: fn(&Ledger) -> u64) -> u64 {
    figures.runs.iter().map(|run| of(&run.ledger)).sum()
}

fn mib(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / 1024.0 / 1024.0)
}

fn sum_row(name: &str, figures: &Figures) -> Vec<String> {
    let restarts = all_restarts(figures);
    let [new_p50, new_max] = new_code(&restarts);
    vec![
        name.to_owned(),
        restarts.len().to_string(),
        sum(figures, Ledger::failed).to_string(),
        sum(figures, Ledger::ended_by_server).to_string(),
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

/// The median and the maximum. A restart whose code never answered counts as infinite.
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

/// The alignment of the columns after the first.
#[derive(Clone, Copy, PartialEq)]
enum Columns {
    Right,
    Left,
}
use Columns::{Left as TEXT, Right as NUMBERS};

/// Renders a Markdown table whose source is aligned.
fn aligned(rows: &[Vec<String>], columns: Columns) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or_default();
    let widths: Vec<usize> = (0..count)
        .map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
        .collect();
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        for (column, (cell, &width)) in row.iter().zip(&widths).enumerate() {
            let left = column == 0 || columns == TEXT;
            text += &if left { format!("| {cell:<width$} ") } else { format!("| {cell:>width$} ") };
        }
        text += "|\n";
        if number == 0 {
            for (column, width) in widths.iter().enumerate() {
                let line = "-".repeat(width + 1);
                let left = column == 0 || columns == TEXT;
                text += &if left { format!("|{line}-") } else { format!("|{line}:") };
            }
            text += "|\n";
        }
    }
    text
}

pub(crate) fn json(phases: &[Phase], measured: &[Measured]) -> Value {
    let machine = Machine::this();
    let peers: serde_json::Map<String, Value> = measured
        .iter()
        .map(|Measured { name, options, found }| {
            let value = match found {
                Ok(figures) => peer_json(phases, options, figures),
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

fn peer_json(phases: &[Phase], options: &str, figures: &Figures) -> Value {
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
        "version": figures.version, "options": options, "phases": runs, "processes": memory.processes,
        "rss_bytes": memory.rss, "pss_bytes": memory.pss,
    })
}
