//! The messages between a supervisor and its workers: one JSON object a packet, descriptors beside it.
//!
//! The two ends may be different releases. Unknown fields are ignored; an unknown message is answered
//! with [`FromWorker::Error`] or [`ToWorker::Error`] and changes nothing.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::config::Configuration;
use crate::json::{self, FromJson, ToJson};
use crate::listener::ListenerSource;
use crate::sys::seqpacket;

/// The protocol this release speaks.
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

/// What a worker says.
#[derive(Debug, ToJson, FromJson)]
#[json(tag = "type", rename_all = "kebab-case")]
pub(crate) enum FromWorker {
    /// The forked child could not become the program.
    ExecFailed { reason: String },
    /// The newcomer introduces itself. A respawn gets its generation's settings and sends none.
    Hello {
        protocol: Protocols,
        release: String,
        #[json(default)]
        configuration: Option<Box<Configuration>>,
    },
    /// Its settings cannot be computed: why.
    Misconfigured { reason: String },
    /// Whom it runs as from now on: before user code, and where the settings say so.
    Settled { uid: u32, gid: u32, groups: Vec<u32> },
    /// It could serve.
    Ready {},
    /// Why it is about to end.
    Failing { reason: String },
    /// Of all listeners it accepts on all but some that only the operator has declared, and has not taken
    /// those. `slip`: by their names they are others, misspelt.
    Unclaimed {
        reason: String,
        #[json(default)]
        slip: bool,
    },
    /// It drains on its own: because it got SIGTERM, or because its `main` ended while it was quiesced.
    Leaving {
        #[json(default)]
        main_ended: bool,
    },
    /// It should not serve.
    Unhealthy { reason: String },
    /// It needs no confirm window.
    Confirm {},
    /// A check has to pass within the confirm window, or has passed.
    Check { passed: bool },
    /// The runtime runs.
    Pong {},
    /// A text for `status`.
    Status { text: String },
    /// To a supervisor that did not spawn it: its own is gone. Descriptors: the counters, the process, then
    /// one for each listener.
    Orphan {
        protocol: Protocols,
        release: String,
        generation: u32,
        /// It has to be gone before another one begins.
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

/// What a worker is told.
#[derive(Debug, ToJson, FromJson)]
#[json(tag = "type", rename_all = "kebab-case")]
pub(crate) enum ToWorker {
    /// The answer to *hello*. Descriptors: the counters, then one for each listener.
    Welcome {
        generation: u32,
        configuration: Box<Configuration>,
        listeners: Vec<ListenerHandle>,
        /// One more descriptor: the socket at which the worker waits for the next supervisor.
        #[json(default)]
        rendezvous: bool,
    },
    /// Accept.
    Go {},
    /// Stop accepting.
    Quiesce {
        /// But on these, by name, which nobody else accepts on.
        #[json(default)]
        keep: Vec<String>,
    },
    /// Accept again.
    Resume {},
    /// Finish and exit by the deadline, in nanoseconds of `CLOCK_MONOTONIC`.
    Drain {
        deadline: u64,
        /// Nobody serves after this worker.
        #[json(default)]
        last: bool,
        /// The listeners, by name, of which the worker has the only copies: who waits at them is accepted
        /// before they are closed.
        #[json(default)]
        finish: Vec<String>,
        /// Where these are, if not everywhere: of several addresses some may stay.
        #[json(default)]
        finish_at: Vec<crate::config::Address>,
    },
    /// The descriptor is a listener in the place of one that the worker has, whose file was removed. Who waits
    /// at the old one is accepted first.
    Rebound { name: String, addr: crate::config::Address },
    /// Say that the runtime runs.
    Ping {},
    /// The descriptor leads to the generation that serves: pass connections to it.
    Successor {},
    /// The descriptor leads to a generation that drains: take what it passes.
    Predecessor {},
    /// The descriptor is the new stdout and stderr.
    Reopen {},
    /// The last message was not understood.
    Error { message: String },
    /// A message of a later release.
    #[json(other)]
    Unknown,
}

/// The range of protocols a release understands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ToJson, FromJson)]
pub(crate) struct Protocols {
    pub(crate) min: u32,
    pub(crate) max: u32,
}

impl Protocols {
    /// What this release understands.
    pub(crate) const OURS: Protocols = Protocols { min: 1, max: PROTOCOL };

    /// Whether two releases have a protocol in common.
    pub(crate) fn overlaps(self, other: Protocols) -> bool {
        self.min <= other.max && other.min <= self.max
    }
}

/// A listener as it is handed over; its descriptor travels beside the message. A name may have several, of
/// the service manager.
#[derive(Debug, Clone, ToJson, FromJson)]
pub(crate) struct ListenerHandle {
    pub(crate) name: String,
    /// With the port that the kernel chose.
    pub(crate) addr: crate::config::Address,
    #[json(default)]
    pub(crate) source: ListenerSource,
}

/// A listener that a worker hands to the next supervisor, with all that one has to know of it.
#[derive(Debug, Clone, ToJson, FromJson)]
pub(crate) struct OrphanedListener {
    pub(crate) name: String,
    /// With the port that the kernel chose.
    pub(crate) addr: crate::config::Address,
    /// As it was declared.
    pub(crate) settings: crate::config::ListenSettings,
    #[json(default)]
    pub(crate) source: ListenerSource,
}

/// Sends one message.
pub(crate) fn send(
    socket: impl AsFd,
    message: &dyn ToJson,
    fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    seqpacket::send(socket, &json::to_vec(message)?, fds)
}

/// Sends one message if there is room for it now.
pub(crate) fn try_send(socket: impl AsFd, message: &dyn ToJson) -> io::Result<()> {
    seqpacket::try_send(socket, &json::to_vec(message)?)
}

/// A received message with its descriptors.
pub(crate) type Received<M> = (M, Vec<OwnedFd>);

/// Receives one message. `None`: the other end is gone. What is not JSON of this protocol is an error
/// of kind `InvalidData`.
pub(crate) fn receive<M: FromJson>(socket: impl AsFd) -> io::Result<Option<Received<M>>> {
    let Some(packet) = seqpacket::receive(socket)? else { return Ok(None) };
    Ok(Some((decode(&packet.bytes)?, packet.descriptors)))
}

/// A packet's message.
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
