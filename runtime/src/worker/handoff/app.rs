//! Passing by the application: any connected socket, with a state.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_core::Stream as Sequence;
use tokio::sync::mpsc;
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::channel::{HandoffOutcome, HandoffSocket, RETRIES, RETRY_DELAY, Successor};
use super::message::{Handoff, HandoffTarget, MAX_BYTES, Payload};
use super::receiving::PendingAck;
use crate::error::{Error, ErrorKind, Result};
use crate::net::{Stream, Tracked};
use crate::worker::daemon::Daemon;
use crate::worker::state::SharedState;

/// What an application knows of a connection, as it travels to the next generation.
///
/// The two generations may be different releases: a newer one reads the versions that it knows, and
/// refuses others by dropping the [`Offer`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandoffState {
    /// Says how `bytes` are to be read.
    pub version: u32,
    /// Up to [`Saved::MAX`] bytes.
    pub bytes: Vec<u8>,
}

impl HandoffState {
    /// The most bytes that travel with a connection: 64 KiB.
    pub const MAX: usize = MAX_BYTES;
}

/// A socket that can be passed: a connection of a listener, or any other that is connected.
///
/// Implemented for the streams of [`net`](crate::net), Tokio's and the standard library's streams, and
/// [`OwnedFd`].
pub trait HandoffStream: sealed::Sealed {}

mod sealed {
    use std::io;
    use std::os::fd::OwnedFd;

    pub trait Sealed {
        fn duplicate(&self) -> io::Result<OwnedFd>;
        /// The next generation has it.
        fn passed(&self) {}
        /// Whether the next generation has it cannot be known.
        fn lost(&self) {}
    }
}

macro_rules! passable {
    ($($kind:ty)*) => { $(
        impl HandoffStream for $kind {}
        impl sealed::Sealed for $kind {
            fn duplicate(&self) -> io::Result<OwnedFd> {
                self.as_fd().try_clone_to_owned()
            }
        }
    )* };
}
passable! {
    OwnedFd
    tokio::net::TcpStream tokio::net::UnixStream
    std::net::TcpStream std::os::unix::net::UnixStream
}

impl<S: AsFd> HandoffStream for Tracked<S> {}
impl<S: AsFd> sealed::Sealed for Tracked<S> {
    fn duplicate(&self) -> io::Result<OwnedFd> {
        self.as_fd().try_clone_to_owned()
    }

    fn passed(&self) {
        self.connection().mark_handed_off();
    }

    fn lost(&self) {
        self.connection().mark_lost();
    }
}

impl HandoffStream for Stream {}
impl sealed::Sealed for Stream {
    fn duplicate(&self) -> io::Result<OwnedFd> {
        Stream::duplicate(self)
    }

    fn passed(&self) {
        self.connection().mark_handed_off();
    }

    fn lost(&self) {
        self.connection().mark_lost();
    }
}

/// A connection that was not passed, with what it came with: it goes on here.
pub struct HandoffError<S> {
    /// The connection.
    pub stream: S,
    /// What should have travelled along.
    pub state: HandoffState,
    /// Why it was not passed.
    pub reason: Error,
}

impl<S> fmt::Debug for HandoffError<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandoffError").field("reason", &self.reason).finish_non_exhaustive()
    }
}

impl<S> fmt::Display for HandoffError<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reason.fmt(f)
    }
}

impl<S> std::error::Error for HandoffError<S> {}

impl Daemon {
    /// Passes a connection to the generation that serves, which takes it from [`Daemon::handoffs`] under
    /// the same name.
    ///
    /// To be called when [`Daemon::draining`] has completed; before that it waits. On `Ok` the new
    /// generation has taken it. (Should the channel between the two break so that nobody can know whether
    /// it has, this end is closed, as a connection must not have two owners; that is `Ok` too.) A new generation that dies or drains before it has taken the connection
    /// costs nothing: it goes to the one after that, until the drain deadline.
    ///
    /// Drop safe up to the moment at which the connection is taken.
    ///
    /// # Errors
    /// The connection comes back in [`Unpassed`], and it is a good moment to say goodbye to its peer,
    /// if
    /// - the new generation does not call [`Daemon::handoffs`] for this name, or refused it;
    /// - nobody comes after this worker: the daemon stops, or is solo;
    /// - `handoff` is off;
    /// - the state is longer than [`Saved::MAX`].
    pub async fn hand_off<S: HandoffStream>(
        &self,
        name: &str,
        stream: S,
        saved: HandoffState,
    ) -> Result<(), HandoffError<S>> {
        match hand_off(&self.state, name, &stream, &saved).await {
            Ok(Departure::Taken) => {
                stream.passed();
                Ok(())
            }
            Ok(Departure::Unknown) => {
                stream.lost();
                Ok(())
            }
            Err(reason) => Err(HandoffError { stream, state: saved, reason }),
        }
    }

    /// What older generations [pass](Daemon::hand_off) under this name.
    ///
    /// To be called before the worker is ready, that is before its listeners are polled for accept:
    /// what comes earlier is refused. Called again, the later one takes over.
    pub fn handoffs(&self, name: &str) -> IncomingHandoffs {
        let (sender, offers) = mpsc::unbounded_channel();
        let state = Arc::clone(&self.state);
        let adopter = move |handoff: Handoff<OwnedFd>, receipt: PendingAck| {
            let Handoff { contents: Payload::Own { version, .. }, bytes, socket } = handoff else {
                return;
            };
            let saved = HandoffState { version, bytes };
            let state = Arc::clone(&state);
            // Where nobody takes offers any more it is dropped, and so refused.
            let _ = sender.send(Offer { state, socket, saved, receipt });
        };
        self.state.passage.register(HandoffTarget::Own(name.to_owned()), Arc::new(adopter));
        IncomingHandoffs {
            offers,
            draining: Box::pin(self.state.draining.clone().cancelled_owned()),
        }
    }
}

