//! The files that the daemon owns: pidfile, control socket, the files of unix listeners, and their
//! directories.
//!
//! A file that vanishes is restored; a foreign file in its place is left alone. Both are logged and shown by
//! `status`. A [`watch`] wakes the daemon when one of the paths may have changed. The daemon then inspects
//! all of them: [`OwnedFiles::begin`], [`OwnedFiles::tend`] for each file, [`OwnedFiles::end`].

mod watch;

use std::fs::DirBuilder;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use crate::json::{FromJson, ToJson};
use rustix::fs::{Gid, Mode, OFlags, Uid};
use unbroken_core::sorted::SortedMap;

use crate::control::{prepare_directory, unix_seconds};
use crate::error::{Error, ErrorKind, Result};
use crate::logs::DaemonLog;
use crate::owned_files::watch::PathWatch;

/// The time between two attempts to restore a file. What prevents it, as a full disk, lasts; a
/// shorter time only costs wake-ups, a longer one keeps the daemon unreachable after the cause is
/// gone.
const RESTORE_INTERVAL: Duration = Duration::from_secs(2);

/// The most files whose fate `status` shows. A file that vanishes again and again must not fill its
/// packet.
const MAX_REMEMBERED: usize = 8;

/// The identity of a file: device and inode.
pub(crate) type Inode = (u64, u64);

