//! The cost of a restart for the clients of this crate and of its peers: the same service, the same load, and
//! new code once a second.
//!
//! `cargo bench -p unbroken-tests --bench peers [-- [--json] [--svg FILE] [--publish] [PEER …]]` prints
//! tables or JSON, writes the plot, and with `--publish` updates the README and the book. The environment
//! sets `PHASE_SECONDS` of each phase (12), `RATE` of the open loop (2000 requests per second), the number of
//! kept `CONNECTIONS` (64), and the number of `NEW` connections at a time (16). `tests/benches/peers/install`
//! installs the peers that cargo does not build; without it they are reported as missing.

#![allow(clippy::expect_used, clippy::unwrap_used)]

mod crates;
mod machine;
mod own;
mod peer;
mod phase;
mod publish;
mod servers;
mod svg;
mod table;

use std::process::ExitCode;

use self::peer::{Kind, Memory};
use self::phase::{Phase, Run};

/// The peers in the order of the tables.
const PEERS: [Kind; 8] = [
    servers::NGINX,
    servers::HAPROXY,
    servers::GUNICORN,
    crates::PINGORA,
    crates::ECDYSIS,
    crates::SHELLFLIP,
    crates::PLAIN,
    own::UNBROKEN,
];

/// The measurement of one peer.
struct Measured {
    name: &'static str,
    options: &'static str,
    /// The figures, or the reason why there are none.
    found: Result<Figures, String>,
}

struct Figures {
    version: String,
    runs: Vec<Run>,
    memory: Memory,
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (mut as_json, mut svg, mut publish, mut wanted) = (false, None, false, Vec::new());
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--json" => as_json = true,
            "--svg" => svg = Some(arguments.next().expect("a file behind --svg")),
            "--publish" => publish = true,
            // Cargo adds this argument.
            "--bench" => {}
            name => wanted.push(name.to_owned()),
        }
    }
    for name in &wanted {
        let known = PEERS.iter().any(|kind| kind.name == name);
        assert!(known, "no peer `{name}`; there are {:?}", PEERS.map(|kind| kind.name));
    }
    let phases = Phase::all();
    let is_wanted = |kind: &&Kind| wanted.is_empty() || wanted.iter().any(|it| it == kind.name);
    let measured: Vec<Measured> =
        PEERS.iter().filter(is_wanted).map(|it| measure(it, &phases)).collect();

    if as_json {
        println!("{:#}", table::json(&phases, &measured));
    } else {
        table::print(&phases, &measured);
    }
    if let Some(file) = svg {
        std::fs::write(&file, svg::draw(&measured))
            .unwrap_or_else(|error| panic!("{file}: {error}"));
        eprintln!("wrote {file}");
    }
    if publish {
        publish::publish(&phases, &measured);
    }
    ExitCode::SUCCESS
}

fn measure(kind: &Kind, phases: &[Phase]) -> Measured {
    let found = (kind.version)().map(|version| {
        eprintln!("{} {version}", kind.name);
        let mut peer = (kind.start)();
        peer.wait_serving();
        let size = peer.size();
        let runs = phases.iter().map(|phase| phase.run(&mut peer)).collect();
        peer.settle(size);
        let memory = peer.memory();
        peer.end();
        Figures { version, runs, memory }
    });
    Measured { name: kind.name, options: kind.options, found }
}
