//! The pidfile: its lock admits one daemon per path, for as long as the daemon lives.
//!
//! The lock is an open file description lock (`F_OFD_SETLK`, fcntl_locking(2)): it belongs to the
//! supervisor's descriptor, survives its exec, ends with the process whatever kills it, and can be queried
//! without taking it.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use crate::error::{Error, ErrorKind, Result};
use crate::owned_files::Inode;
use crate::timestamp::rfc3339;

/// How often a pidfile that is about to be created is looked for, with [`HOLDER_DELAY`] in between:
/// 200 ms in all, more than a daemon takes between its claim and its pidfile.
const HOLDER_ATTEMPTS: u32 = 20;
/// The time between two such attempts.
const HOLDER_DELAY: Duration = Duration::from_millis(10);

/// A pidfile locked by this process.
#[derive(Debug)]
pub(crate) struct PidFile {
    path: PathBuf,
    file: File,
}

/// The daemon that holds the lock of a pidfile.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PidfileHolder {
    /// The process id in the file. `None` in the moment between locking and writing.
    pub(crate) pid: Option<i32>,
    /// When the file was written.
    pub(crate) since: SystemTime,
}

impl PidFile {
    /// Locks the file and writes this process' id to it.
    pub(crate) fn acquire(path: &Path, name: &str) -> Result<PidFile> {
        loop {
            let file = open(path)?;
            if !lock(&file).map_err(|error| cannot("lock", path, error))? {
                return Err(already_running(name, path, holder(path)?));
            }
            // Between open and lock the previous owner may have removed the file: the lock would then be on a
            // file that no other process can find.
            if !same_file(&file, path)? {
                continue;
            }
            let mut pidfile = PidFile { path: path.to_owned(), file };
            if let Err(error) = pidfile.write() {
                pidfile.remove();
                return Err(cannot("write to", path, error));
            }
            return Ok(pidfile);
        }
    }

