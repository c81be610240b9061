//! `AF_UNIX` `SOCK_SEQPACKET` sockets (unix(7)): packets that arrive whole and in order, with descriptors.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};

use tokio::io::unix::AsyncFd;

/// The largest packet in bytes; both ends refuse a larger one. Has to be below the default send buffer of a
/// socket (`net.core.wmem_default`, 208 KiB), into which a packet must fit.
pub(crate) const MAX_PACKET: usize = 128 * 1024;

/// The largest number of descriptors in a packet (the kernel's own limit, `SCM_MAX_FD`, is 253).
pub(crate) const MAX_DESCRIPTORS: usize = 250;

/// A received packet.
pub(crate) struct Packet {
    pub(crate) bytes: Vec<u8>,
    pub(crate) descriptors: Vec<OwnedFd>,
}

/// Creates a connected pair; both ends are close-on-exec.
pub(crate) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

/// Makes the socket non-blocking and registers it with the current Tokio runtime.
pub(crate) fn register(socket: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    super::descriptors::set_nonblocking(&socket)?;
    // Newer releases of Tokio ask for an unsafe call, because a type could return another descriptor later.
    // An `OwnedFd` always returns the same one, and is dropped with the registration.
    #[allow(deprecated, reason = "what replaces it is younger than the Tokio that is asked for")]
    AsyncFd::new(socket)
}

/// Sends one packet.
pub(crate) fn send(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    send_flagged(socket, bytes, fds, SendFlags::NOSIGNAL)
}

/// Like [`send`], without descriptors and without waiting for room, even on a blocking socket.
pub(crate) fn try_send(socket: impl AsFd, bytes: &[u8]) -> io::Result<()> {
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
        return refused(format!(
            "the message has {} bytes, more than the limit of {MAX_PACKET}",
            bytes.len()
        ));
    }
    if fds.len() > MAX_DESCRIPTORS {
        let count = fds.len();
        return refused(format!(
            "{count} descriptors exceed the limit of {MAX_DESCRIPTORS} for a message"
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

/// Receives one packet. `None`: the other end is closed, and all its packets were received.
///
/// Fails if the packet or its descriptors did not fit: a part of a packet is never returned.
pub(crate) fn receive(socket: impl AsFd) -> io::Result<Option<Packet>> {
    let Some((packet, whole)) = receive_some(socket)? else { return Ok(None) };
    if !whole {
        let why = "its descriptors were not received; this process has too many open \
                   (RLIMIT_NOFILE), or more than 250 were sent";
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    Ok(Some(packet))
}

/// Like [`receive`], but without an error if this process has too many descriptors open: as many as fit
/// arrive, in order.
pub(crate) fn receive_what_fits(socket: impl AsFd) -> io::Result<Option<Packet>> {
    Ok(receive_some(socket)?.map(|(packet, _)| packet))
}

/// Receives one packet; also returns whether it has all its descriptors.
fn receive_some(socket: impl AsFd) -> io::Result<Option<(Packet, bool)>> {
    // Allocate the length of this packet, not the maximum: the heap of the long-lived supervisor stays small.
    let (_, length) = retry_after_reset(|| {
        rustix::net::recv(&socket, &mut [0_u8; 0][..], RecvFlags::PEEK | RecvFlags::TRUNC)
    })?;
    let length = length.min(MAX_PACKET);
    let mut bytes = vec![0; length];
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = retry_after_reset(|| {
        rustix::net::recvmsg(
            &socket,
            &mut [IoSliceMut::new(&mut bytes)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        )
    })?;
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            descriptors.extend(fds);
        }
    }
    if received.flags.contains(ReturnFlags::TRUNC) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is larger than 128 KiB"));
    }
    if received.bytes == 0 {
        if !hung_up(&socket)? {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is empty"));
        }
        return Ok(None);
    }
    bytes.truncate(received.bytes);
    let whole = !received.flags.contains(ReturnFlags::CTRUNC);
    Ok(Some((Packet { bytes, descriptors }, whole)))
}

/// Receives again after the socket has reported a reset.
///
/// If the peer is gone and left packets unread, the kernel reports ECONNRESET before the packets that the
/// peer had sent. It does so once: these packets follow, and then the end.
fn retry_after_reset<T>(
    mut receive: impl FnMut() -> rustix::io::Result<T>,
) -> rustix::io::Result<T> {
    match rustix::io::retry_on_intr(&mut receive) {
        Err(rustix::io::Errno::CONNRESET) => rustix::io::retry_on_intr(receive),
        received => received,
    }
}

/// Returns whether the other end is closed, which otherwise looks like an empty packet.
fn hung_up(socket: impl AsFd) -> io::Result<bool> {
    let mut fds = [PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::RDHUP)];
    rustix::io::retry_on_intr(|| poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })))?;
    Ok(!fds[0].revents().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_descriptors_arrive() {
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

    /// The packets of a peer are received although it is gone and has left ours unread.
    #[test]
    fn packets_of_dead_peer_arrive_before_end() {
        for unheard in 1..=3 {
            let (a, b) = pair().unwrap();
            for _ in 0..=unheard {
                send(&a, b"asked", &[]).unwrap();
            }
            receive(&b).unwrap().unwrap();
            send(&b, b"answered", &[]).unwrap();
            send(&b, b"twice", &[]).unwrap();
            drop(b);
            assert_eq!(receive(&a).unwrap().unwrap().bytes, b"answered");
            assert_eq!(receive(&a).unwrap().unwrap().bytes, b"twice");
            assert!(receive(&a).unwrap().is_none());
            assert!(receive(&a).unwrap().is_none());
        }
    }

    /// A failed send consumes the report of the reset, but not the packets of the peer.
    #[test]
    fn packets_of_dead_peer_arrive_after_failed_send() {
        let (a, b) = pair().unwrap();
        send(&a, b"asked", &[]).unwrap();
        send(&b, b"answered", &[]).unwrap();
        drop(b);
        assert!(send(&a, b"asked again", &[]).is_err());
        assert_eq!(receive(&a).unwrap().unwrap().bytes, b"answered");
        assert!(receive(&a).unwrap().is_none());
    }

    #[test]
    fn empty_packet_is_not_the_end() {
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
    fn oversized_and_empty_packets_are_refused() {
        let (a, _b) = pair().unwrap();
        assert!(send(&a, &vec![0; MAX_PACKET + 1], &[]).is_err());
        assert!(send(&a, b"", &[]).is_err());
    }
}
