//! A fuzz loop for the stable compiler, without tools: it changes the seeds at random.
//!
//! `FUZZ_SECONDS` is the time that each target runs, and `FUZZ_SEED` the seed of the random numbers. A
//! failure names the seed and shows the input.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use super::seeds;

type Target = fn(&[u8]);

/// All targets, by their names in `tests/fuzz`.
pub(super) const TARGETS: &[(&str, Target)] = &[
    ("from_worker", super::from_worker),
    ("to_worker", super::to_worker),
    ("request", super::request),
    ("reply", super::reply),
    ("handoff", super::handoff),
    ("marker", super::marker),
    ("configuration", super::configuration),
    ("address", super::address),
    ("duration", super::duration),
    ("pid", super::pid),
    ("probe", super::probe),
    ("elf", super::elf),
    ("state", super::state),
];

/// Fragments that parsers often mishandle.
const TOKENS: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    "[[[[[[[[[[[[[[[[",
    "{\"a\":{\"a\":{\"a\":",
    "\"",
    "\\",
    "\\ud800",
    "\\u0000",
    "null",
    "true",
    "-",
    "1e999",
    "-0.0",
    "0.30000000000000004",
    "18446744073709551616",
    "-1",
    "4294967296",
    "\"type\":",
    "\"unknown\"",
    ",",
    ":",
    "\n",
    "\0",
    "\u{feff}",
    "é",
    "99999999999days",
    "=",
    ".",
    "$DAEMON_",
    "--set ",
    "unix:",
    "[app]\n",
    "[[listen]]\n",
];

/// The largest size of an input in bytes: that of the largest packet.
const LONGEST: usize = 128 * 1024;

/// The bound on the memory of all targets together, in KiB: input must not make a parser allocate without
/// limit.
const MEMORY: u64 = 512 * 1024;

/// Random numbers, reproducible by their seed (xorshift64*).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound.max(1) as u64).unwrap()
    }
}

/// Changes one thing in `input`.
fn change(input: &mut Vec<u8>, others: &[Vec<u8>], random: &mut Random) {
    let at = random.below(input.len() + 1);
    let end = (at + random.below(16)).min(input.len());
    let insert = |input: &mut Vec<u8>, bytes: &[u8]| {
        input.splice(at..at, bytes.iter().copied());
    };
    match random.below(8) {
        0 if at < input.len() => input[at] ^= 1 << random.below(8),
        1 if at < input.len() => input[at] = random.next().to_le_bytes()[0],
        2 => insert(input, TOKENS[random.below(TOKENS.len())].as_bytes()),
        3 => drop(input.drain(at..end)),
        4 => {
            let part = input[at..end].to_vec();
            for _ in 0..random.below(64) {
                insert(input, &part);
            }
        }
        5 => input.truncate(at),
        6 => {
            let other = &others[random.below(others.len())];
            let from = random.below(other.len());
            let to = from + random.below(other.len() - from + 1);
            insert(input, &other[from..to]);
        }
        _ => drop(input.splice(at..end, TOKENS[random.below(TOKENS.len())].bytes())),
    }
    input.truncate(LONGEST);
}

fn variable(name: &str) -> Option<f64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text}")))
}

/// The peak memory of this process, in KiB.
fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn drive(name: &str) {
    let (_, target) = TARGETS.iter().find(|(target, _)| *target == name).unwrap();
    let seconds = variable("FUZZ_SECONDS").unwrap_or(0.5);
    let seed = variable("FUZZ_SEED").map_or(1, |seed| seed as u64).max(1);
    let begun = Instant::now();
    let inputs = seeds::of(name, "a \"text\"", 7);
    let mut random = Random(seed);
    let mut rounds = 0_u64;
    while begun.elapsed() < Duration::from_secs_f64(seconds) {
        let mut input = inputs[random.below(inputs.len())].clone();
        for _ in 0..=random.below(6) {
            change(&mut input, &inputs, &mut random);
        }
        rounds += 1;
        let ran = catch_unwind(AssertUnwindSafe(|| target(&input)));
        let shown = input.escape_ascii();
        assert!(ran.is_ok(), "{name} with FUZZ_SEED={seed}, input {rounds}: b\"{shown}\"");
    }
    assert!(memory() < MEMORY, "{name}: {} KiB", memory());
    println!("{name}: {rounds} inputs");
}

macro_rules! targets {
    ($($name:ident)*) => { $(
        #[test]
        fn $name() {
            drive(stringify!($name));
        }
    )* };
}
targets!(from_worker to_worker request reply state handoff marker configuration address duration pid probe elf);