    /// Takes over the lock that this process has held since before its last exec.
    pub(crate) fn adopt(path: PathBuf, fd: OwnedFd) -> PidFile {
        PidFile { path, file: File::from(fd) }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The inode of the locked file, which may have been moved or removed.
    pub(crate) fn inode(&self) -> Option<Inode> {
        self.file.metadata().ok().map(|meta| (meta.dev(), meta.ino()))
    }

    /// Creates and locks the file again after it was removed. Fails if there is a file at the path. The new
    /// file keeps the modification time of the old one, which is the time of the start.
    pub(crate) fn restore(&mut self) -> Result<()> {
        let path = self.path.clone();
        let cannot = |what: &str, error: io::Error| cannot(what, &path, error);
        let file = options().create_new(true).mode(0o644).open(&path);
        let file = file.map_err(|error| explain_open(&path, error))?;
        let since = self.file.metadata().and_then(|meta| meta.modified());
        let mut new = PidFile { path: path.clone(), file };
        let done = lock(&new.file).map_err(|error| cannot("lock", error)).and_then(|locked| {
            if !locked {
                return Err(refused(&path, "is locked by another process"));
            }
            let written = new.write().and_then(|()| new.file.set_modified(since?));
            written.map_err(|error| cannot("write to", error))
        });
        if let Err(error) = done {
            new.remove();
            return Err(error);
        }
        *self = new;
        Ok(())
    }

    fn write(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.rewind()?;
        writeln!(self.file, "{}", std::process::id())?;
        self.file.flush()
    }

    /// Removes the file, if the path still names ours, and releases the lock.
    pub(crate) fn remove(self) {
        self.remove_file();
    }

    /// Removes the file, if the path still names ours. Keeps the lock.
    pub(crate) fn remove_file(&self) {
        if same_file(&self.file, &self.path).unwrap_or(false) {
            // A pidfile that stays is only stale: the lock ends with this process.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl AsFd for PidFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Returns the daemon that holds the pidfile at `path`, if any. Only queries the lock: taking it for a moment
/// could make a concurrent `start` fail.
pub(crate) fn holder(path: &Path) -> Result<Option<PidfileHolder>> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC;
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return Err(Error::os(
                ErrorKind::Pidfile,
                format!(
                    "cannot read the pidfile {}; it belongs to another user, and only that user \
                     and root may control the daemon: run this as one of them, or set `pidfile` to \
                     that of your own daemon",
                    path.display()
                ),
                error,
            ));
        }
        Err(error) => return Err(cannot("open", path, error)),
    };
    let mut lock = whole_file(libc::F_WRLCK);
    fcntl(&file, FcntlArg::F_OFD_GETLK(&mut lock))
        .map_err(|error| cannot("query the lock of", path, error))?;
    if i32::from(lock.l_type) == libc::F_UNLCK {
        return Ok(None);
    }
    let since = file.metadata().and_then(|meta| meta.modified()).unwrap_or(SystemTime::now());
    Ok(Some(PidfileHolder { pid: pid(file), since }))
}

/// Like [`holder`], for a daemon that is known to run: it waits a little for a daemon that has just begun or
/// is about to restore the file.
pub(crate) fn holder_soon(path: &Path) -> Result<Option<PidfileHolder>> {
    for _ in 0..HOLDER_ATTEMPTS {
        match holder(path) {
            Ok(None) => std::thread::sleep(HOLDER_DELAY),
            found => return found,
        }
    }
    holder(path)
}

/// The process id in a pidfile; `None` if it is not readable. It is only shown, never trusted.
pub(crate) fn pid(file: impl Read) -> Option<i32> {
    let mut text = String::new();
    let _ = file.take(32).read_to_string(&mut text);
    text.trim().parse().ok().filter(|pid| *pid > 0)
}

/// Removes a pidfile that is not locked, after its owner was killed by us.
pub(crate) fn remove_abandoned(path: &Path) {
    if let Some(pidfile) = take_abandoned(path) {
        pidfile.remove();
    }
}

/// Like [`remove_abandoned`], with the control socket: a solo daemon that dropped its privileges may be
/// unable to remove either.
pub(crate) fn clear_abandoned(path: &Path, socket: &Path) {
    if let Some(pidfile) = take_abandoned(path) {
        // A socket that stays is replaced by the next start.
        let _ = std::fs::remove_file(socket);
        pidfile.remove();
    }
}

/// Locks an existing pidfile; `None` if there is none or another process holds it.
fn take_abandoned(path: &Path) -> Option<PidFile> {
    let file = OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(path)
        .ok()?;
    lock(&file).unwrap_or(false).then(|| PidFile { path: path.to_owned(), file })
}

/// The error of a second `start`.
pub(crate) fn already_running(name: &str, path: &Path, holder: Option<PidfileHolder>) -> Error {
    let who = match holder {
        Some(PidfileHolder { pid: Some(pid), since }) => {
            format!(" as process {pid} since {}", rfc3339(since, 0))
        }
        Some(_) | None => String::new(),
    };
    Error::new(
        ErrorKind::AlreadyRunning,
        format!(
            "{name} is already running{who} (pidfile {}); use `restart`, or `stop` it first",
            path.display()
        ),
    )
}

/// Options to open a file for reading and writing, but not through a symbolic link, and without waiting for
/// the other end of a FIFO.
fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC;
    options.read(true).write(true).custom_flags(flags);
    options
}

fn open(path: &Path) -> Result<File> {
    let file = match options().create(true).truncate(false).mode(0o644).open(path) {
        Ok(file) => file,
        Err(error) => return Err(explain_open(path, error)),
    };
    let meta = file.metadata().map_err(|error| cannot("examine", path, error))?;
    if !meta.is_file() {
        return Err(refused(path, "is not a regular file"));
    }
    // Written to as root, a file of another user or a hard link to some other file would lose its content.
    if let Some(owner) = stranger(&meta) {
        return Err(refused(path, &format!("belongs to user {owner}")));
    }
    if meta.nlink() > 1 {
        return Err(refused(path, "has more than one hard link"));
    }
    Ok(file)
}

/// The owner of the file, if that is neither this user nor root.
fn stranger(meta: &std::fs::Metadata) -> Option<u32> {
    let own = rustix::process::geteuid().as_raw();
    (meta.uid() != own && meta.uid() != 0).then_some(meta.uid())
}

/// Names what is in the way, or the permission that is missing.
fn explain_open(path: &Path, error: io::Error) -> Error {
    // In a sticky directory the kernel refuses files of other users with a bare EACCES (proc_sys_fs(5),
    // protected_regular), also to root: look at what is there.
    if let Ok(there) = std::fs::symlink_metadata(path) {
        match stranger(&there) {
            _ if there.is_symlink() => return refused(path, "is a symbolic link"),
            _ if there.is_dir() => return refused(path, "is a directory"),
            _ if !there.is_file() => return refused(path, "is not a regular file"),
            Some(owner) => return refused(path, &format!("belongs to user {owner}")),
            None => {}
        }
    }
    match error.raw_os_error() {
        Some(libc::EACCES | libc::EROFS | libc::EPERM) => Error::os(
            ErrorKind::Pidfile,
            format!(
                "cannot create the pidfile {}; set `pidfile` to a path that user {} may write",
                path.display(),
                rustix::process::geteuid().as_raw()
            ),
            error,
        ),
        _ => cannot("open", path, error),
    }
}

