//! The receiving end of a handoff channel, in the new worker.
//!
//! [`BatchReceiver`] gives each connection of a batch to its handler together with a [`PendingAck`].
//! Acknowledgements are queued and sent many to a message. A connection that is taken is not touched before
//! its acknowledgement is sent: if this worker dies in between, the older generation still owns it intact.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};

use super::channel::HandoffOutcome;
use super::message::{self, Ack, Handoff, MAX_ANSWERS};
use crate::failpoint::{self, Step};
use crate::sys::seqpacket;
use crate::worker::state::SharedState;

/// Receives connections until the older generation closes the channel.
///
/// # Errors
/// If the channel fails: the older generation keeps the connections not acknowledged by then.
pub(super) async fn receive_all(state: &Arc<SharedState>, socket: OwnedFd) -> io::Result<()> {
    let socket = seqpacket::register(socket)?;
    let (answers, mut queue) = mpsc::unbounded_channel();
    send(&socket, message::GREETING).await?;
    let mut taker = BatchReceiver { state, answers, messages: 0 };
    let mut acks = Vec::new();
    loop {
        tokio::select! {
            biased;
            _ = queue.recv_many(&mut acks, MAX_ANSWERS) => {
                send(&socket, &message_of(&acks)).await?;
                failpoint::hit(Step::WorkerHandoffAnswered, state.generation);
                acks.drain(..).for_each(QueuedAck::begin);
                // Lets requests in flight in this worker proceed between two batches.
                tokio::task::yield_now().await;
            }
            received = receive(&socket) => match received {
                Ok(Some(packet)) => taker.take(packet)?,
                Ok(None) => break,
                // A message arrived and cannot be read: it counts, and is refused as a whole.
                Err(error) if error.kind() == io::ErrorKind::InvalidData => taker.refuse(),
                Err(error) => return Err(error),
            },
        }
    }
    // The older generation has closed the channel, so this worker owns all connections that it took, also
    // those whose acknowledgement was never sent. The receiver's own sender is dropped first: the queue then
    // ends once all handlers have answered.
    drop(taker);
    while let Some(ack) = queue.recv().await {
        ack.begin();
    }
    Ok(())
}

struct BatchReceiver<'a> {
    state: &'a Arc<SharedState>,
    answers: mpsc::UnboundedSender<QueuedAck>,
    /// The number of messages received, which is the number of the next one.
    messages: u64,
}

impl BatchReceiver<'_> {
    /// Gives the connections of a message to their handlers.
    fn take(&mut self, packet: seqpacket::Packet) -> io::Result<()> {
        failpoint::try_hit(Step::WorkerHandoffReceived, self.state.generation)?;
        let seqpacket::Packet { bytes, descriptors } = packet;
        let connections = message::read(&bytes).filter(|it| it.len() >= descriptors.len());
        let Some(connections) = connections else {
            self.refuse();
            return Ok(());
        };
        let mut sockets = descriptors.into_iter();
        for (index, (contents, bytes)) in (0..).zip(connections) {
            let pending_ack = self.pending_ack(Some(index));
            let Some(socket) = sockets.next() else {
                pending_ack.ask_to_retry();
                continue;
            };
            // Without a handler the acknowledgement is dropped, which refuses the connection.
            if let Some(contents) = contents
                && let Some(place) = contents.place()
                && let Some(handler) = self.state.handoffs.handler(&place)
            {
                handler(Handoff { contents, bytes: bytes.to_vec(), socket }, pending_ack);
            }
        }
        self.messages += 1;
        Ok(())
    }

    /// Refuses a whole message.
    fn refuse(&mut self) {
        drop(self.pending_ack(None));
        self.messages += 1;
    }

    fn pending_ack(&self, index: Option<u16>) -> PendingAck {
        let answers = Some(self.answers.clone());
        PendingAck { message: self.messages, index, answers, state: Arc::clone(self.state) }
    }
}

/// An acknowledgement to be sent, and what to do once it is sent.
struct QueuedAck {
    answer: Ack,
    begin: Option<Box<dyn FnOnce() + Send>>,
}

impl QueuedAck {
    /// Continues with a connection that is taken: the acknowledgement was sent, or the older generation has
    /// closed the channel.
    fn begin(self) {
        if let Some(begin) = self.begin {
            begin();
        }
    }
}

fn message_of(acks: &[QueuedAck]) -> Vec<u8> {
    let mut message = Vec::new();
    acks.iter().for_each(|ack| message::append_ack(&mut message, ack.answer));
    message
}

/// Sends a message. Succeeds if the other end is closed: the next receive reports that, after the connections
/// that the older generation sent before.
async fn send(socket: &AsyncFd<OwnedFd>, message: &[u8]) -> io::Result<()> {
    let sent =
        socket.async_io(Interest::WRITABLE, |socket| seqpacket::send(socket, message, &[])).await;
    match sent {
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
            ) =>
        {
            Ok(())
        }
        sent => sent,
    }
}

async fn receive(socket: &AsyncFd<OwnedFd>) -> io::Result<Option<seqpacket::Packet>> {
    socket.async_io(Interest::READABLE, |socket| seqpacket::receive_what_fits(socket.as_fd())).await
}

/// The obligation to acknowledge one connection, or a whole message. Dropping it refuses the connection;
/// while this worker drains it answers *gone* instead, and the next generation is offered the connection.
pub(crate) struct PendingAck {
    message: u64,
    /// The place in the message; `None` means the whole message.
    index: Option<u16>,
    /// `None` once answered.
    answers: Option<mpsc::UnboundedSender<QueuedAck>>,
    state: Arc<SharedState>,
}

impl PendingAck {
    /// Acknowledges that the connection is taken, and calls `begin` once that is sent. The connection must
    /// not be touched before `begin`: if this worker dies earlier, the older generation goes on with it. If
    /// the acknowledgement cannot be sent, `begin` is dropped and the older generation keeps the connection.
    pub(crate) fn ack_then(mut self, begin: impl FnOnce() + Send + 'static) {
        self.answer(HandoffOutcome::Taken, Some(Box::new(begin)));
    }

    /// Same as [`PendingAck::ack_then`], but completes when the acknowledgement is sent.
    ///
    /// # Errors
    /// If it cannot be sent: the older generation keeps the connection.
    pub(crate) async fn ack(self) -> io::Result<()> {
        let (begin, begun) = oneshot::channel();
        self.ack_then(move || {
            // Fails if the caller was cancelled. This worker owns the connection all the same.
            let _ = begin.send(());
        });
        begun.await.map_err(|_| {
            let what = "the older generation keeps the connection because the channel to it broke";
            io::Error::new(io::ErrorKind::ConnectionAborted, what)
        })
    }

    /// Answers that this process has no descriptor left for the connection.
    fn ask_to_retry(mut self) {
        self.answer(HandoffOutcome::Later, None);
    }

    fn answer(&mut self, outcome: HandoffOutcome, begin: Option<Box<dyn FnOnce() + Send>>) {
        let Some(answers) = self.answers.take() else { return };
        let answer = Ack { message: self.message, index: self.index, outcome };
        // Fails if the channel has failed: the older generation then keeps the connection.
        let _ = answers.send(QueuedAck { answer, begin });
    }
}

impl Drop for PendingAck {
    fn drop(&mut self) {
        let outcome = match self.state.is_draining() {
            true => HandoffOutcome::Gone,
            false => HandoffOutcome::Refused,
        };
        self.answer(outcome, None);
    }
}
