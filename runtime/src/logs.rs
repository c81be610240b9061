//! Where the daemon's own lines and its programs' output go.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use nix::libc;

use crate::error::{Error, ErrorKind, Result};
use crate::sys::descriptors;

/// The most lines of a failing program that are repeated to the caller.
const TAIL_LINES: usize = 20;
const TAIL_BYTES: u64 = 16 * 1024;

/// The log file of a daemon; its stdout and stderr are this file.
#[derive(Debug)]
pub(crate) struct LogFile {
    path: PathBuf,
    file: File,
}

impl LogFile {
    /// Opens the file for appending, and its directory if that is missing.
    pub(crate) fn open(path: &Path) -> Result<LogFile> {
        let cannot = |error| {
            Error::io(
                format!("cannot open the log {}; set `log` to another path", path.display()),
                error,
            )
        };
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(cannot)?;
        }
        let shared = is_shared(path);
        // Nobody's link is followed there, and nobody's pipe waited for.
        let more = if shared { libc::O_NOFOLLOW | libc::O_NONBLOCK } else { 0 };
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o640)
            .custom_flags(libc::O_CLOEXEC | libc::O_NOCTTY | more)
            .open(path);
        let file = match file {
            // The kernel may refuse it with no more than EACCES (proc_sys_fs(5), protected_*).
            Err(error) => {
                let there = std::fs::symlink_metadata(path).ok().filter(|_| shared);
                return Err(match there.and_then(|meta| foreign(&meta)) {
                    Some(why) => planted(path, &why),
                    None => cannot(error),
                });
            }
            Ok(file) => file,
        };
        if shared {
            let meta = file.metadata().map_err(cannot)?;
            if let Some(why) = foreign(&meta) {
                return Err(planted(path, &why));
            }
            rustix::fs::fcntl_setfl(&file, rustix::fs::OFlags::APPEND)
                .map_err(|error| cannot(error.into()))?;
        }
        Ok(LogFile { path: path.to_owned(), file })
    }

    /// Takes over a log that this process opened before its last exec.
    pub(crate) fn adopt(path: PathBuf, fd: OwnedFd) -> LogFile {
        LogFile { path, file: File::from(fd) }
    }

    /// Makes it this process' stdout and stderr.
    pub(crate) fn become_output(&self) -> Result<()> {
        descriptors::become_output(&self.file)
            .map_err(|error| Error::io("cannot redirect stdout and stderr to the log", error))
    }

    /// Opens the path again after a rotation and writes there from now on.
    pub(crate) fn reopen(&mut self) -> Result<()> {
        let fresh = LogFile::open(&self.path)?;
        fresh.become_output()?;
        *self = fresh;
        Ok(())
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl AsFd for LogFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Whether everybody may put something at this path, as in `/tmp`.
fn is_shared(path: &Path) -> bool {
    let parent = path.parent().and_then(|dir| std::fs::metadata(dir).ok());
    parent.is_some_and(|dir| dir.mode() & 0o002 != 0)
}

/// Why what is there is not ours to write to.
fn foreign(meta: &std::fs::Metadata) -> Option<String> {
    let own = rustix::process::geteuid().as_raw();
    match () {
        () if meta.is_symlink() => Some("it is a symbolic link".to_owned()),
        () if !meta.is_file() => Some("it is not a regular file".to_owned()),
        () if meta.uid() != own && meta.uid() != 0 => {
            Some(format!("it belongs to user {}", meta.uid()))
        }
        () if meta.nlink() > 1 => Some("it has another name besides, a hard link".to_owned()),
        () => None,
    }
}

fn planted(path: &Path, why: &str) -> Error {
    Error::new(
        ErrorKind::Refused,
        format!(
            "the log {} lies where everybody may write and is not taken: {why}; remove it, or set `log` \
             to a directory of yours",
            path.display()
        ),
    )
}

/// How long the file is now: what is written later starts there.
pub(crate) fn length(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |meta| meta.len())
}

/// The last lines written since the file had `from` bytes.
pub(crate) fn tail(path: &Path, from: u64) -> io::Result<Vec<String>> {
    // Somebody may have put a pipe there, for whose writer nobody shall wait.
    let mut file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_CLOEXEC | libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Ok(Vec::new());
    }
    let end = file.metadata()?.len();
    let from = if end < from { 0 } else { from };
    file.seek(SeekFrom::Start(from.max(end.saturating_sub(TAIL_BYTES))))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    Ok(lines.into_iter().rev().take(TAIL_LINES).rev().collect())
}

/// Writes the daemon's own lines to stderr: `hello[812]: generation 2 serves`.
#[derive(Debug, Clone)]
pub(crate) struct Say {
    name: String,
    /// A file has no clock of its own.
    timestamps: bool,
}

impl Say {
    pub(crate) fn new(name: &str, timestamps: bool) -> Say {
        Say { name: name.to_owned(), timestamps }
    }

    /// Whether its lines begin with the time.
    pub(crate) fn has_timestamps(&self) -> bool {
        self.timestamps
    }

    /// Whether this process wrote `line`.
    pub(crate) fn said(&self, line: &str) -> bool {
        line.contains(&format!("{}[{}]: ", self.name, std::process::id()))
    }

    /// One line. A stderr that is closed or full, as a pipe that nobody reads or a terminal that is
    /// stopped, loses it: the service goes on.
    pub(crate) fn line(&self, text: &str) {
        let time = if self.timestamps {
            format!("{} ", humantime::format_rfc3339_millis(SystemTime::now()))
        } else {
            String::new()
        };
        let line = format!("{time}{}[{}]: {text}\n", self.name, std::process::id());
        if descriptors::takes_output(io::stderr()) {
            let _ = io::stderr().write_all(line.as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_is_what_came_since() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/a.log");
        let mut log = LogFile::open(&path).unwrap();
        writeln!(log.file, "old").unwrap();
        let from = length(&path);
        writeln!(log.file, "one\ntwo").unwrap();
        assert_eq!(tail(&path, from).unwrap(), ["one", "two"]);
        assert_eq!(tail(&path, 1_000_000).unwrap(), ["old", "one", "two"]);
    }
}
