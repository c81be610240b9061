//! The public handoff API: an application hands off any connected socket together with a state.

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

/// The state of a connection that an application hands off with it.
///
/// The two generations may run different releases of the program. The receiver checks `version` and refuses
/// one that it does not know by dropping the [`Offer`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandoffState {
    /// The format of `bytes`, chosen by the application.
    pub version: u32,
    /// The state itself, up to [`HandoffState::MAX`] bytes.
    pub bytes: Vec<u8>,
}

impl HandoffState {
    /// The maximum length of `bytes`: 64 KiB.
    pub const MAX: usize = MAX_BYTES;
}

/// A socket that can be handed off: a connection of a listener, or any other connected socket.
///
/// Implemented for the streams of [`net`](crate::net), Tokio's and the standard library's streams, and
/// [`OwnedFd`].
pub trait HandoffStream: sealed::Sealed {}

mod sealed {
    use std::io;
    use std::os::fd::OwnedFd;

    pub trait Sealed {
        fn duplicate(&self) -> io::Result<OwnedFd>;
        /// Notes for the ledger that the next generation took the connection. Only tracked streams count.
        fn handed_off(&self) {}
        /// Notes for the ledger that whether the next generation took the connection cannot be known.
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

    fn handed_off(&self) {
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

    fn handed_off(&self) {
        self.connection().mark_handed_off();
    }

    fn lost(&self) {
        self.connection().mark_lost();
    }
}

/// The error of [`Daemon::hand_off`]. It returns the connection, which this worker still owns.
pub struct HandoffError<S> {
    /// The connection.
    pub stream: S,
    /// The state given to [`Daemon::hand_off`].
    pub state: HandoffState,
    /// The reason for the failure.
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
    /// Hands off a connection to the serving generation, which accepts it from [`Daemon::handoffs`] under the
    /// same name.
    ///
    /// Call it after [`Daemon::draining`] has completed. It waits until there is a generation to hand off to.
    /// On `Ok` the new generation has accepted the connection. If that generation dies or drains before it
    /// accepts, the connection is offered to the one after it, until the drain deadline.
    ///
    /// `Ok` is also returned if the channel breaks after the connection was sent, so that this worker cannot
    /// know whether it was accepted. A connection must never have two owners: this worker then closes its end
    /// and the ledger counts the connection as lost.
    ///
    /// Dropping the future before the connection is accepted has no effect on it.
    ///
    /// # Errors
    /// [`HandoffError`] returns the connection, whose peer can now be asked to close, if
    /// - the new generation did not call [`Daemon::handoffs`] for this name, or refused the connection;
    /// - no generation follows this worker: the daemon stops, or is solo;
    /// - no generation accepted the connection before the drain deadline;
    /// - the key `handoff` is off;
    /// - the state is longer than [`HandoffState::MAX`].
    pub async fn hand_off<S: HandoffStream>(
        &self,
        name: &str,
        stream: S,
        state: HandoffState,
    ) -> Result<(), HandoffError<S>> {
        match hand_off(&self.state, name, &stream, &state).await {
            Ok(Departure::Taken) => {
                stream.handed_off();
                Ok(())
            }
            Ok(Departure::Unknown) => {
                stream.lost();
                Ok(())
            }
            Err(reason) => Err(HandoffError { stream, state, reason }),
        }
    }

