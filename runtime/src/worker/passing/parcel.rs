//! What travels between two generations: a descriptor, what is known of it, and bytes.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The most bytes that travel with a connection; one with more is not passed.
pub(crate) const MAX_BYTES: usize = 64 * 1024;

/// A connection on its way.
pub(crate) struct Parcel {
    pub(crate) contents: Contents,
    pub(crate) bytes: Vec<u8>,
    pub(crate) socket: OwnedFd,
}

/// What the next generation has to know of a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub(crate) enum Contents {
    /// HTTP/1.1 between two requests; the bytes are the beginning of the next one.
    Http {
        /// The listener it came by.
        listener: String,
        /// The peer's TCP address; `None` for a unix socket.
        #[serde(default)]
        peer: Option<SocketAddr>,
        /// The path of a unix peer.
        #[serde(default)]
        path: Option<PathBuf>,
        /// When it was accepted, in nanoseconds of `CLOCK_MONOTONIC`.
        #[serde(default)]
        accepted: u64,
        /// Requests it has sent.
        #[serde(default)]
        requests: u64,
        /// Since when it waits for the next one, or for the rest of it, in the same measure. Zero: now.
        #[serde(default)]
        since: u64,
    },
    /// One of the application's own; the bytes are its state.
    Own {
        name: String,
        /// Of the state.
        version: u32,
    },
    /// Of a later release.
    #[serde(other)]
    Unknown,
}

/// Who takes what comes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    /// The HTTP server of this listener.
    #[cfg(feature = "http")]
    Listener(String),
    /// The application, by this name.
    Own(String),
}

impl Contents {
    /// Who is to take it; `None` where nobody here can.
    pub(crate) fn place(&self) -> Option<Place> {
        match self {
            #[cfg(feature = "http")]
            Contents::Http { listener, .. } => Some(Place::Listener(listener.clone())),
            #[cfg(not(feature = "http"))]
            Contents::Http { .. } => None,
            Contents::Own { name, .. } => Some(Place::Own(name.clone())),
            Contents::Unknown => None,
        }
    }
}

#[derive(Serialize)]
struct HeaderOut<'a> {
    number: u64,
    #[serde(flatten)]
    contents: &'a Contents,
}

#[derive(Deserialize)]
struct HeaderIn {
    number: u64,
    #[serde(flatten)]
    contents: Contents,
}

/// The header's length in four bytes, the header in JSON, the bytes. `number` is for the answer.
pub(super) fn encode(number: u64, parcel: &Parcel) -> io::Result<Vec<u8>> {
    let header = serde_json::to_vec(&HeaderOut { number, contents: &parcel.contents })?;
    let length = u32::try_from(header.len()).map_err(io::Error::other)?;
    Ok([&length.to_le_bytes()[..], &header, &parcel.bytes].concat())
}

/// The parcel's number and contents; contents that cannot be taken are `None`.
pub(super) fn decode(packet: &[u8], socket: Option<OwnedFd>) -> Option<(u64, Option<Parcel>)> {
    let (length, rest) = packet.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
    let (header, bytes) = rest.split_at_checked(length)?;
    let HeaderIn { number, contents } = serde_json::from_slice(header).ok()?;
    let bytes = bytes.to_vec();
    Some((number, socket.map(|socket| Parcel { contents, bytes, socket })))
}

/// An answer: one byte of verdict and the number of what it answers.
pub(super) fn encode_answer(number: u64, verdict: u8) -> [u8; 9] {
    let mut packet = [verdict; 9];
    packet[1..].copy_from_slice(&number.to_le_bytes());
    packet
}

pub(super) fn decode_answer(packet: &[u8]) -> Option<(u64, u8)> {
    let (verdict, number) = packet.split_first()?;
    Some((u64::from_le_bytes(number.try_into().ok()?), *verdict))
}

/// A packet that is understood, sent again, is understood as the same.
#[cfg(any(test, fuzzing))]
pub(crate) fn survives_the_journey(packet: &[u8]) {
    let socket = || std::fs::File::open("/dev/null").ok().map(OwnedFd::from);
    let _ = decode_answer(packet);
    let Some((number, Some(parcel))) = decode(packet, socket()) else { return };
    // What a later release sends is not sent on.
    if parcel.contents == Contents::Unknown {
        return;
    }
    let again = encode(number, &parcel).ok().and_then(|packet| decode(&packet, socket()));
    let again = again.and_then(|(number, parcel)| Some((number, parcel?)));
    let again = again.map(|(number, parcel)| (number, parcel.contents, parcel.bytes));
    assert_eq!(again, Some((number, parcel.contents, parcel.bytes)));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn null() -> OwnedFd {
        std::fs::File::open("/dev/null").unwrap().into()
    }

    fn contents() -> impl Strategy<Value = Contents> {
        prop_oneof![
            ("[a-z]{1,9}", any::<Option<(std::net::IpAddr, u16)>>(), any::<(u64, u64, u64)>())
                .prop_map(|(listener, peer, (accepted, requests, since))| Contents::Http {
                    listener,
                    peer: peer.map(SocketAddr::from),
                    path: None,
                    accepted,
                    requests,
                    since,
                }),
            (".{0,9}", any::<u32>()).prop_map(|(name, version)| Contents::Own { name, version }),
        ]
    }

    proptest! {
        #[test]
        fn a_parcel_survives_the_journey(
            number: u64, contents in contents(), bytes in prop::collection::vec(any::<u8>(), 0..99)
        ) {
            let sent = Parcel { contents, bytes, socket: null() };
            let packet = encode(number, &sent).unwrap();
            let (same, parcel) = decode(&packet, Some(null())).unwrap();
            let parcel = parcel.unwrap();
            prop_assert_eq!(same, number);
            prop_assert_eq!((parcel.contents, parcel.bytes), (sent.contents, sent.bytes));
        }

        #[test]
        fn garbage_is_refused(packet in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode(&packet, Some(null()));
            let _ = decode_answer(&packet);
        }

        #[test]
        fn an_answer_survives_too(number: u64, verdict: u8) {
            let packet = encode_answer(number, verdict);
            prop_assert_eq!(decode_answer(&packet), Some((number, verdict)));
        }
    }

    /// What a later release adds is not understood, but answered.
    #[test]
    fn of_a_later_release() {
        let header = br#"{"number":7,"type":"quic","mood":"calm"}"#;
        let packet = [&u32::try_from(header.len()).unwrap().to_le_bytes()[..], header].concat();
        let (number, parcel) = decode(&packet, Some(null())).unwrap();
        assert_eq!((number, parcel.unwrap().contents), (7, Contents::Unknown));
        let (number, parcel) = decode(&packet, None).unwrap();
        assert!(number == 7 && parcel.is_none());
    }
}
