//! The old worker's end: connections go out in batches, and come back with their answers.

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

/// The most connections in a message. The kernel would take 253, but what is in flight in either worker is
/// served between two of them.
pub(super) const MAX_BATCH: usize = 64;

/// Connections sent and not yet answered for.
const MAX_UNACKED: usize = 2 * MAX_BATCH;

/// Sends connections and hears the answers. Ends with the successor, or once all is answered and there is
/// nothing more to send.
///
/// What is unanswered when the successor is gone was not taken, and goes on here: all answers that it gave
/// were read by then. What is unanswered when the answers cannot be read is given up, as one connection
/// must not have two owners.
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
    // Those that were not sent, and those that have a place in the queue and do not know of the end yet.
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
    /// Taken from the queue.
    waiting: Vec<Sent>,
    /// The next message.
    next: Option<Batch>,
    /// How many messages were sent, which is the next one's number.
    messages: u64,
    /// By the number of their message.
    unanswered: SortedMap<u64, Vec<Option<Sent>>>,
    /// How many these are, and how many of them are answered for at once.
    count: usize,
    prompt: usize,
}

#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    connections: Vec<Sent>,
}

/// What came next.
enum SenderEvent {
    Heard(io::Result<Option<seqpacket::Packet>>),
    Sent(io::Result<()>),
    /// So many more wait; with none, there will be none.
    Waiting(usize),
}

impl BatchSender {
    async fn run(
        &mut self,
        socket: &AsyncFd<OwnedFd>,
        queue: &mut mpsc::Receiver<Sent>,
    ) -> io::Result<()> {
        let mut more = true;
        // Once it has failed nothing more is sent, and the answers are still read.
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
                // The queue has no more places to wait for.
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
                // Of memory, or as too many descriptors of this user are under way.
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

    /// Whether those that wait are to be sent. A part of a batch waits while others are under way, and grows
    /// meanwhile.
    fn is_due(&self) -> bool {
        let full = self.waiting.len() >= MAX_BATCH;
        (full || self.prompt == 0) && self.count + self.waiting.len() <= MAX_UNACKED
    }

    /// Makes a message of those that wait.
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
                // It is the first one of the next message.
                self.waiting.push(sent);
                self.waiting.extend(waiting);
                break;
            }
            // One whose peer has a name that is not text stays here, by itself.
            give_back(sent, HandoffOutcome::Refused);
        }
        (!message.connections.is_empty()).then_some(message)
    }

    /// The next message is on its way.
    fn sent(&mut self) {
        let Some(Batch { connections, .. }) = self.next.take() else { return };
        self.count += connections.len();
        self.prompt += connections.iter().filter(|sent| sent.0.contents.is_prompt()).count();
        self.unanswered.insert(self.messages, connections.into_iter().map(Some).collect());
        self.messages += 1;
        failpoint::hit(Step::WorkerAfterHandoff, self.generation);
    }

    /// Those that are not sent yet stay.
    fn return_unsent(&mut self, verdict: HandoffOutcome) {
        let next = self.next.take().unwrap_or_default();
        let all = next.connections.into_iter().chain(self.waiting.drain(..));
        all.for_each(|sent| give_back(sent, verdict));
    }

    fn acknowledge(&mut self, Ack { message, index, verdict }: Ack) {
        let Some(connections) = self.unanswered.get_mut(&message) else { return };
        let asked = match index {
            Some(index) => usize::from(index)..usize::from(index) + 1,
            None => 0..connections.len(),
        };
        let asked = connections.get_mut(asked).unwrap_or_default();
        for sent in asked.iter_mut().filter_map(Option::take) {
            self.count -= 1;
            self.prompt -= usize::from(sent.0.contents.is_prompt());
            give_back(sent, verdict);
        }
        if connections.iter().all(Option::is_none) {
            self.unanswered.remove(&message);
        }
    }

    /// There will be no more answers.
    fn acknowledge_all(&mut self, verdict: HandoffOutcome) {
        let messages: Vec<u64> = self.unanswered.keys().copied().collect();
        for message in messages {
            self.acknowledge(Ack { message, index: None, verdict });
        }
    }
}

/// Gives a connection back to who waits for it.
fn give_back((handoff, reply): Sent, verdict: HandoffOutcome) {
    handoff.socket.record(verdict);
    // Who waits may have been cancelled at the deadline: then the connection ends here.
    let _ = reply.send((verdict, handoff));
}

