//! The sending end of a handoff channel, in the old worker.
//!
//! [`BatchSender`] takes connections from the queue, sends them in batches, and returns each to its caller
//! with the outcome. While a batch is unacknowledged, the next one grows: few messages under load, and no
//! delay without load.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

use super::channel::{HandoffOutcome, HandoffSocket, Outgoing, Sent};
use super::message::{self, Ack};
use crate::failpoint::{self, Step};
use crate::sys::seqpacket;
use crate::worker::net::is_exhaustion;
use unbroken_core::sorted::SortedMap;

/// The most connections in a batch. The kernel takes 253 descriptors in a message, but either worker serves
/// its requests in flight only between two batches: a larger batch delays them longer, a smaller one costs
/// more system calls.
pub(super) const MAX_BATCH: usize = 64;

/// The most connections that are sent and not yet acknowledged: two batches. One can then be under way while
/// the receiver works on the other. No worker serves these connections until they are acknowledged.
const MAX_UNACKED: usize = 2 * MAX_BATCH;

/// Sends connections and reads the acknowledgements. Returns when the successor is gone, or when the queue
/// has ended and everything is acknowledged.
///
/// If the successor is gone, connections without an acknowledgement were not taken and continue in this
/// worker: all acknowledgements sent before have been read by then. If acknowledgements cannot be read,
/// connections without one are given up because a connection must not have two owners.
pub(super) async fn send_all(generation: u32, outgoing: Outgoing) -> io::Result<()> {
    let Outgoing { socket, mut queue, opened } = outgoing;
    let opened = opened.drop_guard();
    let mut sender = BatchSender { generation, ..BatchSender::default() };
    let ended = match seqpacket::register(socket) {
        Ok(socket) => match greeted(&socket).await {
            Ok(true) => {
                drop(opened);
                sender.run(&socket, &mut queue).await
            }
            Ok(false) => {
                drop((socket, opened));
                tracing::debug!(
                    "the new generation uses another format for connections; they stay here"
                );
                while let Some(sent) = queue.recv().await {
                    give_back(sent, HandoffOutcome::Refused);
                }
                Ok(())
            }
            Err(error) => Err(error),
        },
        Err(error) => Err(error),
    };
    // Returns the connections that were not sent, and those of callers that hold a place in the queue and
    // will still use it.
    queue.close();
    sender.return_unsent(HandoffOutcome::Gone);
    while let Some(sent) = queue.recv().await {
        give_back(sent, HandoffOutcome::Gone);
    }
    ended
}

#[derive(Default)]
struct BatchSender {
    generation: u32,
    /// Connections taken from the queue.
    waiting: Vec<Sent>,
    /// The batch that is sent next.
    next: Option<Batch>,
    /// The number of batches sent, which is the number of the next one.
    messages: u64,
    /// Connections sent and not acknowledged, by the number of their batch.
    unanswered: SortedMap<u64, Vec<Option<Sent>>>,
    /// The number of connections in `unanswered`.
    count: usize,
    /// The number of those that the receiver acknowledges at once.
    prompt: usize,
}

#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    connections: Vec<Sent>,
}

/// An event that the sender waits for.
enum SenderEvent {
    /// A message of acknowledgements arrived; `None`: the successor is gone.
    Heard(io::Result<Option<seqpacket::Packet>>),
    /// The next batch was sent.
    Sent(io::Result<()>),
    /// This many connections were taken from the queue; 0 means that the queue has ended.
    Waiting(usize),
}