fn refused(path: &Path, why: &str) -> Error {
    Error::new(
        ErrorKind::Pidfile,
        format!("the pidfile {} {why}; remove it or set `pidfile` to another path", path.display()),
    )
}

fn cannot(what: &str, path: &Path, error: impl Into<io::Error>) -> Error {
    Error::os(ErrorKind::Pidfile, format!("cannot {what} the pidfile {}", path.display()), error)
}

/// Takes the lock; `false` if another process holds it.
fn lock(file: &File) -> io::Result<bool> {
    match fcntl(file, FcntlArg::F_OFD_SETLK(&whole_file(libc::F_WRLCK))) {
        Ok(_) => Ok(true),
        Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EACCES) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn whole_file(kind: i32) -> libc::flock {
    libc::flock {
        l_type: i16::try_from(kind).unwrap_or(0),
        l_whence: i16::try_from(libc::SEEK_SET).unwrap_or(0),
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

/// Returns whether `path` names the open file.
fn same_file(file: &File, path: &Path) -> Result<bool> {
    let ours = file.metadata().map_err(|error| cannot("examine", path, error))?;
    match std::fs::symlink_metadata(path) {
        Ok(there) => Ok(ours.dev() == there.dev() && ours.ino() == there.ino()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(cannot("examine", path, error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn second_acquire_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.pid");
        assert!(holder(&path).unwrap().is_none());
        let first = PidFile::acquire(&path, "a").unwrap();
        let held = holder(&path).unwrap().unwrap();
        assert_eq!(held.pid, i32::try_from(std::process::id()).ok());
        let error = PidFile::acquire(&path, "a").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyRunning);
        assert!(error.to_string().contains(&std::process::id().to_string()), "{error}");
        first.remove();
        assert!(!path.exists());
        PidFile::acquire(&path, "a").unwrap().remove();
    }

    #[test]
    fn stale_file_is_taken_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.pid");
        std::fs::write(&path, "1\n").unwrap();
        assert!(holder(&path).unwrap().is_none());
        let file = PidFile::acquire(&path, "a").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap().trim(), std::process::id().to_string());
        drop(file);
        remove_abandoned(&path);
        assert!(!path.exists());
    }

    #[test]
    fn replaced_file_is_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.pid");
        let file = PidFile::acquire(&path, "a").unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "someone else's\n").unwrap();
        file.remove();
        assert!(path.exists());
    }

    #[test]
    fn missing_file_is_restored() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.pid");
        let mut file = PidFile::acquire(&path, "a").unwrap();
        let since = holder(&path).unwrap().unwrap().since;
        assert_eq!(file.restore().unwrap_err().kind(), ErrorKind::Pidfile, "it is there");
        std::fs::remove_file(&path).unwrap();
        assert!(holder(&path).unwrap().is_none());
        file.restore().unwrap();
        let held = holder(&path).unwrap().unwrap();
        assert_eq!(held.pid, i32::try_from(std::process::id()).ok());
        assert_eq!(held.since, since, "the daemon is no younger for it");
        assert_eq!(PidFile::acquire(&path, "a").unwrap_err().kind(), ErrorKind::AlreadyRunning);
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(dir.path().join("elsewhere"), &path).unwrap();
        assert!(file.restore().unwrap_err().to_string().contains("symbolic link"));
        assert!(!dir.path().join("elsewhere").exists());
    }

    #[test]
    fn hard_link_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (path, precious) = (dir.path().join("a.pid"), dir.path().join("precious"));
        std::fs::write(&precious, "precious\n").unwrap();
        std::fs::hard_link(&precious, &path).unwrap();
        let message = PidFile::acquire(&path, "a").unwrap_err().to_string();
        assert!(message.contains("more than one hard link; remove it"), "{message}");
        assert_eq!(std::fs::read_to_string(&precious).unwrap(), "precious\n");
    }

    #[test]
    fn error_names_occupying_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.pid");
        let says = |path: &Path| PidFile::acquire(path, "a").unwrap_err().to_string();
        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        assert!(says(&path).contains("symbolic link"));
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert!(says(&path).contains("is a directory"));
        assert!(says(&dir.path().join("no/such/a.pid")).contains("No such file"));
    }
}
