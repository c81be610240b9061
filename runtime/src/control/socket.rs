//! The control socket itself: binding, connecting, the check of peers, and the runtime directory.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::error::{Error, ErrorKind, Result};
use crate::owned_files::{Inode, at};
use crate::sys::peer;

/// The most packets of a refused client that are read before its socket is closed. Unread ones
/// would turn the refusal into a reset; without a limit the client could keep the supervisor busy.
const MAX_DISCARDED: usize = 16;

/// The listening control socket.
#[derive(Debug)]
pub(crate) struct ControlSocket {
    path: PathBuf,
    socket: OwnedFd,
    /// The inode of its file, so that only the daemon's own file is removed.
    inode: Option<Inode>,
}

impl ControlSocket {
    /// Binds the socket. The caller holds the lock of the pidfile, so a file at `path` is a dead socket.
    pub(crate) fn bind(path: &Path) -> Result<ControlSocket> {
        let cannot = |error: io::Error| {
            Error::io(format!("cannot bind the control socket {}", path.display()), error)
        };
        let socket = listen_at(path).map_err(cannot)?;
        Ok(ControlSocket::adopt(path.to_owned(), socket))
    }

    /// Takes over a socket that this process bound before its last exec.
    pub(crate) fn adopt(path: PathBuf, socket: OwnedFd) -> ControlSocket {
        // A file that cannot be examined counts as removed.
        let inode = at(&path).ok().flatten();
        ControlSocket { path, socket, inode }
    }

    pub(crate) fn inode(&self) -> Option<Inode> {
        self.inode
    }

    /// Binds the socket again after its file was removed. Fails if there is another file by now. The caller
    /// should have accepted the clients that are queued at the old socket.
    pub(crate) fn restore(&mut self) -> Result<()> {
        let restored = bind_at(&self.path).map_err(|error| {
            Error::io(format!("cannot bind the control socket {}", self.path.display()), error)
        })?;
        *self = ControlSocket::adopt(self.path.clone(), restored);
        Ok(())
    }

