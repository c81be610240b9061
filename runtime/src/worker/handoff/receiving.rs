//! The new worker's end: takes connections, a batch at a time, and touches none before it has said so.

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

/// Takes what an older generation hands off until it is gone.
///
/// # Errors
/// Where the channel fails: what was not answered for by then is the older generation's.
pub(super) async fn receive_all(state: &Arc<SharedState>, socket: OwnedFd) -> io::Result<()> {
    let socket = seqpacket::register(socket)?;
    let (answers, mut queue) = mpsc::unbounded_channel();
    send(&socket, message::GREETING).await?;
    let mut taker = BatchReceiver { state, answers, messages: 0 };
    let mut said = Vec::new();
    loop {
        tokio::select! {
            biased;
            _ = queue.recv_many(&mut said, MAX_ANSWERS) => {
                send(&socket, &message_of(&said)).await?;
                failpoint::hit(Step::WorkerHandoffAnswered, state.generation);
                said.drain(..).for_each(QueuedAck::begin);
                // Whatever is in flight in this worker comes in between.
                tokio::task::yield_now().await;
            }
            received = receive(&socket) => match received {
                Ok(Some(packet)) => taker.take(packet)?,
                Ok(None) => break,
                // It came, and cannot be read.
                Err(error) if error.kind() == io::ErrorKind::InvalidData => taker.refuse(),
                Err(error) => return Err(error),
            },
        }
    }
    // The older generation is gone, and has nothing any more that it could go on with.
    drop(taker);
    while let Some(said) = queue.recv().await {
        said.begin();
    }
    Ok(())
}

struct BatchReceiver<'a> {
    state: &'a Arc<SharedState>,
    answers: mpsc::UnboundedSender<QueuedAck>,
    /// How many came, which is the next one's number.
    messages: u64,
}

impl BatchReceiver<'_> {
    /// Gives the connections of a message to those who take them.
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
            let receipt = self.receipt(Some(index));
            let Some(socket) = sockets.next() else {
                receipt.ask_to_retry();
                continue;
            };
            // Without an adopter the receipt is dropped, which refuses the connection.
            if let Some(contents) = contents
                && let Some(place) = contents.place()
                && let Some(adopter) = self.state.passage.handler(&place)
            {
                adopter(Handoff { contents, bytes: bytes.to_vec(), socket }, receipt);
            }
        }
        self.messages += 1;
        Ok(())
    }

    /// Refuses a whole message.
    fn refuse(&mut self) {
        drop(self.receipt(None));
        self.messages += 1;
    }

    fn receipt(&self, index: Option<u16>) -> PendingAck {
        let answers = Some(self.answers.clone());
        PendingAck { message: self.messages, index, answers, state: Arc::clone(self.state) }
    }
}

/// What is to be said, and what follows once it is.
struct QueuedAck {
    answer: Ack,
    begin: Option<Box<dyn FnOnce() + Send>>,
}

impl QueuedAck {
    /// It is said, or nobody is there to hear it.
    fn begin(self) {
        if let Some(begin) = self.begin {
            begin();
        }
    }
}

fn message_of(said: &[QueuedAck]) -> Vec<u8> {
    let mut message = Vec::new();
    said.iter().for_each(|said| message::append_ack(&mut message, said.answer));
    message
}

/// Sends a message, unless nobody is at the other end.
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

/// The duty to answer for one connection. Dropped, it is refused.
pub(crate) struct PendingAck {
    message: u64,
    index: Option<u16>,
    /// `None` once it is answered.
    answers: Option<mpsc::UnboundedSender<QueuedAck>>,
    state: Arc<SharedState>,
}

impl PendingAck {
    /// Says that it is taken, and calls `begin` when that is said: what is answered for is not touched
    /// before, so that a death in between leaves it whole with its owner. Where it cannot be said,
    /// `begin` is dropped, and the connection is the older generation's.
    pub(crate) fn ack_then(mut self, begin: impl FnOnce() + Send + 'static) {
        self.answer(HandoffOutcome::Taken, Some(Box::new(begin)));
    }

    /// As [`Receipt::taken`], and completes when it is said.
    ///
    /// # Errors
    /// Where it cannot be said.
    pub(crate) async fn ack(self) -> io::Result<()> {
        let (begin, begun) = oneshot::channel();
        self.ack_then(move || {
            // The caller may have been cancelled. The connection is this worker's all the same.
            let _ = begin.send(());
        });
        begun.await.map_err(|_| {
            let what = "the older generation keeps the connection because the channel to it broke";
            io::Error::new(io::ErrorKind::ConnectionAborted, what)
        })
    }

    /// There is no descriptor left for it.
    fn ask_to_retry(mut self) {
        self.answer(HandoffOutcome::Later, None);
    }

    fn answer(&mut self, verdict: HandoffOutcome, begin: Option<Box<dyn FnOnce() + Send>>) {
        let Some(answers) = self.answers.take() else { return };
        let answer = Ack { message: self.message, index: self.index, verdict };
        // Where the channel has failed, it is the older generation's.
        let _ = answers.send(QueuedAck { answer, begin });
    }
}

impl Drop for PendingAck {
    fn drop(&mut self) {
        let verdict = match self.state.is_draining() {
            true => HandoffOutcome::Gone,
            false => HandoffOutcome::Refused,
        };
        self.answer(verdict, None);
    }
}
