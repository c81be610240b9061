//! A million steps on the simulated host, from seeds.
//!
//! These are far more than a property test could shrink. Instead, each history is determined by a seed, and
//! a failure prints the command that repeats it. The environment variable `SIMULATION_STEPS` sets another
//! number of steps; `SIMULATION_SEED` runs the single history of this seed.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::AssertUnwindSafe;

use super::host::{Ask, End, Life, Nature, Orphaned, Start, Word, host};
use super::*;
use crate::event::{Action, ImageSource, WorkerCommand};

/// The command that repeats a history, as printed by a failure behind the seed.
const COMMAND: &str = "cargo test -p unbroken-core simulation -- --nocapture";

/// The default number of events.
const STEPS: u64 = 1_000_000;

/// A SplitMix64 generator, in which consecutive seeds give unrelated sequences.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }

    fn millis(&mut self, of: &[u64]) -> Duration {
        Duration::from_millis(self.pick(of))
    }

    fn exit(&mut self) -> Exit {
        self.pick(&[Exit::Code(0), Exit::Code(3), Exit::Code(256), Exit::Signal(11)])
    }

    fn policy(&mut self, exclusive: bool) -> Policy {
        Policy {
            ready_timeout: self.millis(&[0, 100, 300, 300, 300]),
            drain_timeout: self.millis(&[0, 50, 400, 3000]),
            kill_timeout: self.millis(&[0, 30, 200]),
            lame_duck: self.millis(&[0, 0, 60, 700]),
            confirm_window: self.millis(&[0, 0, 100, 1500]),
            exclusive,
            watchdog: self.pick(&[None, None, Some(Duration::from_millis(150))]),
            restart: self.pick(&[
                RestartPolicy::OnFailure,
                RestartPolicy::OnFailure,
                RestartPolicy::Always,
                RestartPolicy::No,
            ]),
            backoff_min: self.millis(&[0, 10, 40]),
            backoff_max: self.millis(&[40, 500]),
            start_limit_burst: self.pick(&[0, 1, 2, 5]),
            start_limit_interval: self.millis(&[0, 200, 10_000]),
        }
    }

    fn nature(&mut self) -> Nature {
        let after = [0, 5, 60, 250];
        let start = match self.below(20) {
            0 => Start::Impossible,
            1 => Start::Refused(self.pick(&after)),
            2 => Start::Silent,
            3 => Start::Mute(self.pick(&after)),
            4 => Start::Crash(self.pick(&after), self.exit()),
            5 => Start::CrashAfterHello(self.pick(&after), self.pick(&after), self.exit()),
            6 => Start::Hasty(self.pick(&after)),
            7 => Start::Stutter(self.pick(&after)),
            _ => Start::Ready(self.pick(&after), self.pick(&after)),
        };
        let span = [0, 20, 90, 800, 5000];
        let life = match self.below(17) {
            0..3 => Life::Ends(self.pick(&span), self.exit()),
            3 => Life::Leaves(self.pick(&span).max(20)),
            4 => Life::Sickens(self.pick(&span)),
            5 => Life::Checks(None),
            6 => Life::Checks(Some(self.pick(&span))),
            7 => Life::Confirms,
            8 => Life::Unlinks(self.pick(&span), None),
            9 => Life::Unlinks(self.pick(&span), Some(self.pick(&after))),
            10 => Life::Returns(self.pick(&span).max(20)),
            _ => Life::Long,
        };
        let end = match self.below(5) {
            0 => End::WaitsForTerm,
            1 => End::WaitsForKill,
            _ => End::Finishes(self.pick(&after)),
        };
        Nature {
            start,
            life,
            end,
            dies_after: self.pick(&[0, 1, 500]),
            answers_after: self.pick(&[Some(0), Some(0), Some(2), Some(400), None]),
        }
    }

    fn ask(&mut self) -> Ask {
        match self.below(60) {
            0 => Ask::Stop { known: self.one_in(2), at_once: self.one_in(2) },
            1..5 => Ask::Gone(self.next()),
            5..8 => Ask::Term(self.below(3) as u8),
            8..12 => Ask::Crash(self.below(3) as u8, self.exit()),
            12..20 => {
                let word = self.pick(&[
                    Word::Hello,
                    Word::Ready,
                    Word::Failing,
                    Word::Unhealthy,
                    Word::Confirm,
                    Word::Check(true),
                    Word::Check(false),
                    Word::Pong,
                    Word::Missing,
                    Word::Unacceptable,
                    Word::LinkLost,
                ]);
                Ask::Says(self.below(3) as u8, word)
            }
            20..22 => Ask::Jump(self.pick(&[200, 5_000, 3_600_000])),
            _ => Ask::Restart { known: self.one_in(2), wait: self.one_in(2) },
        }
    }
}

