//! Reads the end of a log: the last lines that a program wrote before it failed.

use std::fs::OpenOptions;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::libc;

/// The most bytes at the end of a log that are searched for the last lines: reading a large log
/// whole would delay the answer.
const WINDOW: u64 = 128 * 1024;

/// The number of lines that are shown to the caller of `start` or `restart`.
const TAIL_LINES: usize = 20;
/// The number of bytes that these lines may have together: the answer to a `restart` has to fit into one
/// packet.
const TAIL_BYTES: usize = 16 * 1024;

/// How many of these lines the error that `main` returned may take.
const LINES_OF_ERROR: usize = 8;

/// What the standard library prints before the error that `main` returned.
const RETURNED: &str = "Error: ";

/// The present length of the file: lines that are written later start there.
pub(crate) fn length(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |meta| meta.len())
}

/// Returns the last lines that were written since the file had `from` bytes, without backtraces; the error
/// that `main` returned, if any, comes first.
pub(crate) fn tail(path: &Path, from: u64) -> io::Result<Vec<String>> {
    // Do not wait for the writer of a FIFO that is in the place of the log.
    let mut file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_CLOEXEC | libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Ok(Vec::new());
    }
    let end = file.metadata()?.len();
    let from = if end < from { 0 } else { from };
    file.seek(SeekFrom::Start(from.max(end.saturating_sub(WINDOW))))?;
    let mut bytes = Vec::new();
    file.take(WINDOW).read_to_end(&mut bytes)?;
    Ok(select(&String::from_utf8_lossy(&bytes)))
}

/// Selects the lines to show.
fn select(text: &str) -> Vec<String> {
    let lines = without_backtraces(text);
    let returned = lines.iter().rposition(|line| line.starts_with(RETURNED));
    let error = returned.map_or(0..0, |at| at..lines.len().min(at + LINES_OF_ERROR));
    let others: Vec<&str> = [&lines[..error.start], &lines[error.end..]].concat();
    let last = others.len().saturating_sub(TAIL_LINES - error.len());
    let selected = [&lines[error], &others[last..]].concat();
    let most = TAIL_BYTES / selected.len().max(1);
    selected.into_iter().map(|line| cut(line, most)).collect()
}

/// Shortens a line to a number of bytes.
fn cut(line: &str, bytes: usize) -> String {
    if line.len() <= bytes {
        return line.to_owned();
    }
    let end = (0..=bytes).rev().find(|end| line.is_char_boundary(*end)).unwrap_or(0);
    format!("{}…", &line[..end])
}

/// All lines except backtraces, which would displace the other lines and whose last frames are the runtime's.
fn without_backtraces(text: &str) -> Vec<&str> {
    let mut inside = false;
    let keep = |line: &&str| {
        let line = line.trim_start();
        if !inside {
            inside = line.eq_ignore_ascii_case("stack backtrace:");
            return !inside;
        }
        inside = is_frame(line);
        !inside && !line.starts_with("note: Some details are omitted")
    };
    text.lines().filter(keep).collect()
}

/// Returns whether a line is part of a backtrace as the standard library prints it: `12: main`, `at
/// src/main.rs:7:5`.
fn is_frame(line: &str) -> bool {
    let numbered = line.split_once(": ").is_some_and(|(number, _)| number.parse::<u32>().is_ok());
    numbered || line.starts_with("at ")
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;

    use super::*;

    #[test]
    fn tail_begins_at_given_length() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.log");
        let mut log = File::options().append(true).create(true).open(&path).unwrap();
        writeln!(log, "old").unwrap();
        let from = length(&path);
        writeln!(log, "one\ntwo").unwrap();
        assert_eq!(tail(&path, from).unwrap(), ["one", "two"]);
        assert_eq!(tail(&path, 1_000_000).unwrap(), ["old", "one", "two"]);
    }

    #[test]
    fn error_of_main_comes_first() {
        let text = "opening\nError: cannot export metrics\n\nCaused by:\n    0: bind\n    1: Address already \
            in use (os error 98)\n\nStack backtrace:\n   0: anyhow::error\n             at ./src/error.rs:10:5\n   \
            1: main\nclosing\n";
        let error = [
            "Error: cannot export metrics",
            "",
            "Caused by:",
            "    0: bind",
            "    1: Address already in use (os error 98)",
            "",
        ];
        assert_eq!(select(text), [&error[..], &["closing", "opening"]].concat());

        // However much is written after it.
        let chatter: Vec<String> = (0..100).map(|n| format!("line {n}")).collect();
        let lines = select(&format!("{text}{}", chatter.join("\n")));
        assert_eq!((lines.len(), &lines[..6]), (TAIL_LINES, &error.map(str::to_owned)[..]));
        assert_eq!(lines.last().map(String::as_str), Some("line 99"));
    }

    #[test]
    fn lines_are_never_repeated() {
        for before in 0..3 {
            for behind in 0..40 {
                let mut text = "before\n".repeat(before) + "Error: it\n";
                (0..behind).for_each(|n| text += &format!("{n}\n"));
                let lines = select(&text);
                assert_eq!(lines[0], "Error: it");
                assert_eq!(lines.len(), (before + 1 + behind).min(TAIL_LINES));
                let numbers: Vec<usize> =
                    lines.iter().filter_map(|line| line.parse().ok()).collect();
                assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "{numbers:?}");
                assert_eq!(numbers.last().copied(), behind.checked_sub(1));
            }
        }
    }

    #[test]
    fn backtrace_frames_are_left_out() {
        let text = "thread 'main' panicked at src/main.rs:7:5:\nno\nstack backtrace:\n   0: __rustc::rust_begin_unwind\n\
            \x20            at /rustc/1/library/std/src/panicking.rs:689:5\n  10: main\nnote: Some details are \
            omitted, run with `RUST_BACKTRACE=full` for a verbose backtrace.\n1: no frame\n";
        assert_eq!(
            select(text),
            ["thread 'main' panicked at src/main.rs:7:5:", "no", "1: no frame"]
        );
    }

    #[test]
    fn selection_is_bounded() {
        let text = format!("{}\n", "ä".repeat(3000)).repeat(30);
        let lines = select(&text);
        assert_eq!(lines.len(), TAIL_LINES);
        assert!(lines.iter().all(|line| line.ends_with("ä…")));
        assert!(
            lines.iter().map(String::len).sum::<usize>() <= TAIL_BYTES + TAIL_LINES * "…".len()
        );
    }
}
