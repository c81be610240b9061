//! The socket at which an orphan waits for the next supervisor.
//!
//! The supervisor binds one for each worker, next to the control socket and with the same mode, and hands
//! it to the worker. Only the worker accepts on it, and only after its link has ended.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use rustix::net::SocketFlags;

use crate::control::socket::{address, foreign_user, listen_at, socket};

/// The part of the file name between the pidfile's stem and the worker's process id.
const INFIX: &str = ".worker-";

/// Returns the path of the socket of worker `pid` of the daemon with this pidfile.
pub(crate) fn path_of(runtime_dir: &Path, pidfile: &Path, pid: i32) -> PathBuf {
    let mut name = pidfile.file_stem().unwrap_or(pidfile.as_os_str()).to_owned();
    name.push(format!("{INFIX}{pid}.sock"));
    runtime_dir.join(name)
}

/// Finds all such sockets; returns them with the process ids in their names.
pub(crate) fn all(runtime_dir: &Path, pidfile: &Path) -> io::Result<Vec<(i32, PathBuf)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(runtime_dir)? {
        let entry = entry?;
        let path = entry.path();
        let pid = path
            .file_stem()
            .and_then(|stem| stem.to_str())
            .and_then(|stem| stem.rsplit_once('-')?.1.parse().ok());
        if let Some(pid) = pid
            && path == path_of(runtime_dir, pidfile, pid)
            && entry.file_type()?.is_socket()
        {
            found.push((pid, path));
        }
    }
    Ok(found)
}

/// Binds the socket of a worker.
pub(crate) fn bind(path: &Path) -> io::Result<OwnedFd> {
    listen_at(path)
}

/// Connects to the socket of a worker, without waiting for it to accept.
pub(crate) fn connect(path: &Path) -> io::Result<OwnedFd> {
    let socket = socket()?;
    crate::sys::descriptors::set_nonblocking(&socket)?;
    let (addr, _dir) = address(path)?;
    rustix::net::connect(&socket, &addr)?;
    Ok(socket)
}

/// Accepts the next supervisor, if one waits. Peers of another user, except root, are rejected with a
/// warning in the log.
pub(crate) fn accept(socket: impl AsFd) -> io::Result<Option<OwnedFd>> {
    let peer = match rustix::net::accept_with(&socket, SocketFlags::CLOEXEC) {
        Ok(peer) => peer,
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    match foreign_user(&peer)? {
        None => Ok(Some(peer)),
        Some(uid) => {
            tracing::warn!(uid, "refused another user that tried to re-attach this worker");
            Ok(None)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_found_by_their_names() {
        let dir = tempfile::tempdir().unwrap();
        let pidfile = dir.path().join("a.pid");
        let path = path_of(dir.path(), &pidfile, 17);
        assert_eq!(path, dir.path().join("a.worker-17.sock"));
        for other in
            ["a.sock", "b.worker-3.sock", "a.worker-x.sock", "a.worker-18.sock", "a.worker-5"]
        {
            std::fs::write(dir.path().join(other), "").unwrap();
        }
        let socket = bind(&path).unwrap();
        assert_eq!(all(dir.path(), &pidfile).unwrap(), [(17, path.clone())]);
        assert!(accept(&socket).unwrap().is_none());
        let _newcomer = connect(&path).unwrap();
        assert!(accept(&socket).unwrap().is_some());
        drop(socket);
        assert_eq!(connect(&path).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }
}