/// Runs the history that a seed determines.
fn history(seed: u64) -> Watch {
    let mut random = Random(seed);
    let exclusive = random.one_in(4);
    let policies = (random.policy(exclusive), random.policy(exclusive));
    let natures = (0..=random.below(7)).map(|_| random.nature()).collect();
    let pauses = [0, 0, 10, 130, 700, 4000];
    let asks = (0..random.below(60)).map(|_| (random.pick(&pauses), random.ask())).collect();
    let late = random.millis(&[0, 0, 1, 70]);
    let stop_at_once = random.one_in(2);
    let orphans = random.one_in(3).then(|| Orphaned {
        exclusive: random.one_in(3),
        after: random.pick(&[Some(0), Some(40), Some(900), None]),
    });
    host(policies, natures, asks, late, stop_at_once, orphans)
}

/// How often each interesting thing happened: a simulation in which one hardly ever does tests too little.
#[derive(Debug, Default)]
struct Seen {
    steps: u64,
    histories: u64,
    restarts: u64,
    aborts: u64,
    resumes: u64,
    respawns: u64,
    fallbacks: u64,
    held_back: u64,
    hung: u64,
    forced: u64,
    failures: u64,
}

impl Seen {
    fn note(&mut self, watch: &Watch) {
        self.histories += 1;
        for (event, actions) in watch.steps() {
            self.steps += 1;
            for action in actions {
                let counter = match action {
                    Action::Spawn { source: ImageSource::Disk, .. } => &mut self.restarts,
                    Action::Spawn { source: ImageSource::Pinned, .. } => &mut self.respawns,
                    Action::Spawn { source: ImageSource::KnownGood(_), .. } => &mut self.fallbacks,
                    Action::SendToWorker { command: WorkerCommand::Resume, .. } => {
                        &mut self.resumes
                    }
                    Action::Welcome { .. } if matches!(event, Event::Exited { .. }) => {
                        &mut self.held_back
                    }
                    Action::DumpThreads { .. } => &mut self.hung,
                    Action::Terminate { .. } => &mut self.forced,
                    Action::Log { text, .. } if text.starts_with("restart aborted") => {
                        &mut self.aborts
                    }
                    Action::Exit { code: 1.., .. } => &mut self.failures,
                    _ => continue,
                };
                *counter += 1;
            }
        }
    }
}

/// Hashes all events and actions of a history with their times.
fn hash(watch: &Watch) -> u64 {
    let mut hasher = DefaultHasher::new();
    watch.transcript().hash(&mut hasher);
    hasher.finish()
}

/// Reads a number from an environment variable.
fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is not a number")))
}

/// Runs the history of a seed; a failure prints the command that repeats it.
fn live(seed: u64) -> Watch {
    std::panic::catch_unwind(AssertUnwindSafe(|| history(seed))).unwrap_or_else(|failure| {
        eprintln!("to have this history again: SIMULATION_SEED={seed} {COMMAND}");
        std::panic::resume_unwind(failure)
    })
}

#[test]
fn invariants_hold_in_a_million_steps() {
    if let Some(seed) = number("SIMULATION_SEED") {
        let watch = live(seed);
        println!("history {seed} has hash {:016x}", hash(&watch));
        return;
    }
    let (steps, began) = (number("SIMULATION_STEPS").unwrap_or(STEPS), std::time::Instant::now());
    let mut seen = Seen::default();
    while seen.steps < steps {
        seen.note(&live(seen.histories));
    }
    let rate = seen.steps as f64 / began.elapsed().as_secs_f64();
    println!("{seen:?}, {rate:.0} steps per second");
    let Seen { aborts, resumes, respawns, fallbacks, held_back, hung, forced, failures, .. } = seen;
    for often in [aborts, resumes, respawns, fallbacks, held_back, hung, forced, failures] {
        assert!(often * 10_000 > steps, "something hardly ever comes up");
    }
}

/// The command that a failure prints repeats the same history.
#[test]
fn history_is_repeated_by_its_seed() {
    if number("SIMULATION_SEED").is_some() {
        return;
    }
    for seed in [0, 7, 4711] {
        let this = std::env::current_exe().expect("this test");
        let output = std::process::Command::new(this)
            .args(["simulation", "--nocapture"])
            .env("SIMULATION_SEED", seed.to_string())
            .output()
            .expect("the same test again");
        let text = String::from_utf8_lossy(&output.stdout);
        let wanted = format!("history {seed} has hash {:016x}", hash(&history(seed)));
        assert!(output.status.success() && text.contains(&wanted), "{wanted}\n{text}");
    }
}