/// Returns the file at a path, if there is one. Fails if the path cannot be examined.
pub(crate) fn at(path: &Path) -> io::Result<Option<Inode>> {
    match std::fs::symlink_metadata(path) {
        Ok(meta) => Ok(Some((meta.dev(), meta.ino()))),
        Err(error) if is_absence(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_absence(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// What happened to one of the files, for `status`.
#[derive(Debug, Clone, PartialEq, ToJson, FromJson)]
pub(crate) struct FileStatus {
    /// `the pidfile`, `the control socket` or `listener …`.
    pub(crate) what: String,
    pub(crate) path: PathBuf,
    /// `restored`, `gone` or `replaced`.
    pub(crate) state: String,
    /// When it happened, in seconds since 1970.
    pub(crate) at: u64,
    /// Why the file could not be restored.
    #[json(default)]
    pub(crate) reason: Option<String>,
}

/// Watches and restores the files.
pub(crate) struct OwnedFiles {
    /// `None` if inotify failed: files are then inspected at restarts only.
    watch: Option<PathWatch>,
    runtime_dir: PathBuf,
    /// The paths of the last inspection.
    paths: Vec<PathBuf>,
    /// What happened to the files, the latest event last.
    known: Vec<FileStatus>,
    /// The parent directories, as they were when the files were last seen there.
    directories: SortedMap<PathBuf, Directory>,
    /// Whether one of them may have changed since the last inspection.
    changed: bool,
    /// When to try again to restore a file.
    retry: Option<Instant>,
}

/// Permissions to restore a directory with.
#[derive(Debug, Clone, Copy)]
struct Directory {
    mode: u32,
    user: u32,
    group: u32,
}

impl OwnedFiles {
    pub(crate) fn new(runtime_dir: &Path, known: Vec<FileStatus>, say: &DaemonLog) -> OwnedFiles {
        let watch = PathWatch::new().inspect_err(|error| say.warn(&unwatched(error))).ok();
        OwnedFiles {
            watch,
            runtime_dir: runtime_dir.to_owned(),
            paths: Vec::new(),
            known,
            directories: SortedMap::new(),
            changed: false,
            retry: None,
        }
    }

    /// The descriptor to poll.
    pub(crate) fn source(&self) -> Option<BorrowedFd<'_>> {
        self.watch.as_ref().map(AsFd::as_fd)
    }

    /// Reads the events of the watch, for [`OwnedFiles::is_due`].
    pub(crate) fn hear(&mut self, say: &DaemonLog) {
        let Some(watch) = &mut self.watch else { return };
        self.changed |= watch.hears().unwrap_or_else(|error| {
            say.warn(&unwatched(&error));
            self.watch = None;
            true
        });
    }

    /// Returns whether the files have to be inspected: after an event, unless the last attempt to restore one
    /// failed, which changes files too; then when the next attempt is due.
    pub(crate) fn is_due(&mut self, now: Instant) -> bool {
        let changed = std::mem::take(&mut self.changed);
        self.retry.map_or(changed, |at| at <= now)
    }

    /// When the files have to be inspected without an event.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.retry
    }

    /// Begins an inspection of the files at these paths. Watches them from now on: a change during the
    /// inspection leads to another one.
    pub(crate) fn begin(&mut self, paths: Vec<PathBuf>, say: &DaemonLog) {
        if let Some(watch) = &mut self.watch
            && let Err(error) = watch.set(paths.iter().map(PathBuf::as_path))
            && paths != self.paths
        {
            say.warn(&unwatched(&error));
        }
        self.known.retain(|it| it.state == RESTORED || paths.contains(&it.path));
        self.paths = paths;
        self.retry = None;
    }

    /// Returns whether these are the paths of the last inspection.
    pub(crate) fn knows(&self, paths: &[PathBuf]) -> bool {
        self.paths == paths
    }

    /// Inspects one file, whose inode should be `ours`, and restores it if it is missing; returns whether it
    /// was restored. `what` names the file in messages.
    pub(crate) fn tend(
        &mut self,
        what: &str,
        path: &Path,
        ours: Option<Inode>,
        say: &DaemonLog,
        restore: impl FnOnce() -> Result<()>,
    ) -> bool {
        // A path that cannot be examined may have its file.
        let Ok(found) = at(path) else { return false };
        let (state, reason) = match found {
            Some(_) if found == ours => {
                self.remember_directory(path);
                let wrong = |it: &FileStatus| it.path == path && it.state != RESTORED;
                if self.known.iter().any(wrong) {
                    self.known.retain(|it| !wrong(it));
                    say.line(&format!("{what} {} is back", path.display()));
                }
                return false;
            }
            Some(_) => (REPLACED, None),
            None => match self.prepare(path).and_then(|()| restore()) {
                Ok(()) => (RESTORED, None),
                Err(error) => (GONE, Some(error.to_string())),
            },
        };
        self.note(what, path, state, reason, say);
        state == RESTORED
    }

    /// Ends the inspection: watches the restored files, too.
    pub(crate) fn end(&mut self) {
        if let Some(watch) = &mut self.watch {
            // The inspection began with a warning about paths that cannot be watched.
            let _ = watch.set(self.paths.iter().map(PathBuf::as_path));
        }
    }

    /// What happened to the files, the latest event last.
    pub(crate) fn status(&self) -> Vec<FileStatus> {
        self.known.clone()
    }

    /// Logs and remembers what happened to a file, unless it is known.
    fn note(
        &mut self,
        what: &str,
        path: &Path,
        state: &str,
        reason: Option<String>,
        say: &DaemonLog,
    ) {
        if state != RESTORED {
            self.retry = Some(Instant::now() + RESTORE_INTERVAL);
        }
        let before = self.known.iter().find(|it| it.path == path && it.state != RESTORED);
        if before.is_some_and(|it| it.state == state && it.reason == reason) {
            return;
        }
        let at = path.display();
        say.warn(&match (state, &reason) {
            (RESTORED, _) => format!("{what} {at} was missing and was restored"),
            (REPLACED, _) => format!(
                "{what} {at} was replaced by another file; remove that file to have {what} restored"
            ),
            (_, reason) => format!(
                "{what} {at} is missing and cannot be restored: {}",
                reason.as_deref().unwrap_or_default()
            ),
        });
        self.known.retain(|it| it.path != path);
        self.known.push(FileStatus {
            what: what.to_owned(),
            path: path.to_owned(),
            state: state.to_owned(),
            at: unix_seconds(SystemTime::now()),
            reason,
        });
        let excess = self.known.len().saturating_sub(MAX_REMEMBERED);
        self.known.drain(..excess);
    }

    /// Remembers the owner and mode of the file's directory.
    fn remember_directory(&mut self, path: &Path) {
        let Some(parent) = path.parent() else { return };
        if let Ok(meta) = std::fs::metadata(parent) {
            let (mode, user, group) = (meta.mode() & 0o7777, meta.uid(), meta.gid());
            self.directories.insert(parent.to_owned(), Directory { mode, user, group });
        }
    }

    /// Restores the directory of a file if it is missing, and checks that it is safe to create the file
    /// there.
    fn prepare(&self, path: &Path) -> Result<()> {
        let Some(parent) = path.parent() else { return Ok(()) };
        if parent == self.runtime_dir {
            return prepare_directory(parent);
        }
        let cannot = |error: io::Error| {
            Error::os(ErrorKind::Io, format!("cannot create {}", parent.display()), error)
        };
        if at(parent).map_err(cannot)?.is_none() {
            DirBuilder::new().mode(0o700).create(parent).map_err(cannot)?;
            let before = self.directories.get(parent);
            before.map_or(Ok(()), |before| before.apply(parent)).map_err(cannot)?;
        }
        check_owners(parent)
    }
}

/// Refuses a directory that other users could change: with a link in the path, the user of the workers, say,
/// could have the supervisor create files elsewhere. A start does not check this: there the operator has
/// chosen the path.
fn check_owners(dir: &Path) -> Result<()> {
    let own = rustix::process::geteuid().as_raw();
    let cannot =
        |error| Error::os(ErrorKind::Io, format!("cannot examine {}", dir.display()), error);
    let real = std::fs::canonicalize(dir).map_err(cannot)?;
    for place in dir.ancestors().chain(real.ancestors()).filter(|it| !it.as_os_str().is_empty()) {
        let meta = std::fs::symlink_metadata(place).map_err(cannot)?;
        let open = !meta.is_symlink() && meta.mode() & 0o1000 == 0 && meta.mode() & 0o022 != 0;
        let who = match meta.uid() {
            uid if uid != 0 && uid != own => format!("user {uid}"),
            _ if open => "others".to_owned(),
            _ => continue,
        };
        let text = format!(
            "{who} can change {}, so a running daemon creates nothing there; correct its owner and \
             mode, or stop and start",
            place.display()
        );
        return Err(Error::new(ErrorKind::Refused, text));
    }
    Ok(())
}

/// The states of a file in [`FileStatus`].
const RESTORED: &str = "restored";
const GONE: &str = "gone";
const REPLACED: &str = "replaced";

impl Directory {
    /// Gives a directory that was just created its former owner and mode. It is changed through a descriptor,
    /// opened without following links: a user who may write to the directory above could have replaced it by
    /// a link.
    fn apply(self, path: &Path) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = rustix::fs::open(path, flags, Mode::empty())?;
        let stat = rustix::fs::fstat(&dir)?;
        if stat.st_uid != rustix::process::geteuid().as_raw() {
            return Err(io::Error::other("another user created it first"));
        }
        if (stat.st_uid, stat.st_gid) != (self.user, self.group) {
            let (user, group) = (Uid::from_raw(self.user), Gid::from_raw(self.group));
            rustix::fs::fchown(&dir, Some(user), Some(group))?;
        }
        Ok(rustix::fs::fchmod(&dir, Mode::from_raw_mode(self.mode))?)
    }
}

fn unwatched(error: &io::Error) -> String {
    format!(
        "cannot watch the daemon's files: {error}; until the next restart, removed ones are not \
         restored; raise fs.inotify.max_user_instances or fs.inotify.max_user_watches"
    )
}
