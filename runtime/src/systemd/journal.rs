//! systemd's journal: one datagram an entry, to `/run/systemd/journal/socket`.

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

/// Names, in the environment, the file that the manager connected stdout or stderr to.
pub(crate) const STREAM: &str = "JOURNAL_STREAM";

/// A way to the journal.
#[derive(Debug)]
pub(crate) struct Journal {
    socket: UnixDatagram,
}

impl Journal {
    /// `patience`: how long an entry may wait for a journal that is busy; without it, not at all.
    pub(crate) fn new(patience: Option<Duration>) -> io::Result<Journal> {
        let socket = UnixDatagram::unbound()?;
        match patience {
            Some(_) => socket.set_write_timeout(patience)?,
            None => socket.set_nonblocking(true)?,
        }
        Ok(Journal { socket })
    }

    /// Sends one entry. It is addressed each time, so that a journal that was started again gets it.
    pub(crate) fn send(&self, entry: &[u8]) -> io::Result<()> {
        match self.socket.send_to(entry, SOCKET) {
            Ok(_) => return Ok(()),
            // Too large for a datagram: a sealed file goes in its place.
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

/// Whether this process' stderr leads to the journal, as the manager says.
pub(crate) fn is_stderr() -> bool {
    let named = std::env::var(STREAM).unwrap_or_default();
    descriptors::identity(io::stderr()).is_ok_and(|identity| is(&named, identity))
}

/// Whether the stderr of another process does.
pub(crate) fn is_stderr_of(pid: u32, named: &str) -> bool {
    let file = std::fs::metadata(format!("/proc/{pid}/fd/2"));
    file.is_ok_and(|file| is(named, (file.dev(), file.ino())))
}

fn is(named: &str, (device, inode): (u64, u64)) -> bool {
    named
        .split_once(':')
        .is_some_and(|(dev, ino)| dev.parse() == Ok(device) && ino.parse() == Ok(inode))
}