impl HandoffSocket {
    /// Notes for the ledger what becomes of it.
    fn record(&self, verdict: HandoffOutcome) {
        let HandoffSocket::Stream(stream) = self else { return };
        match verdict {
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

/// Whether there will be room for a message in a moment.
fn is_shortage(error: &io::Error) -> bool {
    is_exhaustion(error) || Errno::from_io_error(error) == Some(Errno::TOOMANYREFS)
}

/// Cancel safe: a message is sent whole, or not at all.
async fn send(socket: &AsyncFd<OwnedFd>, message: Option<&Batch>) -> io::Result<()> {
    let Some(Batch { bytes, connections }) = message else {
        return std::future::pending().await;
    };
    let fds: Vec<_> = connections.iter().map(|(handoff, _)| handoff.socket.as_fd()).collect();
    socket.async_io(Interest::WRITABLE, |socket| seqpacket::send(socket, bytes, &fds)).await
}

/// Whether the successor takes connections as this release sends them. One that is gone will not say
/// anything else.
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
            for &(number, index, verdict) in answers {
                append_ack(&mut message, Ack { message: number, index, verdict });
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

    async fn verdicts(answers: Vec<oneshot::Receiver<Returned>>) -> Vec<HandoffOutcome> {
        let mut verdicts = Vec::new();
        for answer in answers {
            verdicts.push(answer.await.unwrap().0);
        }
        verdicts
    }

    /// It has answered for some of 64 connections, has others unread, and is gone before an answer is read.
    #[tokio::test]
    async fn a_dead_successor_keeps_what_it_has_taken() {
        let bench = Bench::new();
        let mut answers = Vec::new();
        for _ in 0..64 {
            answers.push(bench.queue(own()).await);
            bench.settle().await;
        }
        // Nothing is awaited until it is gone: the sender reads no answer before.
        assert_eq!(bench.receive(), (1, 1));
        assert_eq!(bench.receive(), (1, 1));
        assert_eq!(bench.receive(), (1, 1));
        bench.answer(&[(0, Some(0), HandoffOutcome::Taken)]);
        bench.answer(&[(2, Some(0), HandoffOutcome::Taken)]);
        let Bench { theirs, sender, .. } = bench;
        drop(theirs);
        let verdicts = verdicts(answers).await;
        for (index, verdict) in verdicts.into_iter().enumerate() {
            let expected =
                if [0, 2].contains(&index) { HandoffOutcome::Taken } else { HandoffOutcome::Gone };
            assert_eq!(verdict, expected, "{index}");
        }
        sender.await.unwrap().unwrap();
    }

    /// What cannot be understood may have meant that all were taken.
    #[tokio::test]
    async fn an_answer_that_is_none_gives_up_what_was_sent() {
        let bench = Bench::new();
        let sent = bench.queue(own()).await;
        bench.settle().await;
        seqpacket::send(&bench.theirs, b"of another release", &[]).unwrap();
        assert_eq!(sent.await.unwrap().0, HandoffOutcome::Unknown);
        assert!(bench.sender.await.unwrap().is_err());
        assert!(bench.successor.slot().await.is_none());
    }

    /// One that greets otherwise is sent nothing.
    #[tokio::test]
    async fn nothing_is_sent_to_another_release() {
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

    /// One that says nothing gets no place in the queue: what waits is served meanwhile.
    #[tokio::test]
    async fn a_successor_that_does_not_greet_gets_nothing() {
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
    async fn a_message_that_was_not_understood_stays() {
        let bench = Bench::new();
        let sent = bench.queue(own()).await;
        bench.settle().await;
        bench.answer(&[
            (0, None, HandoffOutcome::Refused),
            (0, Some(0), HandoffOutcome::Taken),
            (9, None, HandoffOutcome::Gone),
        ]);
        let (verdict, handoff) = sent.await.unwrap();
        assert_eq!((verdict, handoff.bytes), (HandoffOutcome::Refused, vec![7]));
        drop(bench.successor);
        bench.sender.await.unwrap().unwrap();
    }

    /// The first goes out at once; those that come meanwhile go together.
    #[tokio::test]
    async fn a_batch_grows_while_another_is_under_way() {
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
        let verdicts = verdicts(answers).await;
        let later = verdicts.iter().filter(|verdict| **verdict == HandoffOutcome::Later).count();
        assert_eq!((verdicts.len(), later), (1 + MAX_BATCH / 2 + MAX_BATCH, MAX_BATCH / 2));
    }

    /// A state may fill half a message.
    #[test]
    fn what_does_not_fit_comes_next() {
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
