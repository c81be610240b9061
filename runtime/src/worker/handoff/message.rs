//! The messages on a handoff channel: batches of connections one way, acknowledgements the other way.
//!
//! A batch holds its connections one after the other: for each the lengths of header and bytes, the header
//! ([`Payload`] as JSON), and the bytes. The descriptors are sent with the message, in the same order.
//! Messages carry no number, because both ends count them: the receiver can answer even a message that it
//! cannot parse.
//!
//! The receiver sends [`GREETING`] first, which names this format. The sender sends nothing to a release with
//! another greeting.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use super::channel::HandoffOutcome;
use crate::json::{self, FromJson, ToJson};

/// The first message of the receiver. Its number changes with the format.
pub(super) const GREETING: &[u8] = b"unbroken handoff 1";

/// The most bytes that are sent with a connection; one with more is not handed off. Half of a packet, which
/// leaves room for the header.
pub(crate) const MAX_BYTES: usize = 64 * 1024;

/// A connection that is handed off.
#[derive(Debug)]
pub(crate) struct Handoff<S> {
    pub(crate) contents: Payload,
    /// The beginning of the next request, or the application's state.
    pub(crate) bytes: Vec<u8>,
    pub(crate) socket: S,
}

/// The kind of a connection, and what the next generation has to know about it.
#[derive(Debug, Clone, PartialEq, Eq, ToJson, FromJson)]
#[json(tag = "type", rename_all = "kebab-case")]
pub(crate) enum Payload {
    /// HTTP/1.1 between two requests; the bytes are the beginning of the next one. The socket is a
    /// non-blocking stream.
    Http {
        /// The name of the listener that accepted it.
        listener: String,
        /// The peer's TCP address; `None` for a unix socket.
        #[json(default)]
        peer: Option<SocketAddr>,
        /// The path of a unix peer.
        #[json(default)]
        path: Option<PathBuf>,
        /// When it was accepted, in nanoseconds of `CLOCK_MONOTONIC`.
        #[json(default)]
        accepted: u64,
        /// The number of requests it has sent.
        #[json(default)]
        requests: u64,
        /// When it began to wait for its next request, or for the rest of one, in nanoseconds of
        /// `CLOCK_MONOTONIC`. Zero means now.
        #[json(default)]
        since: u64,
        /// The idle time after which TCP sends keepalive probes, in nanoseconds. Zero means never.
        #[json(default)]
        tcp_keepalive: u64,
    },
    /// A connection of the application; the bytes are its state.
    Own {
        /// The name given to `Daemon::hand_off`.
        name: String,
        /// The version of the state.
        version: u32,
    },
    /// A kind that only a later release knows.
    #[json(other)]
    Unknown,
}

/// The receiver of a connection within a worker: the key of its handler.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum HandoffTarget {
    /// The HTTP server of this listener.
    #[cfg(feature = "http")]
    Listener(String),
    /// The application's [`IncomingHandoffs`](super::IncomingHandoffs) of this name.
    Own(String),
}

impl Payload {
    /// Returns whether the receiver acknowledges it at once. An application may take its time.
    pub(super) fn is_prompt(&self) -> bool {
        matches!(self, Payload::Http { .. })
    }

    /// Returns the key of the handler for it; `None` if this build cannot have one.
    pub(crate) fn place(&self) -> Option<HandoffTarget> {
        match self {
            #[cfg(feature = "http")]
            Payload::Http { listener, .. } => Some(HandoffTarget::Listener(listener.clone())),
            #[cfg(not(feature = "http"))]
            Payload::Http { .. } => None,
            Payload::Own { name, .. } => Some(HandoffTarget::Own(name.clone())),
            Payload::Unknown => None,
        }
    }
}