impl BatchSender {
    async fn run(
        &mut self,
        socket: &AsyncFd<OwnedFd>,
        queue: &mut mpsc::Receiver<Sent>,
    ) -> io::Result<()> {
        let mut more = true;
        // After an error nothing more is sent, but acknowledgements are still read.
        let mut sending = Ok(());
        loop {
            if sending.is_ok() && self.next.is_none() && self.is_due() {
                self.next = self.pack();
                if self.next.is_some() {
                    sending = failpoint::try_hit(Step::WorkerBeforeHandoff, self.generation);
                }
            }
            if sending.is_err() {
                self.return_unsent(HandoffOutcome::Gone);
                // Ends the wait of callers for a place in the queue.
                queue.close();
            }
            let idle = self.waiting.is_empty() && self.next.is_none();
            if self.count == 0 && (sending.is_err() || idle && !more) {
                return sending;
            }
            let (may_send, room) = (sending.is_ok(), MAX_BATCH.saturating_sub(self.waiting.len()));
            let event = tokio::select! {
                biased;
                heard = receive(socket) => SenderEvent::Heard(heard),
                sent = send(socket, self.next.as_ref()) => SenderEvent::Sent(sent),
                count = queue.recv_many(&mut self.waiting, room), if may_send && more && room > 0 => {
                    SenderEvent::Waiting(count)
                }
            };
            match event {
                SenderEvent::Heard(Ok(Some(packet))) => {
                    let Some(answers) = message::read_acks(&packet.bytes) else {
                        self.acknowledge_all(HandoffOutcome::Unknown);
                        let what = "unexpected answer from the new generation";
                        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
                    };
                    answers.for_each(|answer| self.acknowledge(answer));
                }
                SenderEvent::Heard(Ok(None)) => {
                    self.acknowledge_all(HandoffOutcome::Gone);
                    return sending;
                }
                SenderEvent::Heard(Err(error)) => {
                    self.acknowledge_all(HandoffOutcome::Unknown);
                    return Err(error);
                }
                SenderEvent::Sent(Ok(())) => self.sent(),
                // Out of memory, or this user has too many descriptors in flight (`ETOOMANYREFS`): the
                // connections are offered again later.
                SenderEvent::Sent(Err(error)) if is_shortage(&error) => {
                    let message = self.next.take().unwrap_or_default();
                    message
                        .connections
                        .into_iter()
                        .for_each(|it| give_back(it, HandoffOutcome::Later));
                }
                SenderEvent::Sent(Err(error)) => sending = Err(error),
                SenderEvent::Waiting(count) => more = count > 0,
            }
        }
    }

    /// Returns whether to send the waiting connections now. A batch that is not full waits and grows while
    /// connections that are acknowledged at once are outstanding. Those of the application, which may be
    /// acknowledged late, delay no batch.
    fn is_due(&self) -> bool {
        let full = self.waiting.len() >= MAX_BATCH;
        (full || self.prompt == 0) && self.count + self.waiting.len() <= MAX_UNACKED
    }

    /// Packs waiting connections into a batch, as many as fit. Returns `None` if none is left.
    fn pack(&mut self) -> Option<Batch> {
        let mut message = Batch::default();
        let mut waiting = std::mem::take(&mut self.waiting).into_iter();
        while let Some(sent) = waiting.next() {
            let before = message.bytes.len();
            let written = message::append(&mut message.bytes, &sent.0.contents, &sent.0.bytes);
            let fits = message.bytes.len() <= seqpacket::MAX_PACKET;
            if written.is_ok() && fits {
                message.connections.push(sent);
                continue;
            }
            message.bytes.truncate(before);
            if written.is_ok() && before > 0 {
                // The batch is full: this connection becomes the first of the next one.
                self.waiting.push(sent);
                self.waiting.extend(waiting);
                break;
            }
            // The payload cannot be written, such as a unix peer's path that is not UTF-8, or does not fit a
            // message of its own: only this connection stays.
            give_back(sent, HandoffOutcome::Refused);
        }
        (!message.connections.is_empty()).then_some(message)
    }

    /// Moves the connections of the batch that was sent to the unacknowledged ones.
    fn sent(&mut self) {
        let Some(Batch { connections, .. }) = self.next.take() else { return };
        self.count += connections.len();
        self.prompt += connections.iter().filter(|sent| sent.0.contents.is_prompt()).count();
        self.unanswered.insert(self.messages, connections.into_iter().map(Some).collect());
        self.messages += 1;
        failpoint::hit(Step::WorkerAfterHandoff, self.generation);
    }

