//! Changes the mode and owner of the file of a unix socket.
//!
//! The file is opened without following links and changed through its descriptor. By path, a user who may
//! write to the directory could put a link in place of the socket, and have a daemon that is root change the
//! link's target.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid};

/// Opens the file, and refuses one that is no socket.
fn open(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty())?;
    match FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) {
        FileType::Socket => Ok(file),
        _ => Err(io::Error::other("the socket was replaced by another file")),
    }
}

pub(super) fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    let file = open(path)?;
    // fchmod(2) refuses descriptors opened with O_PATH, but chmod(2) accepts their path in /proc.
    let by_descriptor = format!("/proc/self/fd/{}", file.as_raw_fd());
    std::fs::set_permissions(by_descriptor, std::fs::Permissions::from_mode(mode))
}

pub(super) fn set_owner(path: &Path, user: Option<u32>, group: Option<u32>) -> io::Result<()> {
    let (user, group) = (user.map(Uid::from_raw), group.map(Gid::from_raw));
    Ok(rustix::fs::chownat(open(path)?, "", user, group, AtFlags::EMPTY_PATH)?)
}