/// Appends a connection to a batch.
pub(super) fn append(message: &mut Vec<u8>, contents: &Payload, bytes: &[u8]) -> io::Result<()> {
    let header = json::to_vec(contents)?;
    let length = |of: &[u8]| u32::try_from(of.len()).map_err(io::Error::other);
    let lengths = [length(&header)?, length(bytes)?];
    message.extend(lengths.into_iter().flat_map(u32::to_le_bytes));
    message.extend_from_slice(&header);
    message.extend_from_slice(bytes);
    Ok(())
}

/// Parses a batch into its connections, in order. A connection whose header cannot be parsed has no payload.
/// Returns `None` if the message is not a batch.
pub(super) fn read(mut message: &[u8]) -> Option<Vec<(Option<Payload>, &[u8])>> {
    let mut connections = Vec::new();
    while !message.is_empty() {
        let (header, rest) = message.split_first_chunk::<4>()?;
        let (bytes, rest) = rest.split_first_chunk::<4>()?;
        let length = |length: &[u8; 4]| usize::try_from(u32::from_le_bytes(*length)).ok();
        let (header, rest) = rest.split_at_checked(length(header)?)?;
        let (bytes, rest) = rest.split_at_checked(length(bytes)?)?;
        connections.push((json::from_slice(header).ok(), bytes));
        message = rest;
    }
    Some(connections)
}

/// The acknowledgement of one connection, or of all in a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ack {
    /// The number of the batch, counted from 0.
    pub(super) message: u64,
    /// The place of the connection in the batch; `None` means all that are not acknowledged yet.
    pub(super) index: Option<u16>,
    pub(super) outcome: HandoffOutcome,
}

/// The length of an acknowledgement: outcome (1 byte), batch (8), connection (2).
const ACK_LEN: usize = 11;

/// The index that means all connections of the batch. No batch has that many.
const ALL: u16 = u16::MAX;

/// The most answers in a message, so that it fits a packet.
pub(super) const MAX_ANSWERS: usize = 1024;

/// Appends an acknowledgement to a message.
pub(super) fn append_ack(message: &mut Vec<u8>, answer: Ack) {
    message.push(answer.outcome.byte());
    message.extend(answer.message.to_le_bytes());
    message.extend(answer.index.unwrap_or(ALL).to_le_bytes());
}

/// Parses a message of acknowledgements. Returns `None` if it is none.
pub(super) fn read_acks(message: &[u8]) -> Option<impl Iterator<Item = Ack>> {
    let (answers, rest) = message.as_chunks::<ACK_LEN>();
    rest.is_empty().then(|| {
        answers.iter().map(|&[outcome, message @ .., low, high]| {
            let index = u16::from_le_bytes([low, high]);
            Ack {
                message: u64::from_le_bytes(message),
                index: (index != ALL).then_some(index),
                outcome: HandoffOutcome::of(outcome),
            }
        })
    })
}