/// What became of a connection that this worker has no more.
enum Departure {
    Taken,
    Unknown,
}

async fn hand_off(
    state: &SharedState,
    name: &str,
    stream: &impl HandoffStream,
    saved: &HandoffState,
) -> Result<Departure, Error> {
    let refused = |why: String| Error::new(ErrorKind::Refused, why);
    if saved.bytes.len() > HandoffState::MAX {
        return Err(refused(format!(
            "a connection of `{name}` was not handed off: its state has {} bytes, more than {}",
            saved.bytes.len(),
            HandoffState::MAX
        )));
    }
    if !state.configuration.settings.handoff {
        return Err(refused(format!(
            "a connection of `{name}` was not handed off: `handoff` is off"
        )));
    }
    let (mut tried, mut retries) = (None, RETRIES);
    loop {
        let successor = tokio::select! {
            successor = next_successor(state, tried) => successor,
            () = no_successor(state) => {
                return Err(refused(format!(
                    "a connection of `{name}` was not handed off: no generation follows this worker"
                )));
            }
            () = state.forced.cancelled() => {
                return Err(Error::new(ErrorKind::Timeout, format!(
                    "a connection of `{name}` was not handed off before the drain deadline"
                )));
            }
        };
        let socket = stream.duplicate().map_err(|error| {
            Error::io(format!("a connection of `{name}` was not handed off"), error)
        })?;
        let contents = Payload::Own { name: name.to_owned(), version: saved.version };
        let socket = HandoffSocket::Copy(socket);
        let handoff = Handoff { contents, bytes: saved.bytes.clone(), socket };
        match successor.hand_off_app(handoff).await {
            HandoffOutcome::Taken => return Ok(Departure::Taken),
            HandoffOutcome::Unknown => return Ok(Departure::Unknown),
            HandoffOutcome::Gone => tried = Some(successor.number),
            HandoffOutcome::Later if retries > 0 => {
                retries -= 1;
                tokio::time::sleep(RETRY_DELAY).await;
            }
            HandoffOutcome::Refused | HandoffOutcome::Later => {
                return Err(refused(format!(
                    "a connection of `{name}` was not handed off: the new generation did not \
                     accept it; call `Daemon::handoffs` before it is ready"
                )));
            }
        }
    }
}

/// A generation to pass to, other than the one that was tried.
async fn next_successor(state: &SharedState, tried: Option<u64>) -> Successor {
    let mut successors = state.passage.successors();
    let waited = successors
        .wait_for(|successor| successor.as_ref().is_some_and(|it| Some(it.number) != tried))
        .await;
    match waited.ok().and_then(|successor| successor.clone()) {
        Some(successor) => successor,
        None => std::future::pending().await,
    }
}

/// Completes when this worker drains and is the last one.
async fn no_successor(state: &SharedState) {
    state.draining.cancelled().await;
    if !state.is_last() {
        std::future::pending::<()>().await;
    }
}

/// What older generations pass: see [`Daemon::handoffs`]. A [`Stream`](futures_core::Stream) of offers
/// that ends when this worker drains.
#[must_use = "connections are refused when this is dropped"]
pub struct IncomingHandoffs {
    offers: mpsc::UnboundedReceiver<Offer>,
    draining: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl IncomingHandoffs {
    /// The next offer; `None` once this worker drains. Cancel safe.
    pub async fn next(&mut self) -> Option<Offer> {
        std::future::poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }
}

impl Sequence for IncomingHandoffs {
    type Item = Offer;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Offer>> {
        if self.draining.as_mut().poll(cx).is_ready() {
            // What waits here is dropped, and goes to the generation that serves now.
            self.offers.close();
            while self.offers.try_recv().is_ok() {}
            return Poll::Ready(None);
        }
        self.offers.poll_recv(cx)
    }
}

impl fmt::Debug for IncomingHandoffs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Passed").finish_non_exhaustive()
    }
}

/// A connection that an older generation offers. It stays there until it is taken; dropping the offer
/// refuses it.
#[must_use = "dropping an offer refuses the connection"]
pub struct Offer {
    state: Arc<SharedState>,
    socket: OwnedFd,
    saved: HandoffState,
    receipt: PendingAck,
}

impl Offer {
    /// What the older generation knows of the connection.
    pub fn state(&self) -> &HandoffState {
        &self.saved
    }

    /// Takes the connection. It counts among this worker's from here on.
    ///
    /// # Errors
    /// Where it is no connected stream over TCP or a unix socket, which
    /// [`take_socket`](Offer::take_socket) can take, or the runtime cannot watch it, it is refused. Where the
    /// channel to the older generation broke, that one keeps it.
    pub async fn accept(self) -> io::Result<(Stream, HandoffState)> {
        let Offer { state, socket, saved, receipt } = self;
        let stream = Stream::from_socket(&state, socket)?;
        receipt.ack().await?;
        stream.connection().mark_received();
        Ok((stream, saved))
    }

    /// Takes a socket of whatever kind. It is not counted, and no drain waits for it.
    ///
    /// # Errors
    /// Where the channel to the older generation broke, which keeps it then.
    pub async fn accept_socket(self) -> io::Result<(OwnedFd, HandoffState)> {
        let Offer { socket, saved, receipt, .. } = self;
        receipt.ack().await?;
        Ok((socket, saved))
    }
}

impl fmt::Debug for Offer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Offer")
            .field("version", &self.saved.version)
            .field("bytes", &self.saved.bytes.len())
            .finish_non_exhaustive()
    }
}
