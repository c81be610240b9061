//! The channel between two workers, an `AF_UNIX` `SOCK_SEQPACKET` pair that the supervisor opens.
//!
//! The sender keeps its descriptor of a connection until that is answered for, and the receiver touches
//! nothing before its answer is out. So a successor that dies, or has no descriptor left, costs nobody a
//! connection: what was not taken goes on where it was.
//!
//! The end of the channel has a meaning. The sender ends it when it is gone itself, or when
//! nothing is unanswered: then the receiver owns what it has. The receiver ends it when it is gone, or has
//! failed: then the sender owns all that no answer says was taken.

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

/// Connections that wait to be sent. Until then a connection is served where it is.
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

/// What became of a connection, as a byte of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HandoffOutcome {
    Taken,
    /// Nobody here takes such a one.
    Refused,
    /// Not here any more, or not reached: the next generation may.
    Gone,
    /// There was no descriptor left for it: it may be tried again.
    Later,
    /// It was sent, and what became of it cannot be known: nobody may go on with it here.
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
            // A later release may have taken it in a way of its own.
            _ => HandoffOutcome::Unknown,
        }
    }
}

/// The socket of a connection that is handed off.
#[derive(Debug)]
pub(crate) enum HandoffSocket {
    /// All that this worker has of it: nobody touches it until it is answered for.
    #[cfg_attr(not(feature = "http"), expect(dead_code, reason = "only HTTP gives away its own"))]
    Stream(Stream),
    /// A copy; the application waits for the answer with its own.
    Copy(OwnedFd),
}

/// A connection to be sent, and where it goes with the answer.
pub(super) type Sent = (Handoff<HandoffSocket>, oneshot::Sender<Returned>);

/// The answer. Only with [`Verdict::Taken`] and [`Verdict::Unknown`] it is over for this worker.
pub(crate) type Returned = (HandoffOutcome, Handoff<HandoffSocket>);

/// A way to the generation that serves.
#[derive(Debug, Clone)]
pub(crate) struct Successor {
    /// Tells one successor from the next.
    pub(crate) number: u64,
    queue: mpsc::Sender<Sent>,
    /// Cancelled when the successor has greeted, or the channel has ended.
    opened: CancellationToken,
    own: Arc<Semaphore>,
}

/// A place in the queue: what is handed off by it is sent as soon as can be.
#[derive(Debug)]
pub(crate) struct QueueSlot {
    /// The successor's number.
    #[cfg_attr(not(feature = "http"), expect(dead_code, reason = "only HTTP asks for it"))]
    pub(crate) successor: u64,
    permit: mpsc::OwnedPermit<Sent>,
}

impl Successor {
    /// Waits for a place in the queue. `None`: the successor is gone.
    pub(crate) async fn slot(&self) -> Option<QueueSlot> {
        // What waits for a successor that says nothing is served here.
        self.opened.cancelled().await;
        let permit = self.queue.clone().reserve_owned().await.ok()?;
        Some(QueueSlot { successor: self.number, permit })
    }

    /// Hands off what may be answered late.
    pub(super) async fn hand_off_app(&self, handoff: Handoff<HandoffSocket>) -> HandoffOutcome {
        // Never closed; if it were, nothing would be limited.
        let _permit = self.own.acquire().await;
        let Some(slot) = self.slot().await else { return HandoffOutcome::Gone };
        slot.hand_off(handoff).await.map_or(HandoffOutcome::Gone, |(verdict, _)| verdict)
    }
}

impl QueueSlot {
    /// Hands off a connection, and gives it back with the answer. `None` where the runtime ends, and the
    /// connection with it.
    pub(crate) async fn hand_off(self, handoff: Handoff<HandoffSocket>) -> Option<Returned> {
        let (reply, answer) = oneshot::channel();
        self.permit.send((handoff, reply));
        answer.await.ok()
    }
}

/// One end of a channel between two generations.
pub(super) enum HandoffChannel {
    /// To the generation that serves.
    ToSuccessor(Outgoing),
    /// From one that drains.
    FromPredecessor(OwnedFd),
}

/// A channel to the generation that serves, and what is to be sent there.
pub(super) struct Outgoing {
    pub(super) socket: OwnedFd,
    pub(super) queue: mpsc::Receiver<Sent>,
    /// Cancelled when something may be sent, or it is clear that nothing will be.
    pub(super) opened: CancellationToken,
}

impl HandoffChannel {
    /// The channel, and what connections need to use it.
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

/// Works at the channels that the supervisor opens, on the worker's runtime.
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