/// Asserts that whatever is parsed from `message` parses to the same after being written again. For tests
/// and fuzzing.
#[cfg(any(test, fuzzing))]
pub(crate) fn roundtrip(message: &[u8]) {
    if let Some(answers) = read_acks(message) {
        let mut again = Vec::new();
        answers.for_each(|answer| append_ack(&mut again, answer));
        assert_eq!(again.len(), message.len());
    }
    let Some(connections) = read(message) else { return };
    // A payload of a later release cannot be written again.
    let known = |(contents, bytes): (Option<Payload>, _)| {
        contents.filter(|it| *it != Payload::Unknown).map(|it| (it, bytes))
    };
    let sent: Vec<_> = connections.into_iter().filter_map(known).collect();
    let mut again = Vec::new();
    for (contents, bytes) in &sent {
        assert!(append(&mut again, contents, bytes).is_ok(), "{contents:?}");
    }
    let received = read(&again).unwrap_or_default();
    let received: Vec<_> = received.into_iter().filter_map(known).collect();
    assert_eq!(received, sent);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn contents() -> impl Strategy<Value = Payload> {
        prop_oneof![
            ("[a-z]{1,9}", any::<Option<(std::net::IpAddr, u16)>>(), any::<(u64, u64, u64)>())
                .prop_map(|(listener, peer, (accepted, requests, since))| Payload::Http {
                    listener,
                    peer: peer.map(SocketAddr::from),
                    path: None,
                    accepted,
                    requests,
                    since,
                    tcp_keepalive: requests,
                }),
            (".{0,9}", any::<u32>()).prop_map(|(name, version)| Payload::Own { name, version }),
        ]
    }

    proptest! {
        #[test]
        fn batch_roundtrips(
            sent in prop::collection::vec(
                (contents(), prop::collection::vec(any::<u8>(), 0..99)), 0..9
            )
        ) {
            let mut message = Vec::new();
            for (contents, bytes) in &sent {
                append(&mut message, contents, bytes).unwrap();
            }
            let received = read(&message).unwrap().into_iter();
            let received: Vec<_> =
                received.map(|(contents, bytes)| (contents.unwrap(), bytes.to_vec())).collect();
            prop_assert_eq!(received, sent);
        }

        #[test]
        fn garbage_does_not_panic(message in prop::collection::vec(any::<u8>(), 0..300)) {
            roundtrip(&message);
        }

        #[test]
        fn acknowledgements_roundtrip(
            sent in prop::collection::vec(
                (any::<u64>(), any::<Option<u16>>(), prop::sample::select(&HandoffOutcome::ALL[..])), 0..9
            )
        ) {
            let sent: Vec<_> = sent
                .into_iter()
                .map(|(message, index, outcome)| {
                    Ack { message, index: index.filter(|index| *index != ALL), outcome }
                })
                .collect();
            let mut message = Vec::new();
            sent.iter().for_each(|answer| append_ack(&mut message, *answer));
            prop_assert_eq!(read_acks(&message).unwrap().collect::<Vec<_>>(), sent);
        }
    }

    /// A path that is not UTF-8 cannot be written as JSON.
    #[test]
    fn failed_append_leaves_batch_unchanged() {
        use std::os::unix::ffi::OsStringExt;
        let own = Payload::Own { name: "a".into(), version: 1 };
        let mut message = Vec::new();
        append(&mut message, &own, b"b").unwrap();
        let path = Some(std::ffi::OsString::from_vec(vec![0xff]).into());
        let odd = Payload::Http {
            listener: "a".into(),
            peer: None,
            path,
            accepted: 0,
            requests: 0,
            since: 0,
            tcp_keepalive: 0,
        };
        assert!(append(&mut message, &odd, b"c").is_err());
        append(&mut message, &own, b"d").unwrap();
        let read = read(&message).unwrap();
        assert_eq!(read, [(Some(own.clone()), &b"b"[..]), (Some(own), &b"d"[..])]);
    }

    /// Additions of a later release do not keep the other connections of a batch from being parsed.
    #[test]
    fn unknown_fields_are_ignored() {
        let mut message = Vec::new();
        for header in [
            &br#"{"type":"quic","mood":"calm"}"#[..],
            br#"{"type":"own","name":"a","version":"two"}"#,
            br#"{"type":"own","name":"a","version":2,"mood":"calm"}"#,
        ] {
            message.extend(u32::try_from(header.len()).unwrap().to_le_bytes());
            message.extend(1_u32.to_le_bytes());
            message.extend([header, b"x"].concat());
        }
        let known = Payload::Own { name: "a".into(), version: 2 };
        let contents: Vec<_> = read(&message).unwrap().into_iter().map(|it| it.0).collect();
        assert_eq!(contents, [Some(Payload::Unknown), None, Some(known)]);
        assert_eq!(read(b"{\"type\":\"another frame\"}"), None);
    }

    #[test]
    fn malformed_acknowledgement_is_rejected() {
        assert!(read_acks(b"+1234567").is_none());
        assert_eq!(HandoffOutcome::of(b'!'), HandoffOutcome::Unknown);
    }
}