    /// Accepts the next client, if one waits. A client of another user, except root, is refused.
    pub(crate) fn accept(&self) -> io::Result<Option<OwnedFd>> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let client = match rustix::net::accept_with(&self.socket, flags) {
            Ok(client) => client,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if foreign_user(&client)?.is_none() {
            return Ok(Some(client));
        }
        let own = rustix::process::geteuid();
        let reason =
            format!("this daemon belongs to user {}; run this as that user or root", own.as_raw());
        // The peer is closed, whether it reads this or not.
        let _ = crate::link::send(&client, &super::Reply::Refused { reason }, &[]);
        // Its packets are read, because unread ones would make the close a reset that loses the answer; after
        // the shutdown it cannot send more.
        let _ = rustix::net::shutdown(&client, rustix::net::Shutdown::Read);
        for _ in 0..MAX_DISCARDED {
            match crate::sys::seqpacket::receive(&client) {
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => break,
            }
        }
        Ok(None)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the file, if it is still the one that the daemon bound.
    pub(crate) fn remove_file(&self) {
        if at(&self.path).ok().flatten() == self.inode {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl AsFd for ControlSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Connects to the daemon at `path`; returns the socket and the daemon's process id, which is 0 if it is in
/// a pid namespace that this process cannot see.
///
/// In a directory that others can write to, such as `/tmp`, another user may have bound the socket. So
/// unless this process runs as root, the daemon must belong to its own user or to root.
pub(crate) fn connect(path: &Path) -> io::Result<(OwnedFd, i32)> {
    let socket = socket()?;
    let (addr, _dir) = address(path)?;
    rustix::net::connect(&socket, &addr)?;
    let peer = peer::credentials(&socket)?;
    if !rustix::process::geteuid().is_root()
        && let Some(uid) = foreign_user(&socket)?
    {
        let why = format!("user {uid} listens there");
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    }
    Ok((socket, peer.pid))
}

/// Binds a listening socket at `path`, in place of any file that is there.
pub(crate) fn listen_at(path: &Path) -> io::Result<OwnedFd> {
    match std::fs::remove_file(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    bind_at(path)
}

/// Binds a listening socket at `path`, where no file may be.
fn bind_at(path: &Path) -> io::Result<OwnedFd> {
    let socket = socket()?;
    let (addr, _dir) = address(path)?;
    // The new file takes the mode of the socket (unix(7)): with a chmod after the bind, others could connect
    // in between.
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    rustix::net::bind(&socket, &addr)?;
    rustix::net::listen(&socket, 64)?;
    crate::sys::descriptors::set_nonblocking(&socket)?;
    Ok(socket)
}

/// Returns the user of a peer if it is neither that of this process nor root.
pub(crate) fn foreign_user(peer: impl AsFd) -> io::Result<Option<u32>> {
    let uid = peer::credentials(peer)?.uid;
    let own = rustix::process::geteuid().as_raw();
    Ok((uid != own && uid != 0).then_some(uid))
}

/// Creates an unbound socket.
pub(crate) fn socket() -> io::Result<OwnedFd> {
    Ok(rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

/// Returns the address of `path`. If that is too long for `sun_path`, the address leads through the returned
/// descriptor of its directory, which must stay open until the address was used.
pub(crate) fn address(path: &Path) -> io::Result<(SocketAddrUnix, Option<OwnedFd>)> {
    if path.as_os_str().as_bytes().len() < 108 {
        return Ok((SocketAddrUnix::new(path)?, None));
    }
    let parent = path.parent().unwrap_or(Path::new("/"));
    let name = path.file_name().unwrap_or_default();
    let dir = rustix::fs::open(parent, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let number = std::os::fd::AsRawFd::as_raw_fd(&dir);
    let short = Path::new("/proc/self/fd").join(number.to_string()).join(name);
    Ok((SocketAddrUnix::new(&short)?, Some(dir)))
}

/// Returns the path of the control socket of the daemon with this pidfile.
pub(crate) fn path_of(runtime_dir: &Path, pidfile: &Path) -> PathBuf {
    let mut name = pidfile.file_stem().unwrap_or(pidfile.as_os_str()).to_owned();
    name.push(".sock");
    runtime_dir.join(name)
}

/// Creates the runtime directory with mode 0700, or checks that no other user could write to an existing
/// one or replace it.
pub(crate) fn prepare_directory(path: &Path) -> Result<()> {
    let cannot = |error: io::Error| {
        // Typical for a container with a read-only root file system.
        let advice = match (error.kind(), path.parent()) {
            (io::ErrorKind::ReadOnlyFilesystem, Some(parent)) => {
                format!("mount a tmpfs at {}, or set `runtime_dir`", parent.display())
            }
            _ => "set `runtime_dir`".into(),
        };
        Error::os(
            ErrorKind::Pidfile,
            format!(
                "cannot use the runtime directory {}; {advice} to a directory that you own",
                path.display()
            ),
            error,
        )
    };
    match std::fs::DirBuilder::new().mode(0o700).recursive(true).create(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(cannot(error)),
    }
    let own = rustix::process::geteuid().as_raw();
    let mut meta = std::fs::symlink_metadata(path).map_err(cannot)?;
    let mut place = path.to_owned();
    // A symlink of root, or of the own user, can be trusted: systemd makes one to the preserved directory
    // of a dynamic user.
    if meta.is_symlink() && [0, own].contains(&meta.uid()) {
        place = std::fs::canonicalize(path).map_err(cannot)?;
        meta = std::fs::symlink_metadata(&place).map_err(cannot)?;
    }
    let refused = |why: &str| {
        Error::new(
            ErrorKind::Pidfile,
            format!(
                "the runtime directory {} {why}; set `runtime_dir` to a directory that you own",
                path.display()
            ),
        )
    };
    if !meta.is_dir() {
        return Err(refused("is not a directory"));
    }
    if meta.uid() != own && meta.uid() != 0 {
        return Err(refused(&format!("belongs to user {}", meta.uid())));
    }
    if meta.permissions().mode() & 0o022 != 0 {
        return Err(refused("is writable by others"));
    }
    // A user who can write to the parent could rename the directory and put another in its place; not if the
    // parent is sticky, as `/tmp`.
    let open = |path: &Path| {
        let parent = path.parent().and_then(|parent| std::fs::metadata(parent).ok());
        parent.is_some_and(|parent| parent.mode() & 0o1002 == 0o002)
    };
    if open(path) || open(&place) {
        return Err(refused("can be replaced by anyone, because its parent is writable by others"));
    }
    Ok(())
}
