//! Binds unix sockets. At the path, a socket file without a listener is replaced; a live one means that the
//! address is in use; any other file is left alone.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode, OFlags};
use socket2::{Domain, SockAddr, Socket, Type};

use super::{SocketFile, backlog, cannot_bind, file, socket_file};
use crate::config::ListenSettings;
use crate::error::{Error, ErrorKind, Result};
use crate::sys::privileges;

/// How often the lock of a directory is tried, with [`LOCK_DELAY`] in between: 250 ms in all, more
/// than another daemon takes to bind its socket there.
const LOCK_ATTEMPTS: u32 = 25;
/// The time between two such attempts.
const LOCK_DELAY: Duration = Duration::from_millis(10);

/// Binds a unix socket, and gives its file the owner and mode of the settings before it listens.
pub(super) fn bind(
    name: &str,
    path: &Path,
    settings: &ListenSettings,
) -> Result<(Socket, SocketFile)> {
    let cannot = |error: io::Error| cannot_bind(name, settings, error);
    // Two daemons that both find the same dead socket must not remove each other's new one.
    let _lock = lock_directory(name, path, settings)?;
    let sock_addr = SockAddr::unix(path).map_err(cannot)?;
    remove_dead(name, path, &sock_addr, settings)?;
    let socket =
        Socket::new(Domain::UNIX, Type::STREAM.cloexec().nonblocking(), None).map_err(cannot)?;
    if settings.mode.is_some() {
        // The new file gets the mode of the socket: no process can connect before the owner and mode are set.
        rustix::fs::fchmod(&socket, Mode::empty()).map_err(|error| cannot(error.into()))?;
    }
    socket.bind(&sock_addr).map_err(cannot)?;
    let finish = || -> Result<SocketFile> {
        set_owner(name, path, settings)?;
        if let Some(mode) = settings.mode {
            file::set_mode(path, mode).map_err(cannot)?;
        }
        socket.listen(backlog(settings)).map_err(cannot)?;
        socket_file(path).map_err(cannot)
    };
    match finish() {
        Ok(file) => Ok((socket, file)),
        Err(error) => {
            let _ = std::fs::remove_file(path);
            Err(error)
        }
    }
}

/// Locks the directory of a socket against other daemons that bind there.
pub(super) fn lock_directory(
    name: &str,
    path: &Path,
    settings: &ListenSettings,
) -> Result<OwnedFd> {
    let cannot = |error: io::Error| cannot_bind(name, settings, error);
    let parent = path.parent().unwrap_or(Path::new("/"));
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir =
        rustix::fs::open(parent, flags, Mode::empty()).map_err(|error| cannot(error.into()))?;
    for _ in 0..LOCK_ATTEMPTS {
        match rustix::fs::flock(&dir, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(dir),
            Err(rustix::io::Errno::WOULDBLOCK) => std::thread::sleep(LOCK_DELAY),
            Err(error) => return Err(cannot(error.into())),
        }
    }
    Err(Error::new(
        ErrorKind::Listen,
        format!(
            "cannot bind listener `{name}` to {}: another process holds a lock on {}; end it or choose \
             another path",
            settings.addr,
            parent.display()
        ),
    ))
}

/// Removes the file of a unix socket on which no process listens; fails if one does, or if the file is no
/// socket.
pub(super) fn remove_dead(
    name: &str,
    path: &Path,
    sock_addr: &SockAddr,
    settings: &ListenSettings,
) -> Result<()> {
    let cannot = |error: io::Error| cannot_bind(name, settings, error);
    let meta = match std::fs::symlink_metadata(path) {
        Ok(meta) => meta,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(cannot(error)),
    };
    if !meta.file_type().is_socket() {
        return Err(Error::new(
            ErrorKind::Listen,
            format!(
                "cannot bind listener `{name}` to {}: a file that is not a socket exists there; \
                 remove it or choose another path",
                settings.addr
            ),
        ));
    }
    let probe =
        Socket::new(Domain::UNIX, Type::STREAM.cloexec().nonblocking(), None).map_err(cannot)?;
    match probe.connect(sock_addr) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(cannot)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // A full queue (EAGAIN) is a live listener too.
        Ok(()) => Err(cannot(io::Error::from(rustix::io::Errno::ADDRINUSE))),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            Err(cannot(io::Error::from(rustix::io::Errno::ADDRINUSE)))
        }
        Err(error) => Err(cannot(error)),
    }
}

/// Gives the file of a unix socket the owner and group of the settings, where they name any.
pub(super) fn set_owner(name: &str, path: &Path, settings: &ListenSettings) -> Result<()> {
    let unknown = |kind: &str, who: &str| {
        Error::new(
            ErrorKind::Listen,
            format!("listener `{name}`: there is no {kind} `{who}`; create it or correct `{kind}`"),
        )
    };
    let id = |kind: &str, text: &Option<String>, find: fn(&str) -> io::Result<Option<u32>>| {
        let Some(text) = text else { return Ok(None) };
        let number = text.parse().ok().or_else(|| find(text).ok().flatten());
        number.map(Some).ok_or_else(|| unknown(kind, text))
    };
    let user = id("user", &settings.user, |name| Ok(privileges::user(name)?.map(|it| it.uid)))?;
    let group = id("group", &settings.group, privileges::group)?;
    if user.is_some() || group.is_some() {
        file::set_owner(path, user, group).map_err(|error| {
            Error::os(
                ErrorKind::Listen,
                format!(
                    "cannot change the owner of the socket {} of listener `{name}`",
                    path.display()
                ),
                error,
            )
        })?;
    }
    Ok(())
}