    /// Returns the connections that are not sent yet to their callers.
    fn return_unsent(&mut self, outcome: HandoffOutcome) {
        let next = self.next.take().unwrap_or_default();
        let all = next.connections.into_iter().chain(self.waiting.drain(..));
        all.for_each(|sent| give_back(sent, outcome));
    }

    /// Returns the connections of an acknowledgement to their callers. Ignores connections that are already
    /// acknowledged or were never sent.
    fn acknowledge(&mut self, Ack { message, index, outcome }: Ack) {
        let Some(connections) = self.unanswered.get_mut(&message) else { return };
        let asked = match index {
            Some(index) => usize::from(index)..usize::from(index) + 1,
            None => 0..connections.len(),
        };
        let asked = connections.get_mut(asked).unwrap_or_default();
        for sent in asked.iter_mut().filter_map(Option::take) {
            self.count -= 1;
            self.prompt -= usize::from(sent.0.contents.is_prompt());
            give_back(sent, outcome);
        }
        if connections.iter().all(Option::is_none) {
            self.unanswered.remove(&message);
        }
    }

    /// Returns all unacknowledged connections: no more acknowledgements will come.
    fn acknowledge_all(&mut self, outcome: HandoffOutcome) {
        let messages: Vec<u64> = self.unanswered.keys().copied().collect();
        for message in messages {
            self.acknowledge(Ack { message, index: None, outcome });
        }
    }
}

/// Returns a connection with the outcome to its caller.
fn give_back((handoff, reply): Sent, outcome: HandoffOutcome) {
    handoff.socket.record(outcome);
    // Fails if the caller was cancelled at the drain deadline: the connection is then closed here.
    let _ = reply.send((outcome, handoff));
}

impl HandoffSocket {
    /// Records the outcome for the ledger.
    fn record(&self, outcome: HandoffOutcome) {
        let HandoffSocket::Stream(stream) = self else { return };
        match outcome {
            HandoffOutcome::Taken => stream.connection().mark_handed_off(),
            HandoffOutcome::Unknown => stream.connection().mark_lost(),
            HandoffOutcome::Refused | HandoffOutcome::Gone | HandoffOutcome::Later => {}
        }
    }
}

impl AsFd for HandoffSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            HandoffSocket::Stream(stream) => stream.as_fd(),
            HandoffSocket::Copy(fd) => fd.as_fd(),
        }
    }
}

/// Returns whether a send failed for lack of a resource that will be free again soon.
fn is_shortage(error: &io::Error) -> bool {
    is_exhaustion(error) || Errno::from_io_error(error) == Some(Errno::TOOMANYREFS)
}

/// Sends a batch; without one, waits forever. Cancel safe: a message is sent whole or not at all.
async fn send(socket: &AsyncFd<OwnedFd>, message: Option<&Batch>) -> io::Result<()> {
    let Some(Batch { bytes, connections }) = message else {
        return std::future::pending().await;
    };
    let fds: Vec<_> = connections.iter().map(|(handoff, _)| handoff.socket.as_fd()).collect();
    socket.async_io(Interest::WRITABLE, |socket| seqpacket::send(socket, bytes, &fds)).await
}

/// Waits for the successor's greeting. Returns whether it is the one of this release's format. If the
/// successor is gone, returns true: the sender then finds the channel closed and returns all connections.
async fn greeted(socket: &AsyncFd<OwnedFd>) -> io::Result<bool> {
    let greeting = receive(socket).await?;
    Ok(greeting.is_none_or(|packet| packet.bytes == message::GREETING))
}

