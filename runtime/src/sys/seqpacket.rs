//! `AF_UNIX` `SOCK_SEQPACKET` sockets (unix(7)): whole packets, in order, with descriptors.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};

use tokio::io::{Interest, unix::AsyncFd};

/// The largest packet in bytes. A larger one is refused on both ends.
pub(crate) const MAX_PACKET: usize = 128 * 1024;

/// The most descriptors in one packet (the kernel's `SCM_MAX_FD` is 253).
pub(crate) const MAX_DESCRIPTORS: usize = 250;

/// One packet.
pub(crate) struct Packet {
    pub(crate) bytes: Vec<u8>,
    pub(crate) descriptors: Vec<OwnedFd>,
}

/// A connected pair; both ends are close-on-exec.
pub(crate) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

/// Makes the socket non-blocking and watches it by the current Tokio runtime.
pub(crate) fn register(socket: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    super::descriptors::set_nonblocking(&socket)?;
    let interest = Interest::READABLE | Interest::WRITABLE;
    // SAFETY: an `OwnedFd` is the same open descriptor for as long as it lives, and it is dropped by
    // the registration or after it.
    Ok(unsafe { AsyncFd::register_with_interest(socket, interest) }?)
}

/// Sends one packet, whole or not at all.
pub(crate) fn send(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    send_flagged(socket, bytes, fds, SendFlags::NOSIGNAL)
}

/// As [`send`], without descriptors and without waiting for room, whatever the socket's flags.
pub(crate) fn offer(socket: impl AsFd, bytes: &[u8]) -> io::Result<()> {
    send_flagged(socket, bytes, &[], SendFlags::NOSIGNAL | SendFlags::DONTWAIT)
}

fn send_flagged(
    socket: impl AsFd,
    bytes: &[u8],
    fds: &[BorrowedFd<'_>],
    flags: SendFlags,
) -> io::Result<()> {
    let refused = |why: String| Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    if bytes.is_empty() {
        return refused("an empty message looks like an end".into());
    }
    if bytes.len() > MAX_PACKET {
        return refused(format!("the message has {} bytes and may have {MAX_PACKET}", bytes.len()));
    }
    if fds.len() > MAX_DESCRIPTORS {
        let count = fds.len();
        return refused(format!(
            "{count} descriptors are more than the {MAX_DESCRIPTORS} of a message"
        ));
    }
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors"));
    }
    let parts = [IoSlice::new(bytes)];
    rustix::io::retry_on_intr(|| rustix::net::sendmsg(&socket, &parts, &mut control, flags))?;
    Ok(())
}

/// Receives one packet. `None`: the other end is gone.
///
/// A packet or descriptor list that did not fit is an error: nothing is read in part.
pub(crate) fn receive(socket: impl AsFd) -> io::Result<Option<Packet>> {
    // As long as the packet is: the supervisor lives long and its heap should stay small.
    let peeked = rustix::io::retry_on_intr(|| {
        rustix::net::recv(&socket, &mut [0_u8; 0][..], RecvFlags::PEEK | RecvFlags::TRUNC)
    });
    let length = match peeked {
        Ok((_, length)) => length.min(MAX_PACKET),
        Err(rustix::io::Errno::CONNRESET) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let mut bytes = vec![0; length];
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::io::retry_on_intr(|| {
        rustix::net::recvmsg(
            &socket,
            &mut [IoSliceMut::new(&mut bytes)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        )
    });
    let received = match received {
        Ok(received) => received,
        Err(rustix::io::Errno::CONNRESET) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            descriptors.extend(fds);
        }
    }
    if received.flags.contains(ReturnFlags::TRUNC) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is larger than 128 KiB"));
    }
    if received.flags.contains(ReturnFlags::CTRUNC) {
        let why = "its descriptors did not arrive: this process has too many open (RLIMIT_NOFILE), \
                   or there were more than 250";
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    if received.bytes == 0 {
        if !hung_up(&socket)? {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is empty"));
        }
        return Ok(None);
    }
    bytes.truncate(received.bytes);
    Ok(Some(Packet { bytes, descriptors }))
}

/// Whether the other end is gone, which an empty packet looks like.
fn hung_up(socket: impl AsFd) -> io::Result<bool> {
    let mut fds = [PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::RDHUP)];
    rustix::io::retry_on_intr(|| poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })))?;
    Ok(!fds[0].revents().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn carries_bytes_and_descriptors() {
        let (a, b) = pair().unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        send(&a, b"one", &[file.as_fd(), file.as_fd()]).unwrap();
        send(&a, b"two", &[]).unwrap();
        let one = receive(&b).unwrap().unwrap();
        assert_eq!((one.bytes.as_slice(), one.descriptors.len()), (&b"one"[..], 2));
        assert_eq!(receive(&b).unwrap().unwrap().bytes, b"two");
        drop(a);
        assert!(receive(&b).unwrap().is_none());
    }

    #[test]
    fn an_empty_packet_is_no_end() {
        let (a, b) = pair().unwrap();
        let empty = rustix::net::send(&a, b"", SendFlags::empty());
        assert_eq!(empty, Ok(0));
        send(&a, b"more", &[]).unwrap();
        assert_eq!(receive(&b).err().unwrap().kind(), io::ErrorKind::InvalidData);
        assert_eq!(receive(&b).unwrap().unwrap().bytes, b"more");
        drop(a);
        assert!(receive(&b).unwrap().is_none());
    }

    #[test]
    fn refuses_what_does_not_fit() {
        let (a, _b) = pair().unwrap();
        assert!(send(&a, &vec![0; MAX_PACKET + 1], &[]).is_err());
        assert!(send(&a, b"", &[]).is_err());
    }
}
