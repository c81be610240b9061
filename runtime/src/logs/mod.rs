//! Logging: the log file, the daemon's own lines, and the events of the program.
//!
//! - [`LogFile`]: the file that stdout and stderr of a daemon are redirected to, and its reopening after a
//!   rotation.
//! - [`DaemonLog`]: the lines of the daemon itself, through [`stderr`], which never waits.
//! - `subscriber`: the events of the program by `tracing` and `log`, selected by a `filter`, within `spans`.
//! - [`event`]: the formats of both.
//! - [`mod@tail`]: the last lines of a log, shown when a start or a restart fails.

mod daemon_log;
mod event;
#[cfg(feature = "log")]
mod filter;
#[cfg(feature = "log")]
mod spans;
mod stderr;
#[cfg(feature = "log")]
pub(crate) mod subscriber;
mod tail;

use std::fs::{File, OpenOptions, Permissions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::libc;

pub(crate) use daemon_log::{DaemonLog, EventContext};
pub(crate) use tail::{length, tail};

use crate::error::{Error, ErrorKind, Result};
use crate::sys::descriptors;

/// The line that the daemon writes to a log after reopening it.
pub(crate) const REOPENED: &str = "the log was reopened";

/// The log file of a daemon, which is its stdout and stderr.
#[derive(Debug)]
pub(crate) struct LogFile {
    path: PathBuf,
    /// The permissions of a file that has to be created.
    mode: u32,
    file: File,
}

impl LogFile {
    /// Opens the file for appending. Creates its directory, and the file with `mode`, where they are missing.
    pub(crate) fn open(path: &Path, mode: u32) -> Result<LogFile> {
        let cannot = |error| {
            Error::io(
                format!("cannot open the log {}; set `log` to another path", path.display()),
                error,
            )
        };
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(cannot)?;
        }
        let others = others(path);
        let file = match open_or_make(path, mode, others.is_some()) {
            // In a sticky directory the kernel refuses files of other users with a bare EACCES
            // (proc_sys_fs(5), protected_regular): look at what is there.
            Err(error) => {
                let there = others.zip(std::fs::symlink_metadata(path).ok());
                return Err(match there.and_then(|(owner, meta)| foreign(&meta, owner)) {
                    Some(why) => planted(path, &why),
                    None => cannot(error),
                });
            }
            Ok(file) => file,
        };
        if let Some(owner) = others {
            let meta = file.metadata().map_err(cannot)?;
            if let Some(why) = foreign(&meta, owner) {
                return Err(planted(path, &why));
            }
            rustix::fs::fcntl_setfl(&file, rustix::fs::OFlags::APPEND)
                .map_err(|error| cannot(error.into()))?;
        }
        Ok(LogFile { path: path.to_owned(), mode, file })
    }

    /// Takes over the log that this process opened before its last exec.
    pub(crate) fn adopt(path: PathBuf, mode: u32, fd: OwnedFd) -> LogFile {
        LogFile { path, mode, file: File::from(fd) }
    }

    /// Makes the file stdout and stderr of this process.
    pub(crate) fn become_output(&self) -> Result<()> {
        descriptors::become_output(&self.file)
            .map_err(|error| Error::io("cannot redirect stdout and stderr to the log", error))
    }

    /// Opens the path again, after a rotation, and redirects stdout and stderr there. On failure the old file
    /// stays in use.
    pub(crate) fn reopen(&mut self) -> Result<()> {
        let fresh = LogFile::open(&self.path, self.mode)?;
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

/// Returns the owner of the directory, if a user other than root and this daemon's could create the file at
/// this path: any user, as in `/tmp`, or the directory's owner.
fn others(path: &Path) -> Option<u32> {
    let dir = std::fs::metadata(path.parent()?).ok()?;
    let theirs = ![0, rustix::process::geteuid().as_raw()].contains(&dir.uid());
    (theirs || dir.mode() & 0o002 != 0).then_some(dir.uid())
}

/// Returns why a file in a directory of another user must not be written to. A regular file of the
/// directory's `owner` is accepted, since a rotation creates one; a link is not, since it could lead to any
/// file that root may write.
fn foreign(meta: &std::fs::Metadata, owner: u32) -> Option<String> {
    let own = rustix::process::geteuid().as_raw();
    match () {
        () if meta.is_symlink() => Some("it is a symbolic link".to_owned()),
        () if !meta.is_file() => Some("it is not a regular file".to_owned()),
        () if ![own, 0, owner].contains(&meta.uid()) => {
            Some(format!("it belongs to user {}", meta.uid()))
        }
        () if meta.nlink() > 1 => Some("it has more than one hard link".to_owned()),
        () => None,
    }
}

fn planted(path: &Path, why: &str) -> Error {
    Error::new(
        ErrorKind::Refused,
        format!(
            "refusing the log {} in a directory that others can write to: {why}; remove it, or set \
             `log` to a path in a directory that you own",
            path.display()
        ),
    )
}

/// Opens the file, or creates it with `mode`. The mode of an existing file is left alone. `shared` is whether
/// other users could have put something at the path.
fn open_or_make(path: &Path, mode: u32, shared: bool) -> io::Result<File> {
    // Follow no link of another user, and do not wait for the reader of a FIFO.
    let more = if shared { libc::O_NOFOLLOW | libc::O_NONBLOCK } else { 0 };
    let mut options = OpenOptions::new();
    options.append(true).mode(0o600).custom_flags(libc::O_CLOEXEC | libc::O_NOCTTY | more);
    match options.clone().create_new(true).open(path) {
        Ok(file) => {
            // Not by open(2), whose mode is subject to the umask.
            file.set_permissions(Permissions::from_mode(mode))?;
            Ok(file)
        }
        // Create it all the same: this may be a link to a file that does not exist yet.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            options.create(true).open(path)
        }
        Err(error) => Err(error),
    }
}

/// Returns whether a line of a log, in any of the formats, has this message.
pub(crate) fn says(line: &str, text: &str) -> bool {
    let quoted = serde_json::Value::from(text).to_string();
    line.ends_with(text) || line.contains(&format!("\"message\":{quoted}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mode_applies_to_created_file_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.log");
        let mode = || std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        LogFile::open(&path, 0o666).unwrap();
        assert_eq!(mode(), 0o666, "whatever the umask is");
        std::fs::set_permissions(&path, Permissions::from_mode(0o604)).unwrap();
        LogFile::open(&path, 0o666).unwrap();
        assert_eq!(mode(), 0o604);
    }
}
