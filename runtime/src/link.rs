//! The protocol of the supervisor link: the messages between a supervisor and its workers.
//!
//! The link is a socketpair of type `SOCK_SEQPACKET`. Each packet is one JSON object, with descriptors as
//! ancillary data. The two ends may be different releases: unknown fields are ignored; an unknown message is
//! answered with [`FromWorker::Error`] or [`ToWorker::Error`] and changes nothing.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::config::Configuration;
use crate::json::{self, FromJson, ToJson};
use crate::listener::ListenerSource;
use crate::sys::seqpacket;

/// The latest version of the protocol that this release understands.
pub(crate) const PROTOCOL: u32 = 1;

/// The most bytes of a reason; [`cut`] removes the rest.
///
/// `status` shows the reasons of the last restarts in one packet of 128 KiB: with a much higher
/// limit they would not fit. With a lower one the cure at the end of a long reason, as of several
/// mistakes in a configuration, would be lost.
pub(crate) const MAX_REASON: usize = 2000;

/// The most bytes of a worker's status line. It is lower than [`MAX_REASON`] because `status` shows
/// one for each worker, in the same packet.
pub(crate) const MAX_STATUS: usize = 1000;

/// Cuts a text to at most `bytes`, and marks where.
pub(crate) fn cut(text: &mut String, bytes: usize) {
    if text.len() > bytes {
        let end = (0..=bytes).rev().find(|end| text.is_char_boundary(*end));
        text.truncate(end.unwrap_or(0));
        text.push('…');
    }
}

/// A message from a worker to its supervisor.
#[derive(Debug, ToJson, FromJson)]
#[json(tag = "type", rename_all = "kebab-case")]
pub(crate) enum FromWorker {
    /// The forked child could not become the program.
    ExecFailed { reason: String },
    /// *Hello*, the first message of a worker that runs its image.
    Hello {
        protocol: Protocols,
        /// The release of this library in the worker.
        release: String,
        /// The settings that the worker has computed; `None` from a respawned worker, which gets those of its
        /// generation.
        #[json(default)]
        configuration: Option<Box<Configuration>>,
    },
    /// The worker's settings cannot be computed.
    Misconfigured { reason: String },
    /// The user that the worker runs as from now on, if its settings name one. Sent before user code runs.
    Settled { uid: u32, gid: u32, groups: Vec<u32> },
    /// The worker is ready: it could serve.
    Ready {},
    /// The worker is about to exit, for this reason.
    Failing { reason: String },
    /// The program accepts on all its listeners but some that only the operator has declared, and has not
    /// claimed those.
    Unclaimed {
        reason: String,
        /// Whether their names look like misspelt names of other listeners.
        #[json(default)]
        slip: bool,
    },
    /// The worker drains on its own.
    Leaving {
        /// Whether because its `main` ended while it was paused; else because it got SIGTERM.
        #[json(default)]
        main_ended: bool,
    },
    /// The program should not serve.
    Unhealthy { reason: String },
    /// The program asks to be confirmed before the confirm window is over.
    Confirm {},
    /// A health check that must pass within the confirm window has begun, or has passed.
    Check { passed: bool },
    /// The runtime answers a *ping*.
    Pong {},
    /// The program's text for `status`.
    Status { text: String },
    /// The first message of an orphan to the supervisor that takes it over. Its descriptors are the
    /// counters, a pidfd of the worker, then one for each listener.
    Orphan {
        protocol: Protocols,
        /// The release of this library in the worker.
        release: String,
        generation: u32,
        /// Whether it must end before another worker begins.
        #[json(default)]
        exclusive: bool,
        listeners: Vec<OrphanedListener>,
    },
    /// The last message was not understood.
    Error { message: String },
    /// A message of a later release.
    #[json(other)]
    Unknown,
}

