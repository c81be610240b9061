//! The handoff channel between two workers: an `AF_UNIX` `SOCK_SEQPACKET` pair that the supervisor opens.
//!
//! The sender keeps its descriptor of a connection until the receiver has acknowledged it, and the receiver
//! does not touch a connection before its acknowledgement is sent. If the successor dies or has no descriptor
//! left, the sender goes on with the connection and none is lost.
//!
//! Closing the channel transfers ownership. The sender closes it only when it exits or no connection is
//! unacknowledged: the receiver then owns all connections that it has. The receiver closes it only when it
//! exits or has failed: the sender then owns all connections that no acknowledgement reports as taken.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::message::Handoff;
use super::{receiving, sending};
use crate::worker::net::Stream;
use crate::worker::state::SharedState;

/// The length of the queue of connections that wait to be sent: one batch. A connection in the queue is not
/// served, so all others wait for a place in it and are served in the meantime.
const MAX_QUEUED: usize = sending::MAX_BATCH;

/// The most connections of the application that are sent and not yet answered. The application may
/// take its time to answer; the rest of the places are for those of HTTP.
const MAX_APP_IN_FLIGHT: usize = 32;

/// How often a connection is handed off again that found no descriptor left in the new worker, with
/// [`RETRY_DELAY`] in between: for 1 s in all. Every connection that ends there leaves a
/// descriptor.
pub(crate) const RETRIES: u32 = 50;
/// The time between two such attempts.
pub(crate) const RETRY_DELAY: Duration = Duration::from_millis(20);

/// The outcome of a handoff; one byte of an acknowledgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HandoffOutcome {
    /// The receiver owns it.
    Taken,
    /// The receiver has no handler for it, or cannot use it.
    Refused,
    /// The receiver drains, or is gone: the generation after it may take the connection.
    Gone,
    /// The receiver had no descriptor left for it: the sender may offer it again.
    Later,
    /// It was sent, and whether it was taken cannot be known: the sender must not go on with it.
    Unknown,
}

impl HandoffOutcome {
    #[cfg(test)]
    pub(super) const ALL: [HandoffOutcome; 5] = [
        HandoffOutcome::Taken,
        HandoffOutcome::Refused,
        HandoffOutcome::Gone,
        HandoffOutcome::Later,
        HandoffOutcome::Unknown,
    ];

    pub(super) fn byte(self) -> u8 {
        match self {
            HandoffOutcome::Taken => b'+',
            HandoffOutcome::Refused => b'-',
            HandoffOutcome::Gone => b'~',
            HandoffOutcome::Later => b'*',
            HandoffOutcome::Unknown => b'?',
        }
    }

    pub(super) fn of(byte: u8) -> HandoffOutcome {
        match byte {
            b'+' => HandoffOutcome::Taken,
            b'-' => HandoffOutcome::Refused,
            b'~' => HandoffOutcome::Gone,
            b'*' => HandoffOutcome::Later,
            // An outcome of a later release, which may mean that the connection was taken.
            _ => HandoffOutcome::Unknown,
        }
    }
}

/// The socket of a connection that is handed off.
#[derive(Debug)]
pub(crate) enum HandoffSocket {
    /// The connection itself: this worker does not touch it until it is acknowledged.
    #[cfg_attr(not(feature = "http"), expect(dead_code, reason = "only HTTP gives away its own"))]
    Stream(Stream),
    /// A duplicate of the application's descriptor; the application waits for the outcome with its own.
    Copy(OwnedFd),
}

/// A connection in the queue, and where it is returned with the outcome.
pub(super) type Sent = (Handoff<HandoffSocket>, oneshot::Sender<Returned>);

/// The outcome, and the connection. This worker goes on with it unless the outcome is
/// [`HandoffOutcome::Taken`] or [`HandoffOutcome::Unknown`].
pub(crate) type Returned = (HandoffOutcome, Handoff<HandoffSocket>);

