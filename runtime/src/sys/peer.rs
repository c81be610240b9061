//! `SO_PEERCRED` of unix(7): the process and user that created the other end of a socket.

use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd};

use nix::libc;

/// Process and user of the other end. The process id is 0 if the process is not visible in this PID
/// namespace.
pub(crate) struct Credentials {
    pub(crate) pid: i32,
    pub(crate) uid: u32,
}

/// Returns the credentials of the other end, as they were when it connected or called listen(2).
pub(crate) fn credentials(socket: impl AsFd) -> io::Result<Credentials> {
    let mut found = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut length = mem::size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, which is the size of `found`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut found).cast(),
            &raw mut length,
        )
    };
    match result {
        0 => Ok(Credentials { pid: found.pid, uid: found.uid }),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn credentials_of_socketpair_are_own() {
        let (a, _b) = UnixStream::pair().unwrap();
        let peer = credentials(&a).unwrap();
        assert_eq!(peer.pid, std::process::id().cast_signed());
        assert_eq!(peer.uid, rustix::process::geteuid().as_raw());
        assert!(credentials(std::fs::File::open("/dev/null").unwrap()).is_err());
    }
}
