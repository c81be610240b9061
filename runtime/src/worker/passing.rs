//! Passing live connections to the generation that serves now.
//!
//! The supervisor opens a channel between two workers, an `AF_UNIX` `SOCK_SEQPACKET` pair, and is not
//! involved any further. Each packet is one connection: a header, the bytes that were read and not yet
//! understood, and the descriptor. Each is answered in order by one byte, taken or refused. The sender
//! keeps its own descriptor until then: a successor that dies, or has no descriptor left, costs nobody
//! a connection, as what is not taken goes on where it was.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};

use super::state::State;
use crate::sys::seqpacket;

/// Connections sent and not yet answered.
const IN_FLIGHT: usize = 64;

/// The most unread bytes that travel with a connection; one with more is not passed.
pub(super) const MAX_BYTES: usize = 64 * 1024;

const TAKEN: u8 = b'+';
const REFUSED: u8 = b'-';

/// What the next generation has to know of a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Header {
    /// The listener it came by.
    pub(super) listener: String,
    /// The peer's TCP address; `None` for a unix socket.
    #[serde(default)]
    pub(super) peer: Option<std::net::SocketAddr>,
    /// The path of a unix peer.
    #[serde(default)]
    pub(super) path: Option<std::path::PathBuf>,
    /// When it was accepted, in nanoseconds of `CLOCK_MONOTONIC`.
    #[serde(default)]
    pub(super) accepted: u64,
    /// Requests it has sent.
    #[serde(default)]
    pub(super) requests: u64,
}

/// A connection on its way.
pub(super) struct Parcel {
    pub(super) header: Header,
    pub(super) bytes: Vec<u8>,
    pub(super) socket: OwnedFd,
}

/// Takes a connection for a listener, or refuses it; what is returned begins to serve it.
pub(super) type Adopter =
    Arc<dyn Fn(Parcel) -> Option<Box<dyn FnOnce() + Send>> + Send + Sync + 'static>;

/// A way to the generation that serves.
#[derive(Clone)]
pub(super) struct Successor {
    /// Tells one successor from the next.
    pub(super) number: u64,
    parcels: mpsc::Sender<(Parcel, oneshot::Sender<()>)>,
}

impl Successor {
    /// Hands a connection over. `Err`: it was not taken and goes on here.
    pub(super) async fn pass(&self, parcel: Parcel) -> Result<(), ()> {
        let (taken, answer) = oneshot::channel();
        self.parcels.send((parcel, taken)).await.map_err(drop)?;
        // Dropped unanswered: refused, or the successor is gone.
        answer.await.map_err(drop)
    }
}

/// One end of a channel between two generations.
pub(super) enum Channel {
    /// To the generation that serves, and what is to be sent there.
    ToSuccessor(OwnedFd, Queue),
    /// From one that drains.
    FromPredecessor(OwnedFd),
}

type Queue = mpsc::Receiver<(Parcel, oneshot::Sender<()>)>;

impl Channel {
    /// The channel, and what connections need to use it.
    pub(super) fn to_successor(socket: OwnedFd) -> (Channel, Successor) {
        static NUMBER: AtomicU64 = AtomicU64::new(1);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let (parcels, queue) = mpsc::channel(IN_FLIGHT);
        (Channel::ToSuccessor(socket, queue), Successor { number, parcels })
    }
}

/// Works at the channels that the supervisor opens, on the worker's runtime.
pub(super) async fn attend(state: Arc<State>, mut channels: mpsc::UnboundedReceiver<Channel>) {
    while let Some(channel) = channels.recv().await {
        let state = Arc::clone(&state);
        tokio::spawn(async move {
            let ended = match channel {
                Channel::ToSuccessor(socket, queue) => send_all(socket, queue).await,
                Channel::FromPredecessor(socket) => take_all(&state, socket).await,
            };
            if let Err(error) = ended {
                tracing::debug!(%error, "passing connections ended early");
            }
        });
    }
}

/// Sends connections and hears the answers, in order. Ends with the successor or the last sender.
async fn send_all(socket: OwnedFd, mut queue: Queue) -> io::Result<()> {
    let socket = &seqpacket::register(socket)?;
    let mut unanswered: VecDeque<oneshot::Sender<()>> = VecDeque::new();
    loop {
        tokio::select! {
            biased;
            answer = receive(socket) => match answer? {
                // Everything unanswered is dropped, and goes on where it is.
                None => return Ok(()),
                Some(packet) => {
                    if let Some(sender) = unanswered.pop_front()
                        && packet.bytes == [TAKEN]
                    {
                        // The connection's task may have been cancelled at the deadline.
                        let _ = sender.send(());
                    }
                }
            },
            parcel = queue.recv(), if unanswered.len() < IN_FLIGHT => match parcel {
                None => return Ok(()),
                Some((parcel, sender)) => {
                    // One whose peer has a name that is not text stays here, by itself.
                    let Ok(packet) = encode(&parcel) else { continue };
                    send(socket, &packet, &parcel.socket).await?;
                    unanswered.push_back(sender);
                }
            },
        }
    }
}

