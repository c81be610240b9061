//! A phase of the measurement: a load with a restart every second.

use std::thread;
use std::time::{Duration, Instant};

use unbroken_tests::Load;
use unbroken_tests::figures::knob;
use unbroken_tests::load::Ledger;

use super::peer::Running;

/// The time from one restart to the next.
const PERIOD: Duration = Duration::from_secs(1);

/// The time from a deployment to the restart, in which a slow disk can settle.
const DEPLOYING: Duration = Duration::from_millis(250);

pub(crate) struct Phase {
    pub(crate) title: String,
    /// The name in the output of `--json`.
    pub(crate) key: &'static str,
    load: fn(Load, &Knobs) -> Load,
    knobs: Knobs,
}

#[derive(Clone, Copy)]
struct Knobs {
    seconds: u64,
    rate: u64,
    connections: u64,
    new: u64,
}

/// The result of one peer in one phase.
pub(crate) struct Run {
    pub(crate) ledger: Ledger,
    pub(crate) restarts: Vec<Restart>,
}

#[derive(Clone, Copy)]
pub(crate) struct Restart {
    /// The time of the request, from the start of the load.
    pub(crate) at: Duration,
    /// The time from the request to the first response of the new code that a client received.
    pub(crate) new_code: Option<Duration>,
}

impl Phase {
    pub(crate) fn all() -> [Phase; 3] {
        let knobs = Knobs {
            seconds: knob("PHASE_SECONDS", 12),
            rate: knob("RATE", 2000),
            connections: knob("CONNECTIONS", 64),
            new: knob("NEW", 16),
        };
        let Knobs { rate, connections, new, .. } = knobs;
        [
            Phase {
                title: format!("A new connection for each request, {new} at a time, closed loop"),
                key: "new_connections",
                load: |load, knobs| load.new_connections(knobs.new as usize),
                knobs,
            },
            Phase {
                title: format!("{connections} kept connections, closed loop"),
                key: "kept_connections",
                load: |load, knobs| load.keep_alive(knobs.connections as usize),
                knobs,
            },
            Phase {
                title: format!("{connections} kept connections, {rate} requests per second"),
                key: "open_loop",
                load: |load, knobs| {
                    load.keep_alive(knobs.connections as usize).rate(knobs.rate as f64).samples()
                },
                knobs,
            },
        ]
    }

    pub(crate) fn seconds(&self) -> u64 {
        self.knobs.seconds
    }

    pub(crate) fn run(&self, peer: &mut Running) -> Run {
        let load = Load::on(peer.target()).timeout(Duration::from_secs(10));
        let load = (self.load)(load, &self.knobs).start();
        load.wait_for(1);
        let begun = Instant::now();
        let mut asked = Vec::new();
        // There is no restart in the last second, so the last one also has a second of load.
        for second in 1..self.knobs.seconds {
            let beat = begun + PERIOD * second as u32;
            // Shortly before the restart, because the one before may still be reading the files.
            sleep_until(beat - DEPLOYING);
            peer.deploy_next();
            sleep_until(beat);
            asked.push((Instant::now(), peer.release));
            peer.restart();
        }
        sleep_until(begun + PERIOD * self.knobs.seconds as u32);
        let ledger = load.stop();
        let restart = |(asked, release): (Instant, u64)| {
            let at = asked.duration_since(ledger.start);
            let first = ledger.seen.iter().find(|seen| seen.generation == release);
            Restart { at, new_code: first.map(|seen| seen.first.saturating_sub(at)) }
        };
        let restarts = asked.into_iter().map(restart).collect();
        Run { ledger, restarts }
    }
}

/// Sleeps until the next restart is due.
fn sleep_until(due: Instant) {
    thread::sleep(due.saturating_duration_since(Instant::now()));
}
