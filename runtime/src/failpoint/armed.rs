//! Reads what a test has asked for, and does it when a step is reached.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use rustix::process::Signal;

use super::{Step, TABLE};

/// The environment variable with a list of entries, or with the path of a file that holds one.
pub const VARIABLE: &str = "UNBROKEN_FAILPOINTS";

/// A step, for the tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Point {
    /// `side.step`.
    pub name: &'static str,
    /// The description of the step.
    pub what: &'static str,
    /// The error with which the system call of the step can fail; empty if it has none.
    pub(super) errno: &'static [i32],
}

impl Point {
    /// Returns whether the step can be made to fail with `error`.
    pub fn can_fail(&self) -> bool {
        !self.errno.is_empty()
    }
}

/// All steps.
pub fn points() -> &'static [Point] {
    TABLE
}

/// One entry of the list: `step[@generation][#time]=action`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct ArmedStep {
    step: usize,
    /// The first generation that it applies to.
    generation: u32,
    /// The one time at which it applies; `None`: each time.
    time: Option<u64>,
    action: FailpointAction,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum FailpointAction {
    Kill,
    Stop,
    Error,
    Delay(Duration),
    Panic,
    Overflow,
    Signal(i32),
}

/// The origin of the entries.
enum Source {
    List(Vec<ArmedStep>),
    File(PathBuf),
}

/// Reads the variable once per process, because user code may change the environment later.
fn source() -> Option<&'static Source> {
    static SOURCE: OnceLock<Option<Source>> = OnceLock::new();
    SOURCE
        .get_or_init(|| {
            let value = std::env::var(VARIABLE).ok()?;
            if value.starts_with('/') {
                return Some(Source::File(value.into()));
            }
            Some(Source::List(parse(&value)))
        })
        .as_ref()
}

/// Performs the action of the first entry that applies to this step, if there is one.
pub(super) fn act(step: Step, generation: u32) -> io::Result<()> {
    let Some(source) = source() else { return Ok(()) };
    let read;
    let entries = match source {
        Source::List(entries) => entries,
        Source::File(path) => match std::fs::read_to_string(path) {
            Ok(text) => {
                read = parse(&text);
                &read
            }
            // Without the file no step is armed.
            Err(_) => return Ok(()),
        },
    };
    let due = entries.iter().find(|entry| {
        entry.step == step as usize
            && generation >= entry.generation
            && entry.time.is_none_or(|time| time == count(step))
    });
    let Some(entry) = due else { return Ok(()) };
    if let Source::File(path) = source
        && std::fs::rename(path, beside(path, &format!("hit.{}", std::process::id()))).is_err()
    {
        // Another process has reached a step first and taken the file.
        return Ok(());
    }
    entry.action.perform(step)
}

impl FailpointAction {
    fn perform(&self, step: Step) -> io::Result<()> {
        let this = rustix::process::getpid();
        match self {
            FailpointAction::Kill => Ok(rustix::process::kill_process(this, Signal::KILL)?),
            FailpointAction::Stop => Ok(rustix::process::kill_process(this, Signal::STOP)?),
            FailpointAction::Delay(time) => {
                std::thread::sleep(*time);
                Ok(())
            }
            FailpointAction::Panic => panic!("as a test wanted it"),
            FailpointAction::Overflow => {
                let _ = overflow([0; 1024]);
                Ok(())
            }
            FailpointAction::Signal(number) => match Signal::from_named_raw(*number) {
                Some(signal) => Ok(rustix::process::kill_process(this, signal)?),
                None => Err(io::Error::from(io::ErrorKind::InvalidInput)),
            },
            FailpointAction::Error => match TABLE[step as usize].errno.first() {
                Some(errno) => Err(io::Error::from_raw_os_error(*errno)),
                None => Ok(()),
            },
        }
    }
}

/// Recurses until the stack overflows.
fn overflow(stack: [u8; 1024]) -> [u8; 1024] {
    match std::hint::black_box(stack[0]) {
        0 => std::hint::black_box(overflow(std::hint::black_box(stack))),
        _ => stack,
    }
}