/// Takes what an older generation passes until it is gone.
async fn take_all(state: &Arc<State>, socket: OwnedFd) -> io::Result<()> {
    let socket = &seqpacket::register(socket)?;
    loop {
        let parcel = match receive(socket).await {
            Ok(None) => return Ok(()),
            Ok(Some(mut packet)) => decode(&packet.bytes, packet.descriptors.pop()),
            // No descriptor left here, or a packet of another protocol: it stays where it is.
            Err(error) if error.kind() == io::ErrorKind::InvalidData => None,
            Err(error) => return Err(error),
        };
        let place =
            parcel.and_then(|parcel| Some((state.adopter(&parcel.header.listener)?, parcel)));
        // The answer comes first: a connection that is answered for is not touched before, so that a
        // death in between leaves it whole with whoever has it.
        match place.and_then(|(adopter, parcel)| adopter(parcel)) {
            Some(begin) => {
                let answered = answer(socket, TAKEN).await;
                begin();
                answered?;
            }
            None => answer(socket, REFUSED).await?,
        }
    }
}

async fn answer(socket: &AsyncFd<OwnedFd>, byte: u8) -> io::Result<()> {
    socket.async_io(Interest::WRITABLE, |socket| seqpacket::send(socket, &[byte], &[])).await
}

async fn send(socket: &AsyncFd<OwnedFd>, packet: &[u8], fd: &OwnedFd) -> io::Result<()> {
    socket
        .async_io(Interest::WRITABLE, |socket| seqpacket::send(socket, packet, &[fd.as_fd()]))
        .await
}

async fn receive(socket: &AsyncFd<OwnedFd>) -> io::Result<Option<seqpacket::Packet>> {
    socket.async_io(Interest::READABLE, |socket| seqpacket::receive(socket)).await
}

/// The header's length in four bytes, the header in JSON, the unread bytes.
fn encode(parcel: &Parcel) -> io::Result<Vec<u8>> {
    let header = serde_json::to_vec(&parcel.header)?;
    let length = u32::try_from(header.len()).map_err(io::Error::other)?;
    Ok([&length.to_le_bytes()[..], &header, &parcel.bytes].concat())
}

fn decode(packet: &[u8], socket: Option<OwnedFd>) -> Option<Parcel> {
    let (length, rest) = packet.split_first_chunk::<4>()?;
    let (header, bytes) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
    let header = serde_json::from_slice(header).ok()?;
    Some(Parcel { header, bytes: bytes.to_vec(), socket: socket? })
}

/// A packet that is understood, sent again, is understood as the same.
#[cfg(any(test, fuzzing))]
pub(crate) fn survives_the_journey(packet: &[u8]) {
    let socket = || std::fs::File::open("/dev/null").ok().map(OwnedFd::from);
    let Some(parcel) = decode(packet, socket()) else { return };
    let again = encode(&parcel).ok().and_then(|packet| decode(&packet, socket()));
    let again = again.map(|again| (again.header, again.bytes));
    assert_eq!(again, Some((parcel.header, parcel.bytes)));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parcel(bytes: &[u8]) -> Parcel {
        let header = Header {
            listener: "http".into(),
            peer: Some(([127, 0, 0, 1], 80).into()),
            path: None,
            accepted: 7,
            requests: 3,
        };
        let socket = std::fs::File::open("/dev/null").unwrap().into();
        Parcel { header, bytes: bytes.to_vec(), socket }
    }

    #[test]
    fn a_parcel_survives_the_journey() {
        let sent = parcel(b"GET / HT");
        let packet = encode(&sent).unwrap();
        let Parcel { header, bytes, .. } = decode(&packet, Some(sent.socket)).unwrap();
        assert_eq!((header, bytes), (sent.header, sent.bytes));
    }

    proptest! {
        #[test]
        fn garbage_is_refused(packet in prop::collection::vec(any::<u8>(), 0..300)) {
            let socket = std::fs::File::open("/dev/null").unwrap().into();
            let _ = decode(&packet, Some(socket));
        }
    }
}
