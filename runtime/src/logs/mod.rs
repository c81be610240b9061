//! Where the daemon's own lines and its programs' output go.

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

/// The first line of a log that was opened again.
pub(crate) const REOPENED: &str = "the log was reopened";

/// The log file of a daemon; its stdout and stderr are this file.
#[derive(Debug)]
pub(crate) struct LogFile {
    path: PathBuf,
    /// Permissions of a file that has to be made.
    mode: u32,
    file: File,
}

impl LogFile {
    /// Opens the file for appending. What is missing is made: the file, with `mode`, and its directory.
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
            // The kernel may refuse it with no more than EACCES (proc_sys_fs(5), protected_*).
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

    /// Takes over a log that this process opened before its last exec.
    pub(crate) fn adopt(path: PathBuf, mode: u32, fd: OwnedFd) -> LogFile {
        LogFile { path, mode, file: File::from(fd) }
    }

    /// Makes it this process' stdout and stderr.
    pub(crate) fn become_output(&self) -> Result<()> {
        descriptors::become_output(&self.file)
            .map_err(|error| Error::io("cannot redirect stdout and stderr to the log", error))
    }

    /// Opens the path again after a rotation and writes there from now on.
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

/// Who owns the directory, if others than root and this daemon may put something at this path: everybody,
/// as in `/tmp`, or the owner.
fn others(path: &Path) -> Option<u32> {
    let dir = std::fs::metadata(path.parent()?).ok()?;
    let theirs = ![0, rustix::process::geteuid().as_raw()].contains(&dir.uid());
    (theirs || dir.mode() & 0o002 != 0).then_some(dir.uid())
}

/// Why what is there is not ours to write to. The owner of the directory may have made a file for us, as a
/// rotation does, but leads us nowhere else.
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

/// Only a file that this call makes gets the mode: whoever made one that is there knew why.
fn open_or_make(path: &Path, mode: u32, shared: bool) -> io::Result<File> {
    // Where it is shared, nobody's link is followed and nobody's pipe waited for.
    let more = if shared { libc::O_NOFOLLOW | libc::O_NONBLOCK } else { 0 };
    let mut options = OpenOptions::new();
    options.append(true).mode(0o600).custom_flags(libc::O_CLOEXEC | libc::O_NOCTTY | more);
    match options.clone().create_new(true).open(path) {
        Ok(file) => {
            // Not by open(2), which the umask would have a say in.
            file.set_permissions(Permissions::from_mode(mode))?;
            Ok(file)
        }
        // Also a link to a file that is not there yet, or a device.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            options.create(true).open(path)
        }
        Err(error) => Err(error),
    }
}

/// Whether a line of a log, in whatever format, is this text.
pub(crate) fn says(line: &str, text: &str) -> bool {
    let quoted = serde_json::Value::from(text).to_string();
    line.ends_with(text) || line.contains(&format!("\"message\":{quoted}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mode_is_that_of_a_file_that_is_made() {
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
