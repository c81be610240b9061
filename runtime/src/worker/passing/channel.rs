//! The channel between two workers, an `AF_UNIX` `SOCK_SEQPACKET` pair that the supervisor opens.
//!
//! Each packet is one connection: a numbered header, bytes and the descriptor. Each is answered under
//! its number. The sender keeps its own descriptor until then: a successor that dies, or has no
//! descriptor left, costs nobody a connection, as what is not taken goes on where it was.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::parcel::{Parcel, decode, decode_answer, encode, encode_answer};
use crate::failpoint::{self, Step};
use crate::sys::seqpacket;
use crate::worker::state::State;

/// Connections sent and not yet answered.
const IN_FLIGHT: usize = 64;

/// How many of these may be the application's, which may take its time to answer.
const OWN_IN_FLIGHT: usize = 32;

/// What is said of a successor whose answers make no sense.
const NOT_UNDERSTOOD: &str = "the successor answered something else";

/// What became of a parcel, as a byte of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Taken,
    /// Nobody here takes such a one.
    Refused,
    /// Not here any more, or not reached: the next generation may.
    Gone,
    /// It was sent, and what became of it cannot be known: nobody may go on with it here.
    Unknown,
}

impl Verdict {
    fn byte(self) -> u8 {
        match self {
            Verdict::Taken => b'+',
            Verdict::Refused => b'-',
            Verdict::Gone => b'~',
            Verdict::Unknown => b'?',
        }
    }

    fn of(byte: u8) -> Verdict {
        match byte {
            b'+' => Verdict::Taken,
            b'-' => Verdict::Refused,
            b'~' => Verdict::Gone,
            // A later release may have taken it in a way of its own.
            _ => Verdict::Unknown,
        }
    }
}

type Sent = (Parcel, oneshot::Sender<Verdict>);

/// A way to the generation that serves.
#[derive(Clone)]
pub(crate) struct Successor {
    /// Tells one successor from the next.
    pub(crate) number: u64,
    parcels: mpsc::Sender<Sent>,
    own: Arc<Semaphore>,
}

impl Successor {
    /// Hands a connection over. Unless it is taken, it goes on here.
    pub(crate) async fn pass(&self, parcel: Parcel) -> Verdict {
        let (verdict, answer) = oneshot::channel();
        if self.parcels.send((parcel, verdict)).await.is_err() {
            return Verdict::Gone;
        }
        // Dropped unanswered: the successor is gone.
        answer.await.unwrap_or(Verdict::Gone)
    }

    /// As [`Successor::pass`], for what may be answered late.
    pub(super) async fn pass_own(&self, parcel: Parcel) -> Verdict {
        // Never closed; if it were, nothing would be limited.
        let _permit = self.own.acquire().await;
        self.pass(parcel).await
    }
}

/// One end of a channel between two generations.
pub(super) enum Channel {
    /// To the generation that serves, and what is to be sent there.
    ToSuccessor(OwnedFd, mpsc::Receiver<Sent>),
    /// From one that drains.
    FromPredecessor(OwnedFd),
}

impl Channel {
    /// The channel, and what connections need to use it.
    pub(super) fn to_successor(socket: OwnedFd) -> (Channel, Successor) {
        static NUMBER: AtomicU64 = AtomicU64::new(1);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let (parcels, queue) = mpsc::channel(IN_FLIGHT);
        let own = Arc::new(Semaphore::new(OWN_IN_FLIGHT));
        (Channel::ToSuccessor(socket, queue), Successor { number, parcels, own })
    }
}

/// Works at the channels that the supervisor opens, on the worker's runtime.
pub(super) async fn attend(state: Arc<State>, mut channels: mpsc::UnboundedReceiver<Channel>) {
    while let Some(channel) = channels.recv().await {
        let own = state.own.clone();
        let state = Arc::clone(&state);
        own.spawn(async move {
            let ended = match channel {
                Channel::ToSuccessor(socket, queue) => send_all(&state, socket, queue).await,
                Channel::FromPredecessor(socket) => take_all(&state, socket).await,
            };
            if let Err(error) = ended {
                tracing::debug!(%error, "passing connections ended early");
            }
        });
    }
}

