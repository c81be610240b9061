//! The plot: the latency of the requests of the last phase over time, with a panel for each peer.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::machine::Machine;
use super::phase::Run;
use super::{Figures, Measured};

// The size of a panel in pixels. Dots are on a grid of pixels.
const WIDTH: u32 = 380;
const HEIGHT: u32 = 110;
const COLUMNS: usize = 2;
// The space to the left of a panel, above and below it, and around all panels.
const LEFT: u32 = 52;
const ABOVE: u32 = 30;
const BELOW: u32 = 22;
const HEAD: u32 = 58;
const FOOT: u32 = 26;
const RIGHT: u32 = 16;

/// The scales: latency on a logarithmic axis, in powers of ten of a millisecond, and time in seconds.
struct Scale {
    from: i32,
    to: i32,
    seconds: f64,
}

impl Scale {
    fn of(runs: &[(&str, &Figures, &Run)]) -> Scale {
        let samples = || runs.iter().flat_map(|(_, _, run)| &run.ledger.samples);
        let longest = samples().map(|sample| ms(sample.latency)).fold(1.0, f64::max);
        let shortest = samples().map(|sample| ms(sample.latency)).fold(1.0, f64::min);
        let seconds = samples().map(|sample| sample.at.as_secs_f64()).fold(1.0, f64::max);
        let exponent = |ms: f64| ms.max(0.01).log10();
        let (from, to) = (exponent(shortest).floor() as i32, exponent(longest).ceil() as i32);
        Scale { from, to, seconds }
    }

    fn x(&self, seconds: f64) -> f64 {
        seconds / self.seconds * f64::from(WIDTH)
    }

    fn y(&self, ms: f64) -> f64 {
        let share = (ms.max(0.001).log10() - f64::from(self.from)) / f64::from(self.to - self.from);
        f64::from(HEIGHT) * (1.0 - share.clamp(0.0, 1.0))
    }
}

fn ms(time: std::time::Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

pub(crate) fn draw(measured: &[Measured]) -> String {
    let runs: Vec<(&str, &Figures, &Run)> = measured
        .iter()
        .filter_map(|it| {
            let figures = it.found.as_ref().ok()?;
            Some((it.name, figures, figures.runs.last()?))
        })
        .collect();
    let scale = Scale::of(&runs);
    let rows = runs.len().div_ceil(COLUMNS) as u32;
    let (across, down) = (LEFT + WIDTH + RIGHT, ABOVE + HEIGHT + BELOW);
    let (width, height) = (across * COLUMNS as u32, HEAD + down * rows + FOOT);
    let mut svg = format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="system-ui, sans-serif" font-size="11" fill="#333">
<title>Latency over time, with a restart every second</title>
<style>.r{{stroke:#d97706;stroke-dasharray:2 3}}.g{{stroke:#e5e5e5}}.f{{stroke:#dc2626;stroke-width:1.5}}.d{{stroke:#2563eb;stroke-width:1.2;stroke-linecap:square;fill:none}}</style>
<rect width="{width}" height="{height}" fill="#fff"/>
<text x="{LEFT}" y="20" font-size="14" font-weight="600">Latency of each request while the code is replaced every second</text>
<text x="{LEFT}" y="38">{machine}</text>
"##,
        machine = Machine::this(),
    );
    legend(&mut svg, width, 34);
    for (number, (name, figures, run)) in runs.iter().enumerate() {
        let x = across * (number % COLUMNS) as u32 + LEFT;
        let y = HEAD + down * (number / COLUMNS) as u32 + ABOVE;
        let _ = writeln!(svg, r#"<g transform="translate({x} {y})">"#);
        panel(&mut svg, &scale, name, figures, run);
        svg.push_str("</g>\n");
    }
    let _ = writeln!(
        svg,
        r#"<text x="{}" y="{}" text-anchor="middle">seconds of load; latency in milliseconds, counted from when a request was due</text>
</svg>"#,
        width / 2,
        height - 10
    );
    svg
}

fn legend(svg: &mut String, width: u32, y: u32) {
    let right = width - RIGHT;
    let _ = writeln!(
        svg,
        r#"<path class="d" d="M{} {y}h1m3 -2h1m3 3h1"/><text x="{}" y="{2}">request</text><path class="r" d="M{3} {4}v12"/><text x="{5}" y="{2}">restart</text><path class="f" d="M{6} {7}v7"/><text x="{8}" y="{2}">failed</text>"#,
        right - 178,
        right - 164,
        y + 4,
        right - 112,
        y - 6,
        right - 106,
        right - 52,
        y - 4,
        right - 46,
    );
}

fn panel(svg: &mut String, scale: &Scale, name: &str, figures: &Figures, run: &Run) {
    let (failed, ended) = (run.ledger.failed(), run.ledger.ended_by_server());
    let _ = writeln!(
        svg,
        r#"<text y="-8"><tspan font-weight="600">{name}</tspan> {}: {failed} failed, {ended} connections ended</text>"#,
        figures.version
    );
    for exponent in scale.from..=scale.to {
        let value = 10f64.powi(exponent);
        let y = scale.y(value);
        let _ = writeln!(
            svg,
            r#"<path class="g" d="M0 {y:.1}h{WIDTH}"/><text x="-6" y="{:.1}" text-anchor="end">{value}</text>"#,
            y + 4.0
        );
    }
    for second in (0..=scale.seconds.round() as u32).step_by(5) {
        let _ = writeln!(
            svg,
            r#"<text x="{:.1}" y="{}" text-anchor="middle">{second}</text>"#,
            scale.x(f64::from(second)).min(f64::from(WIDTH)),
            HEIGHT + 14
        );
    }
    let restarts: String = run
        .restarts
        .iter()
        .map(|restart| format!("M{:.1} 0v{HEIGHT}", scale.x(restart.at.as_secs_f64())))
        .collect();
    let _ = writeln!(
        svg,
        r#"<path class="r" d="{restarts}"/><path class="d" d="{}"/>"#,
        dots(scale, run)
    );
    let failed = run.ledger.samples.iter().filter(|sample| !sample.ok);
    let mut columns: Vec<i64> =
        failed.map(|sample| scale.x(sample.at.as_secs_f64()).round() as i64).collect();
    columns.dedup();
    let failed: String = columns.iter().map(|x| format!("M{x} -4v7")).collect();
    if !failed.is_empty() {
        let _ = writeln!(svg, r#"<path class="f" d="{failed}"/>"#);
    }
}

/// Draws a dot for each request. Adjacent dots of a column become one line, which keeps the file small.
fn dots(scale: &Scale, run: &Run) -> String {
    let mut columns: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
    for sample in run.ledger.samples.iter().filter(|sample| sample.ok) {
        let x = scale.x(sample.at.as_secs_f64()).round() as i64;
        columns.entry(x).or_default().push(scale.y(ms(sample.latency)).round() as i64);
    }
    let mut path = String::new();
    for (x, mut ys) in columns {
        ys.sort_unstable();
        ys.dedup();
        for line in ys.chunk_by(|one, other| other - one == 1) {
            let _ = write!(path, "M{x} {}v{}", line[0], line.len() - 1);
        }
    }
    path
}
