//! Writes the figures into the README, and with the plot into the book.
//!
//! The generated parts are between `<!-- peers: NAME -->` and `<!-- peers: end -->`.

use std::fs;
use std::path::{Path, PathBuf};

use super::machine::Machine;
use super::phase::Phase;
use super::{Measured, svg, table};

pub(crate) fn publish(phases: &[Phase], measured: &[Measured]) {
    let number = |key| phases.iter().position(|phase| phase.key == key).expect("a phase");
    let phase = |key| table::phase_table(number(key), measured);
    let machine = Machine::this();
    let seconds: u64 = phases.iter().map(Phase::seconds).sum();
    let overview = format!(
        "What that means to clients, with new code once a second for {seconds} seconds under three kinds of \
         load (the same service, {machine}; [the plot, all figures, the options, and how to repeat \
         them](book/src/clients.md)):\n\n{}",
        table::overview(number("open_loop"), measured),
    );
    write("README.md", &[("overview", overview)]);
    let parts = [
        ("machine", format!("Measured on {machine}; the releases are in the last table.\n")),
        ("open_loop", phase("open_loop")),
        ("kept_connections", phase("kept_connections")),
        ("new_connections", phase("new_connections")),
        ("sums", table::sums(measured)),
        ("releases", table::releases(measured)),
    ];
    write("book/src/clients.md", &parts);
    let plot = path("book/src/clients.svg");
    fs::write(&plot, svg::draw(measured))
        .unwrap_or_else(|error| panic!("{}: {error}", plot.display()));
    eprintln!("wrote {}", plot.display());
}

fn path(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file)
}

fn write(file: &str, parts: &[(&str, String)]) {
    let path = path(file);
    let mut text =
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    for (name, part) in parts {
        let begin = format!("<!-- peers: {name} -->\n");
        let (before, rest) =
            text.split_once(&begin).unwrap_or_else(|| panic!("{file}: no {begin}"));
        let (_, after) =
            rest.split_once(END).unwrap_or_else(|| panic!("{file}: no end of {begin}"));
        text = format!("{before}{begin}\n{part}\n{END}{after}");
    }
    fs::write(&path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    eprintln!("wrote {}", path.display());
}

const END: &str = "<!-- peers: end -->\n";