/// A handle to the channel to the serving generation, for the connections that wait to be handed off.
#[derive(Debug, Clone)]
pub(crate) struct Successor {
    /// Identifies this successor: a connection that it refused is not offered to it again.
    pub(crate) number: u64,
    queue: mpsc::Sender<Sent>,
    /// Cancelled when the successor has sent its greeting, or the channel has ended.
    opened: CancellationToken,
    /// Limits the application's connections to [`MAX_APP_IN_FLIGHT`].
    own: Arc<Semaphore>,
}

/// A place in the queue of a successor: a connection that is handed off by it is sent with the next batch.
#[derive(Debug)]
pub(crate) struct QueueSlot {
    /// The successor's number.
    #[cfg_attr(not(feature = "http"), expect(dead_code, reason = "only HTTP asks for it"))]
    pub(crate) successor: u64,
    permit: mpsc::OwnedPermit<Sent>,
}

impl Successor {
    /// Waits for a place in the queue. Returns `None` if the successor is gone.
    pub(crate) async fn slot(&self) -> Option<QueueSlot> {
        // No place before the greeting: until then this worker goes on serving the connection.
        self.opened.cancelled().await;
        let permit = self.queue.clone().reserve_owned().await.ok()?;
        Some(QueueSlot { successor: self.number, permit })
    }

    /// Hands off a connection of the application, whose acknowledgement may come late.
    pub(super) async fn hand_off_app(&self, handoff: Handoff<HandoffSocket>) -> HandoffOutcome {
        // The semaphore is never closed, so this does not fail.
        let _permit = self.own.acquire().await;
        let Some(slot) = self.slot().await else { return HandoffOutcome::Gone };
        slot.hand_off(handoff).await.map_or(HandoffOutcome::Gone, |(outcome, _)| outcome)
    }
}

impl QueueSlot {
    /// Hands off a connection and returns it with the outcome. Returns `None` if the runtime shuts down,
    /// which drops the connection.
    pub(crate) async fn hand_off(self, handoff: Handoff<HandoffSocket>) -> Option<Returned> {
        let (reply, answer) = oneshot::channel();
        self.permit.send((handoff, reply));
        answer.await.ok()
    }
}

/// One end of a channel between two generations.
pub(super) enum HandoffChannel {
    /// To the serving generation.
    ToSuccessor(Outgoing),
    /// From a generation that drains.
    FromPredecessor(OwnedFd),
}

/// The sending end of a channel to the serving generation, with its queue of connections.
pub(super) struct Outgoing {
    pub(super) socket: OwnedFd,
    pub(super) queue: mpsc::Receiver<Sent>,
    /// The sender of connections cancels it after the greeting, or when the channel ends without one.
    pub(super) opened: CancellationToken,
}

impl HandoffChannel {
    /// Returns the channel and the handle by which connections use it.
    pub(super) fn to_successor(socket: OwnedFd) -> (HandoffChannel, Successor) {
        static NUMBER: AtomicU64 = AtomicU64::new(1);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let (sender, queue) = mpsc::channel(MAX_QUEUED);
        let opened = CancellationToken::new();
        let outgoing = Outgoing { socket, queue, opened: opened.clone() };
        let own = Arc::new(Semaphore::new(MAX_APP_IN_FLIGHT));
        (HandoffChannel::ToSuccessor(outgoing), Successor { number, queue: sender, opened, own })
    }
}

/// Runs a task on the worker's runtime for each channel that the supervisor opens.
pub(super) async fn run_channels(
    state: Arc<SharedState>,
    mut channels: mpsc::UnboundedReceiver<HandoffChannel>,
) {
    while let Some(channel) = channels.recv().await {
        let own = state.own.clone();
        let state = Arc::clone(&state);
        own.spawn(async move {
            let ended = match channel {
                HandoffChannel::ToSuccessor(outgoing) => {
                    sending::send_all(state.generation, outgoing).await
                }
                HandoffChannel::FromPredecessor(socket) => {
                    receiving::receive_all(&state, socket).await
                }
            };
            if let Err(error) = ended {
                tracing::debug!(%error, "handing off connections ended early");
            }
        });
    }
}
