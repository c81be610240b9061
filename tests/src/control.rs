//! A connection to a daemon's control socket that the test drives packet by packet.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType,
};

/// The most descriptors that the kernel accepts in one packet (`SCM_MAX_FD`).
pub const MAX_DESCRIPTORS: usize = 253;

/// A client of the control socket that can send anything, valid or not.
#[derive(Debug)]
pub struct Control {
    socket: OwnedFd,
}

impl Control {
    /// Connects without waiting: a full accept queue is an error.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let kind = SocketType::SEQPACKET;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, kind, flags, None)?;
        rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
        Ok(Self { socket })
    }

    /// Sends one packet without waiting.
    pub fn send(&self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.send_with(bytes, &[])
    }

    /// Sends one packet with descriptors, without waiting.
    pub fn send_with(&self, bytes: impl AsRef<[u8]>, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        send(&self.socket, bytes.as_ref(), fds)
    }

    /// Receives the next packet. The packet is empty if the daemon has closed the connection.
    pub fn receive(&self, within: Duration) -> io::Result<Vec<u8>> {
        let within = Timespec::try_from(within).map_err(io::Error::other)?;
        let mut fds = [PollFd::new(&self.socket, PollFlags::IN)];
        if poll(&mut fds, Some(&within))? == 0 {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let mut bytes = vec![0; 256 * 1024];
        match rustix::net::recv(&self.socket, &mut bytes[..], RecvFlags::empty()) {
            Ok((length, _)) => bytes.truncate(length),
            Err(rustix::io::Errno::CONNRESET) => bytes.clear(),
            Err(error) => return Err(error.into()),
        }
        Ok(bytes)
    }

    /// Sends one packet and returns the answer.
    pub fn ask(&self, bytes: impl AsRef<[u8]>, within: Duration) -> io::Result<String> {
        self.send(bytes)?;
        Ok(String::from_utf8_lossy(&self.receive(within)?).into_owned())
    }
}

/// Sends one packet with descriptors over a `SOCK_SEQPACKET` socket, without waiting.
pub fn send(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    rustix::net::sendmsg(&socket, &[IoSlice::new(bytes)], &mut control, flags)?;
    Ok(())
}