async fn receive(socket: &AsyncFd<OwnedFd>) -> io::Result<Option<seqpacket::Packet>> {
    socket.async_io(Interest::READABLE, |socket| seqpacket::receive(socket)).await
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use tokio::sync::oneshot;
    use tokio::task::JoinHandle;

    use super::super::channel::{HandoffChannel, Returned, Successor};
    use super::super::message::{Handoff, Payload, append_ack, read};
    use super::*;

    /// A sender with its queue, and the other end of its channel.
    struct Bench {
        successor: Successor,
        sender: JoinHandle<io::Result<()>>,
        theirs: OwnedFd,
    }

    impl Bench {
        fn new() -> Bench {
            let (ours, theirs) = seqpacket::pair().unwrap();
            let (HandoffChannel::ToSuccessor(outgoing), successor) =
                HandoffChannel::to_successor(ours)
            else {
                unreachable!()
            };
            seqpacket::send(&theirs, message::GREETING, &[]).unwrap();
            Bench { successor, sender: tokio::spawn(send_all(1, outgoing)), theirs }
        }

        /// Queues a connection; returns where its answer comes.
        async fn queue(&self, contents: Payload) -> oneshot::Receiver<Returned> {
            let socket = std::fs::File::open("/dev/null").unwrap();
            let handoff =
                Handoff { contents, bytes: vec![7], socket: HandoffSocket::Copy(socket.into()) };
            let (answer, answered) = oneshot::channel();
            let slot = self.successor.slot().await.unwrap();
            tokio::spawn(async move { answer.send(slot.hand_off(handoff).await.unwrap()) });
            answered
        }

        /// Lets the sender do all that it can.
        async fn settle(&self) {
            for _ in 0..1000 {
                tokio::task::yield_now().await;
            }
        }

        /// Receives a message; returns how many connections and descriptors it has.
        fn receive(&self) -> (usize, usize) {
            let packet = seqpacket::receive(&self.theirs).unwrap().unwrap();
            (read(&packet.bytes).unwrap().len(), packet.descriptors.len())
        }

        fn answer(&self, answers: &[(u64, Option<u16>, HandoffOutcome)]) {
            let mut message = Vec::new();
            for &(number, index, outcome) in answers {
                append_ack(&mut message, Ack { message: number, index, outcome });
            }
            seqpacket::send(&self.theirs, &message, &[]).unwrap();
        }
    }

    fn own() -> Payload {
        Payload::Own { name: "a".into(), version: 1 }
    }

    fn http() -> Payload {
        let peer = Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 1)));
        Payload::Http {
            listener: "http".into(),
            peer,
            path: None,
            accepted: 1,
            requests: 1,
            since: 1,
            tcp_keepalive: 0,
        }
    }

    async fn outcomes(answers: Vec<oneshot::Receiver<Returned>>) -> Vec<HandoffOutcome> {
        let mut outcomes = Vec::new();
        for answer in answers {
            outcomes.push(answer.await.unwrap().0);
        }
        outcomes
    }

    /// The successor dies after it has acknowledged some of 64 connections, with others unread, before the
    /// sender reads an acknowledgement.
    #[tokio::test]
    async fn dead_successor_keeps_acknowledged_connections() {
        let bench = Bench::new();
        let mut answers = Vec::new();
        for _ in 0..64 {
            answers.push(bench.queue(own()).await);
            bench.settle().await;
        }
        // No await until the successor is gone, so the sender reads no acknowledgement before that.
        assert_eq!(bench.receive(), (1, 1));
        assert_eq!(bench.receive(), (1, 1));
        assert_eq!(bench.receive(), (1, 1));
        bench.answer(&[(0, Some(0), HandoffOutcome::Taken)]);
        bench.answer(&[(2, Some(0), HandoffOutcome::Taken)]);
        let Bench { theirs, sender, .. } = bench;
        drop(theirs);
        let outcomes = outcomes(answers).await;
        for (index, outcome) in outcomes.into_iter().enumerate() {
            let expected =
                if [0, 2].contains(&index) { HandoffOutcome::Taken } else { HandoffOutcome::Gone };
            assert_eq!(outcome, expected, "{index}");
        }
        sender.await.unwrap().unwrap();
    }

    /// A malformed acknowledgement may have meant that all connections were taken.
    #[tokio::test]
    async fn malformed_acknowledgement_gives_up_sent_connections() {
        let bench = Bench::new();
        let sent = bench.queue(own()).await;
        bench.settle().await;
        seqpacket::send(&bench.theirs, b"of another release", &[]).unwrap();
        assert_eq!(sent.await.unwrap().0, HandoffOutcome::Unknown);
        assert!(bench.sender.await.unwrap().is_err());
        assert!(bench.successor.slot().await.is_none());
    }

    #[tokio::test]
    async fn unknown_greeting_gets_no_connections() {
        let (ours, theirs) = seqpacket::pair().unwrap();
        let (HandoffChannel::ToSuccessor(outgoing), successor) = HandoffChannel::to_successor(ours)
        else {
            unreachable!()
        };
        seqpacket::send(&theirs, b"unbroken handoff 2", &[]).unwrap();
        let sender = tokio::spawn(send_all(1, outgoing));
        let bench = Bench { successor, sender, theirs };
        for _ in 0..2 {
            assert_eq!(bench.queue(own()).await.await.unwrap().0, HandoffOutcome::Refused);
        }
        assert!(seqpacket::receive(&bench.theirs).unwrap().is_none());
        drop(bench.successor);
        bench.sender.await.unwrap().unwrap();
    }

    /// Without a greeting there is no place in the queue: waiting connections are still served here.
    #[tokio::test]
    async fn silent_successor_gets_no_connections() {
        let (ours, theirs) = seqpacket::pair().unwrap();
        let (HandoffChannel::ToSuccessor(outgoing), successor) = HandoffChannel::to_successor(ours)
        else {
            unreachable!()
        };
        let sender = tokio::spawn(send_all(1, outgoing));
        let slot = tokio::spawn({
            let successor = successor.clone();
            async move { successor.slot().await.is_some() }
        });
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert!(!slot.is_finished());
        drop(theirs);
        assert!(!slot.await.unwrap());
        sender.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn refused_batch_is_returned() {
        let bench = Bench::new();
        let sent = bench.queue(own()).await;
        bench.settle().await;
        bench.answer(&[
            (0, None, HandoffOutcome::Refused),
            (0, Some(0), HandoffOutcome::Taken),
            (9, None, HandoffOutcome::Gone),
        ]);
        let (outcome, handoff) = sent.await.unwrap();
        assert_eq!((outcome, handoff.bytes), (HandoffOutcome::Refused, vec![7]));
        drop(bench.successor);
        bench.sender.await.unwrap().unwrap();
    }

    /// The first connection is sent at once; those that follow before its acknowledgement are sent together.
    #[tokio::test]
    async fn batch_grows_while_another_is_unacknowledged() {
        let bench = Bench::new();
        let mut answers = vec![bench.queue(http()).await];
        bench.settle().await;
        for _ in 0..MAX_BATCH / 2 {
            answers.push(bench.queue(http()).await);
            bench.settle().await;
        }
        assert_eq!(bench.receive(), (1, 1));
        bench.answer(&[(0, None, HandoffOutcome::Taken)]);
        bench.settle().await;
        assert_eq!(bench.receive(), (MAX_BATCH / 2, MAX_BATCH / 2));
        for _ in 0..MAX_BATCH {
            answers.push(bench.queue(http()).await);
            bench.settle().await;
        }
        assert_eq!(bench.receive(), (MAX_BATCH, MAX_BATCH));
        bench.answer(&[(1, None, HandoffOutcome::Later), (2, None, HandoffOutcome::Taken)]);
        let outcomes = outcomes(answers).await;
        let later = outcomes.iter().filter(|outcome| **outcome == HandoffOutcome::Later).count();
        assert_eq!((outcomes.len(), later), (1 + MAX_BATCH / 2 + MAX_BATCH, MAX_BATCH / 2));
    }

    /// The largest state fills half a message.
    #[test]
    fn overflowing_connection_starts_the_next_batch() {
        let mut sender = BatchSender::default();
        for _ in 0..3 {
            let socket = std::fs::File::open("/dev/null").unwrap().into();
            let bytes = vec![0; message::MAX_BYTES];
            let handoff = Handoff { contents: own(), bytes, socket: HandoffSocket::Copy(socket) };
            sender.waiting.push((handoff, oneshot::channel().0));
        }
        for left in [2, 1, 0] {
            assert_eq!(sender.pack().unwrap().connections.len(), 1);
            assert_eq!(sender.waiting.len(), left);
        }
        assert!(sender.pack().is_none());
    }
}