    /// Returns the connections that older generations [hand off](Daemon::hand_off) under this name.
    ///
    /// Call it before the worker is ready, that is before its listeners are polled for accept: connections
    /// handed off under a name without a receiver are refused. If it is called again for the same name, all
    /// further connections go to the new receiver.
    pub fn handoffs(&self, name: &str) -> IncomingHandoffs {
        let (sender, offers) = mpsc::unbounded_channel();
        let state = Arc::clone(&self.state);
        let handler = move |handoff: Handoff<OwnedFd>, pending_ack: PendingAck| {
            let Handoff { contents: Payload::Own { version, .. }, bytes, socket } = handoff else {
                return;
            };
            let saved = HandoffState { version, bytes };
            let state = Arc::clone(&state);
            // If the receiver was dropped, the offer is dropped here, which refuses it.
            let _ = sender.send(Offer { state, socket, saved, pending_ack });
        };
        self.state.handoffs.register(HandoffTarget::Own(name.to_owned()), Arc::new(handler));
        IncomingHandoffs {
            offers,
            draining: Box::pin(self.state.draining.clone().cancelled_owned()),
        }
    }
}

/// The outcome of a handoff after which this worker no longer owns the connection.
enum Departure {
    /// The next generation took it.
    Taken,
    /// It was sent, and whether it was taken cannot be known.
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

/// Waits for a generation to hand off to, other than the one already tried.
async fn next_successor(state: &SharedState, tried: Option<u64>) -> Successor {
    let mut successors = state.handoffs.successors();
    let waited = successors
        .wait_for(|successor| successor.as_ref().is_some_and(|it| Some(it.number) != tried))
        .await;
    match waited.ok().and_then(|successor| successor.clone()) {
        Some(successor) => successor,
        None => std::future::pending().await,
    }
}

/// Completes when this worker drains and no generation follows it.
async fn no_successor(state: &SharedState) {
    state.draining.cancelled().await;
    if !state.is_last() {
        std::future::pending::<()>().await;
    }
}

/// The connections that older generations hand off, returned by [`Daemon::handoffs`]. A
/// [`Stream`](futures_core::Stream) of offers that ends when this worker drains.
#[must_use = "connections are refused when this is dropped"]
pub struct IncomingHandoffs {
    offers: mpsc::UnboundedReceiver<Offer>,
    draining: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl IncomingHandoffs {
    /// Returns the next offer; `None` once this worker drains. Cancel safe.
    pub async fn next(&mut self) -> Option<Offer> {
        std::future::poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }
}

impl Sequence for IncomingHandoffs {
    type Item = Offer;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Offer>> {
        if self.draining.as_mut().poll(cx).is_ready() {
            // Offers left in the queue are dropped. While this worker drains, that answers *gone*, and the
            // older generation offers the connection to the serving one.
            self.offers.close();
            while self.offers.try_recv().is_ok() {}
            return Poll::Ready(None);
        }
        self.offers.poll_recv(cx)
    }
}

impl fmt::Debug for IncomingHandoffs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IncomingHandoffs").finish_non_exhaustive()
    }
}

/// A connection that an older generation offers. The older generation owns it until it is accepted; dropping
/// the offer refuses it.
#[must_use = "dropping an offer refuses the connection"]
pub struct Offer {
    state: Arc<SharedState>,
    socket: OwnedFd,
    saved: HandoffState,
    pending_ack: PendingAck,
}

impl Offer {
    /// Returns the state that the older generation sent with the connection.
    pub fn state(&self) -> &HandoffState {
        &self.saved
    }

    /// Accepts the connection. From here on it counts as a connection of this worker.
    ///
    /// # Errors
    /// If the socket is not a stream over TCP or a unix socket ([`accept_socket`](Offer::accept_socket) takes
    /// those), or the runtime cannot watch it: the connection is refused. If the channel to the older
    /// generation broke: the older generation keeps the connection.
    pub async fn accept(self) -> io::Result<(Stream, HandoffState)> {
        let Offer { state, socket, saved, pending_ack } = self;
        let stream = Stream::from_socket(&state, socket)?;
        pending_ack.ack().await?;
        stream.connection().mark_received();
        Ok((stream, saved))
    }

    /// Accepts a socket of any kind. It is not counted in the ledger, and no drain waits for it.
    ///
    /// # Errors
    /// If the channel to the older generation broke: the older generation keeps the socket.
    pub async fn accept_socket(self) -> io::Result<(OwnedFd, HandoffState)> {
        let Offer { socket, saved, pending_ack, .. } = self;
        pending_ack.ack().await?;
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