/// Counts how many times this process has reached a step for which an entry with a time is armed.
fn count(step: Step) -> u64 {
    static COUNTS: [AtomicU64; TABLE.len()] = [const { AtomicU64::new(0) }; TABLE.len()];
    COUNTS[step as usize].fetch_add(1, Relaxed) + 1
}

/// Parses a list of entries. A malformed entry is reported on stderr and left out; its test then fails
/// because no step was hit.
fn parse(text: &str) -> Vec<ArmedStep> {
    let entries = text.split(';').map(str::trim).filter(|entry| !entry.is_empty());
    entries
        .filter_map(|text| {
            let entry = entry(text);
            if entry.is_none() {
                eprintln!("{VARIABLE}: not understood: {text}");
            }
            entry
        })
        .collect()
}

fn entry(text: &str) -> Option<ArmedStep> {
    let (place, action) = text.split_once('=')?;
    let (place, time) = match place.split_once('#') {
        Some((place, time)) => (place, Some(time.parse().ok()?)),
        None => (place, None),
    };
    let (name, generation) = match place.split_once('@') {
        Some((name, generation)) => (name, generation.parse().ok()?),
        None => (place, 0),
    };
    let step = TABLE.iter().position(|point| point.name == name)?;
    let action = match action {
        "kill" => FailpointAction::Kill,
        "stop" => FailpointAction::Stop,
        "error" => Some(FailpointAction::Error).filter(|_| TABLE[step].can_fail())?,
        "panic" => FailpointAction::Panic,
        "overflow" => FailpointAction::Overflow,
        _ => match action.strip_suffix(')')?.split_once('(')? {
            ("delay", time) => FailpointAction::Delay(unbroken_schema::duration::parse(time).ok()?),
            ("signal", number) => FailpointAction::Signal(number.parse().ok()?),
            _ => return None,
        },
    };
    Some(ArmedStep { step, generation, time, action })
}

/// Appends `<pid> <peer>` to `<path>.peers`. The last process that the file names for a peer has the
/// connection.
pub(super) fn note_peer(socket: &impl AsFd) {
    static PEERS: OnceLock<Option<File>> = OnceLock::new();
    let peers = PEERS.get_or_init(|| {
        let Some(Source::File(path)) = source() else { return None };
        OpenOptions::new().append(true).create(true).open(beside(path, "peers")).ok()
    });
    let Some(mut peers) = peers.as_ref() else { return };
    let Ok(Some(peer)) = rustix::net::getpeername(socket).map(|peer| peer.and_then(internet))
    else {
        return;
    };
    // One write per line: with O_APPEND the lines of several processes do not mix. A missing line fails the
    // test.
    let _ = peers.write_all(format!("{} {peer}\n", std::process::id()).as_bytes());
}

fn internet(peer: rustix::net::SocketAddrAny) -> Option<std::net::SocketAddr> {
    std::net::SocketAddr::try_from(peer).ok()
}

fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name: OsString = path.as_os_str().to_owned();
    name.push(format!(".{end}"));
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_parsed() {
        let worker = |text| entry(text).map(|entry| (entry.generation, entry.time, entry.action));
        assert_eq!(worker("worker.go=kill"), Some((0, None, FailpointAction::Kill)));
        assert_eq!(worker("worker.go@2=stop"), Some((2, None, FailpointAction::Stop)));
        assert_eq!(
            worker("worker.go@2#3=delay(50ms)"),
            Some((2, Some(3), FailpointAction::Delay(Duration::from_millis(50))))
        );
        assert_eq!(worker("worker.before-hello=error"), Some((0, None, FailpointAction::Error)));
        for wrong in ["worker.gone=kill", "worker.go", "worker.go=error", "worker.go=delay(x)"] {
            assert_eq!(worker(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn step_names_are_unique() {
        for (index, point) in TABLE.iter().enumerate() {
            assert!(point.name.starts_with("supervisor.") || point.name.starts_with("worker."));
            assert!(TABLE[..index].iter().all(|other| other.name != point.name), "{point:?}");
        }
    }
}