/// A message from a supervisor to a worker.
#[derive(Debug, ToJson, FromJson)]
#[json(tag = "type", rename_all = "kebab-case")]
pub(crate) enum ToWorker {
    /// *Welcome*, the answer to *hello*. Its descriptors are the counters, then one for each listener.
    Welcome {
        generation: u32,
        configuration: Box<Configuration>,
        listeners: Vec<ListenerHandle>,
        /// Whether there is one more descriptor: the socket at which the worker waits for the next
        /// supervisor if this one is killed.
        #[json(default)]
        reattaches: bool,
    },
    /// Start to accept.
    Go {},
    /// Pause: stop accepting, but be able to resume.
    Quiesce {
        /// The listeners, by name, on which to keep accepting because the new generation does not have them.
        #[json(default)]
        keep: Vec<String>,
    },
    /// Accept again after a pause.
    Resume {},
    /// Finish what is in flight, then exit.
    Drain {
        /// The drain deadline, in nanoseconds of `CLOCK_MONOTONIC`.
        deadline: u64,
        /// Whether no other worker takes over.
        #[json(default)]
        last: bool,
        /// The listeners, by name, of which this worker has the last copies: it accepts what is queued
        /// before it closes them.
        #[json(default)]
        finish: Vec<String>,
        /// The addresses at which this holds, as a listener can have several; all if empty.
        #[json(default)]
        finish_at: Vec<crate::config::Address>,
    },
    /// The descriptor replaces a unix listener of the worker whose file was removed. The worker accepts
    /// what is queued at the old socket first.
    Rebound { name: String, addr: crate::config::Address },
    /// Have the runtime answer with *pong*.
    Ping {},
    /// The descriptor is the sending end of a handoff channel to the worker that serves.
    Successor {},
    /// The descriptor is the receiving end of a handoff channel from a worker that drains.
    Predecessor {},
    /// The descriptor replaces stdout and stderr, after the log was opened again.
    Reopen {},
    /// The last message was not understood.
    Error { message: String },
    /// A message of a later release.
    #[json(other)]
    Unknown,
}

/// The range of protocol versions that a release understands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ToJson, FromJson)]
pub(crate) struct Protocols {
    pub(crate) min: u32,
    pub(crate) max: u32,
}

impl Protocols {
    /// The range that this release understands.
    pub(crate) const OURS: Protocols = Protocols { min: 1, max: PROTOCOL };

    /// Returns whether two releases have a version in common.
    pub(crate) fn overlaps(self, other: Protocols) -> bool {
        self.min <= other.max && other.min <= self.max
    }
}

/// A listener in a *welcome*, whose descriptor is sent with the message. A name may have several.
#[derive(Debug, Clone, ToJson, FromJson)]
pub(crate) struct ListenerHandle {
    pub(crate) name: String,
    /// The address, with the actual port if the kernel chose it.
    pub(crate) addr: crate::config::Address,
    #[json(default)]
    pub(crate) source: ListenerSource,
}

/// A listener that an orphan hands to the next supervisor.
#[derive(Debug, Clone, ToJson, FromJson)]
pub(crate) struct OrphanedListener {
    pub(crate) name: String,
    /// The address, with the actual port if the kernel chose it.
    pub(crate) addr: crate::config::Address,
    /// The settings as declared.
    pub(crate) settings: crate::config::ListenSettings,
    #[json(default)]
    pub(crate) source: ListenerSource,
}

/// Sends a message with descriptors.
pub(crate) fn send(
    socket: impl AsFd,
    message: &dyn ToJson,
    fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    seqpacket::send(socket, &json::to_vec(message)?, fds)
}

/// Sends a message if there is room for it now.
pub(crate) fn try_send(socket: impl AsFd, message: &dyn ToJson) -> io::Result<()> {
    seqpacket::try_send(socket, &json::to_vec(message)?)
}

/// A received message and its descriptors.
pub(crate) type Received<M> = (M, Vec<OwnedFd>);

/// Receives a message; `None` if the other end is closed. A packet that is not a message of this protocol
/// is an error of kind `InvalidData`.
pub(crate) fn receive<M: FromJson>(socket: impl AsFd) -> io::Result<Option<Received<M>>> {
    let Some(packet) = seqpacket::receive(socket)? else { return Ok(None) };
    Ok(Some((decode(&packet.bytes)?, packet.descriptors)))
}

/// Decodes the message in a packet.
pub(crate) fn decode<M: FromJson>(packet: &[u8]) -> Result<M, json::Mistake> {
    json::from_slice(packet)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_releases_are_understood_as_far_as_possible() {
        let (a, b) = seqpacket::pair().unwrap();
        seqpacket::send(&a, br#"{"type":"drain","deadline":5,"mood":"calm"}"#, &[]).unwrap();
        seqpacket::send(&a, br#"{"type":"dance","tempo":120}"#, &[]).unwrap();
        seqpacket::send(&a, b"\xff\x00", &[]).unwrap();
        let (drain, _) = receive::<ToWorker>(&b).unwrap().unwrap();
        assert!(
            matches!(drain, ToWorker::Drain { deadline: 5, last: false, finish, .. } if finish.is_empty())
        );
        let (unknown, _) = receive::<ToWorker>(&b).unwrap().unwrap();
        assert!(matches!(unknown, ToWorker::Unknown));
        assert_eq!(receive::<ToWorker>(&b).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn protocols_meet_where_the_ranges_overlap() {
        let meets = |min, max| Protocols { min: 2, max: 3 }.overlaps(Protocols { min, max });
        assert!(meets(1, 2) && meets(3, 9) && meets(2, 3));
        assert!(!meets(1, 1) && !meets(4, 5));
    }
}
