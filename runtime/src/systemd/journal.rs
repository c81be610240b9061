//! The native protocol of systemd's journal: one datagram per entry, to `/run/systemd/journal/socket`.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use rustix::net::{
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, sendmsg_addr,
};

use crate::sys::{descriptors, memory};

const SOCKET: &str = "/run/systemd/journal/socket";

/// The environment variable with the device and inode of the stream that systemd connected to stdout or
/// stderr.
pub(crate) const STREAM: &str = "JOURNAL_STREAM";

/// A socket to send entries with.
#[derive(Debug)]
pub(crate) struct Journal {
    socket: UnixDatagram,
}

impl Journal {
    /// `patience` is how long [`send`](Journal::send) may wait for a journal that is busy; without it, `send`
    /// fails at once.
    pub(crate) fn new(patience: Option<Duration>) -> io::Result<Journal> {
        let socket = UnixDatagram::unbound()?;
        match patience {
            Some(_) => socket.set_write_timeout(patience)?,
            None => socket.set_nonblocking(true)?,
        }
        Ok(Journal { socket })
    }

    /// Sends one entry. The socket is never connected: each entry is sent to the path, which also reaches a
    /// journal that was restarted.
    pub(crate) fn send(&self, entry: &[u8]) -> io::Result<()> {
        match self.socket.send_to(entry, SOCKET) {
            Ok(_) => return Ok(()),
            // Too large for a datagram: sent in a sealed memfd, as the protocol asks for.
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(nix::libc::EMSGSIZE | nix::libc::ENOBUFS)
                ) => {}
            Err(error) => return Err(error),
        }
        let file = memory::sealed_file("unbroken-journal", entry)?;
        let files = [file.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(&files));
        let address = SocketAddrUnix::new(SOCKET)?;
        let nothing = [IoSlice::new(&[])];
        sendmsg_addr(&self.socket, &address, &nothing, &mut control, SendFlags::NOSIGNAL)?;
        Ok(())
    }
}

/// Returns whether stderr of this process is the stream to the journal that systemd announced.
pub(crate) fn is_stderr() -> bool {
    let named = std::env::var(STREAM).unwrap_or_default();
    descriptors::identity(io::stderr()).is_ok_and(|identity| is(&named, identity))
}

/// Returns whether stderr of another process is the stream `named` in its environment.
pub(crate) fn is_stderr_of(pid: u32, named: &str) -> bool {
    let file = std::fs::metadata(format!("/proc/{pid}/fd/2"));
    file.is_ok_and(|file| is(named, (file.dev(), file.ino())))
}

fn is(named: &str, (device, inode): (u64, u64)) -> bool {
    named
        .split_once(':')
        .is_some_and(|(dev, ino)| dev.parse() == Ok(device) && ino.parse() == Ok(inode))
}