/// Sends connections and hears the answers. Ends with the successor, or once all is answered and there is
/// nothing more to send.
///
/// What is unanswered when the successor is gone was not taken, and goes on here: all answers that it gave
/// were read by then. What is unanswered when the answers can no longer be read is given up, as one
/// connection must not be served by two.
async fn send_all(
    state: &State,
    socket: OwnedFd,
    mut queue: mpsc::Receiver<Sent>,
) -> io::Result<()> {
    let socket = &seqpacket::register(socket)?;
    let mut unanswered: HashMap<u64, oneshot::Sender<Verdict>> = HashMap::new();
    let mut last = 0;
    // Until it fails: then nothing more is sent, and the answers are still read.
    let mut sending = Ok(());
    loop {
        if sending.is_err() && unanswered.is_empty() {
            return sending;
        }
        tokio::select! {
            biased;
            answer = receive(socket) => match answer {
                // Everything unanswered is dropped, and goes on where it is.
                Ok(None) => return sending,
                Ok(Some(packet)) => {
                    let Some((number, verdict)) = decode_answer(&packet.bytes) else {
                        give_up(unanswered);
                        return Err(io::Error::new(io::ErrorKind::InvalidData, NOT_UNDERSTOOD));
                    };
                    if let Some(sender) = unanswered.remove(&number) {
                        // The connection's task may have been cancelled at the deadline.
                        let _ = sender.send(Verdict::of(verdict));
                    }
                }
                Err(error) => {
                    give_up(unanswered);
                    return Err(error);
                }
            },
            parcel = queue.recv(), if sending.is_ok() && unanswered.len() < IN_FLIGHT => match parcel {
                None if unanswered.is_empty() => return Ok(()),
                None => sending = Err(io::Error::from(io::ErrorKind::NotConnected)),
                Some((parcel, sender)) => {
                    last += 1;
                    // One whose peer has a name that is not text stays here, by itself.
                    let Ok(packet) = encode(last, &parcel) else {
                        last -= 1;
                        continue;
                    };
                    sending = failpoint::attempt(Step::WorkerBeforePass, state.generation);
                    if sending.is_ok() {
                        sending = send(socket, &packet, &parcel.socket).await;
                    }
                    if sending.is_ok() {
                        unanswered.insert(last, sender);
                        failpoint::reach(Step::WorkerAfterPass, state.generation);
                    } else {
                        // This one stays, and so do those that wait to be sent.
                        queue.close();
                        while queue.try_recv().is_ok() {}
                    }
                }
            },
        }
    }
}

/// The answers cannot be read.
fn give_up(unanswered: HashMap<u64, oneshot::Sender<Verdict>>) {
    for sender in unanswered.into_values() {
        let _ = sender.send(Verdict::Unknown);
    }
}

/// Takes what an older generation passes until it is gone.
async fn take_all(state: &Arc<State>, socket: OwnedFd) -> io::Result<()> {
    let socket = Arc::new(seqpacket::register(socket)?);
    let (answers, queue) = mpsc::unbounded_channel();
    state.own.spawn(answer_all(Arc::clone(&socket), queue));
    let mut last = 0;
    loop {
        let decoded = match receive(&socket).await {
            Ok(None) => return Ok(()),
            Ok(Some(mut packet)) => decode(&packet.bytes, packet.descriptors.pop()),
            // No descriptor left here.
            Err(error) if error.kind() == io::ErrorKind::InvalidData => None,
            Err(error) => return Err(error),
        };
        failpoint::attempt(Step::WorkerReceived, state.generation)?;
        // Packets are numbered in order, so that one which cannot be read has a number too.
        let (number, parcel) = decoded.unwrap_or((last + 1, None));
        last = number;
        let receipt = Receipt { number, answers: Some(answers.clone()), state: Arc::clone(state) };
        // Without a descriptor or an adopter it is refused, as the receipt is dropped.
        if let Some(parcel) = parcel
            && let Some(adopter) = parcel.contents.place().and_then(|at| state.passage.adopter(&at))
        {
            adopter(parcel, receipt);
        }
    }
}

struct Answer {
    number: u64,
    verdict: Verdict,
    sent: Option<oneshot::Sender<()>>,
}

/// Sends the answers until there can be no more, or nobody wants them.
async fn answer_all(socket: Arc<AsyncFd<OwnedFd>>, mut answers: mpsc::UnboundedReceiver<Answer>) {
    while let Some(Answer { number, verdict, sent }) = answers.recv().await {
        let packet = encode_answer(number, verdict.byte());
        let answered = socket
            .async_io(Interest::WRITABLE, |socket| seqpacket::send(socket, &packet, &[]))
            .await;
        // Whoever waits for it goes on in any case: it has the connection.
        drop(sent);
        if let Err(error) = answered {
            tracing::debug!(%error, "an older generation is gone before it was answered");
            return;
        }
    }
}

/// The duty to answer for one parcel. Dropped, the parcel is refused.
pub(crate) struct Receipt {
    number: u64,
    /// `None` once it is answered.
    answers: Option<mpsc::UnboundedSender<Answer>>,
    state: Arc<State>,
}

impl Receipt {
    /// Says that it is taken, and completes when that is said: what is answered for is not touched
    /// before, so that a death in between leaves it whole with whoever has it.
    pub(crate) async fn take(mut self) {
        let (sent, answered) = oneshot::channel();
        self.answer(Verdict::Taken, Some(sent));
        // An error is how it completes: the sender is dropped when the answer is out.
        let _ = answered.await;
    }

    fn answer(&mut self, verdict: Verdict, sent: Option<oneshot::Sender<()>>) {
        if let Some(answers) = self.answers.take() {
            // The older generation is gone; there is nobody to answer.
            let _ = answers.send(Answer { number: self.number, verdict, sent });
        }
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        let verdict = match self.state.is_draining() {
            true => Verdict::Gone,
            false => Verdict::Refused,
        };
        self.answer(verdict, None);
    }
}

async fn send(socket: &AsyncFd<OwnedFd>, packet: &[u8], fd: &OwnedFd) -> io::Result<()> {
    socket
        .async_io(Interest::WRITABLE, |socket| seqpacket::send(socket, packet, &[fd.as_fd()]))
        .await
}

async fn receive(socket: &AsyncFd<OwnedFd>) -> io::Result<Option<seqpacket::Packet>> {
    socket.async_io(Interest::READABLE, |socket| seqpacket::receive(socket)).await
}
