//! Listeners for async programs: Tokio's accept, which waits while this worker may not accept.
//!
//! [`GatedListener`] is the implementation behind all three public types. Its loop asks
//! [`SharedState::listener_mode`] before each accept: accept, wait, finish the queue of a listener that no
//! later generation has, or end. Sockets are registered with epoll only while accepting is allowed.

use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use rustix::io::Errno;
use rustix::net::SocketFlags;
use tokio::sync::watch;

use super::{Addr, Stream, TcpStream, Tracked, UnixStream, drain_listener};
use crate::error::{Error, ErrorKind, Result};
use crate::failpoint::{self, Step};
use crate::worker::daemon::claim_listener;
use crate::worker::state::{Incoming, ListenerClaim, ListenerMode, SharedState, WorkerPhase, lock};

/// A declared listener, over TCP or a unix socket: configuration may change the kind.
///
/// It accepts on the socket that the daemon bound, or on the sockets that a service manager passed under its
/// name (`FileDescriptorName=`, systemd.socket(5)). These may be several, and of both kinds.
///
/// [`accept`](Listener::accept) waits while this worker may not accept, and forever once it drains;
/// [`next`](Listener::next) returns `None` then, which ends an accept loop.
pub struct Listener {
    gated: GatedListener,
}

/// A [`Listener`] known to be TCP.
pub struct TcpListener {
    gated: GatedListener,
}

/// A [`Listener`] known to be a unix socket.
pub struct UnixListener {
    gated: GatedListener,
}

/// The sockets of a listener, usually one, each registered with the runtime while accepting is allowed.
struct GatedListener {
    state: Arc<SharedState>,
    phase: watch::Receiver<WorkerPhase>,
    /// The listener's place among the declared ones, in the order of their names.
    index: usize,
    /// The address of the first socket.
    addr: Addr,
    /// Empty once the worker drains.
    sockets: Vec<GatedSocket>,
    /// Replaced unix sockets whose files were removed; each is kept until its queue is empty.
    former: Vec<GatedSocket>,
    /// New sockets from the supervisor, each with the place of the one it replaces.
    incoming: Arc<Incoming>,
    /// The socket that was polled last. Polling begins with the one after it, so a busy socket cannot starve
    /// the others.
    turn: usize,
}

struct GatedSocket {
    fd: OwnedFd,
    addr: Addr,
    registered: Option<RegisteredSocket>,
}

enum RegisteredSocket {
    Tcp(tokio::net::TcpListener),
    Unix(tokio::net::UnixListener),
}

impl GatedListener {
    fn new(state: &Arc<SharedState>, name: &str) -> Result<GatedListener> {
        let ListenerClaim { sockets, former, addr, index, incoming } = claim_listener(state, name)?;
        let state = Arc::clone(state);
        let socket = |(fd, addr)| GatedSocket { fd, addr, registered: None };
        let sockets = sockets.into_iter().map(socket).collect();
        let former = former.into_iter().map(socket).collect();
        let phase = state.phase();
        Ok(GatedListener { phase, state, index, addr, sockets, former, incoming, turn: 0 })
    }

    /// Replaces sockets whose files were removed by those that the supervisor bound in their place.
    fn renew(&mut self) {
        for (place, fd) in std::mem::take(&mut *lock(&self.incoming)) {
            let Some(socket) = self.sockets.get_mut(place) else { continue };
            let new = GatedSocket { fd, addr: socket.addr.clone(), registered: None };
            self.former.push(std::mem::replace(socket, new));
        }
    }

    /// Accepts a connection left in the queue of a replaced socket, to which nothing can connect any longer.
    /// Drops each such socket once its queue is empty.
    fn accept_former(&mut self) -> Option<(Stream, Addr)> {
        while let Some(socket) = self.former.last() {
            match socket.accept_now(&self.state) {
                Ok(Some(accepted)) => return Some(accepted),
                Err(error) if super::is_transient(&error) => {}
                // The clients stay in the queue: the accept loop tries again on its next turn.
                Err(error) if super::is_exhaustion(&error) => return None,
                Ok(None) | Err(_) => _ = self.former.pop(),
            }
        }
        None
    }

    /// Returns the next connection; `None` once this worker drains. Being called at all is what makes a
    /// listener count for readiness.
    async fn next(&mut self) -> Option<io::Result<(Stream, Addr)>> {
        self.state.mark_polled(self.index);
        loop {
            let phase = *self.phase.borrow_and_update();
            self.renew();
            if phase != WorkerPhase::Waiting
                && let Some(accepted) = self.accept_former()
            {
                return Some(Ok(accepted));
            }
            match self.state.listener_mode(phase, self.index) {
                ListenerMode::Accept => {}
                ListenerMode::Finish { until } => return self.finish(until).await,
                ListenerMode::Over => {
                    self.sockets.clear();
                    return None;
                }
                ListenerMode::Wait => {
                    // Dropping the registration removes the socket from epoll.
                    self.sockets.iter_mut().for_each(|socket| socket.registered = None);
                    self.phase.changed().await.ok()?;
                    continue;
                }
            }
            let error = if let Err(error) = self.register() {
                error
            } else if let Err(error) =
                failpoint::try_hit(Step::WorkerBeforeAccept, self.state.generation)
            {
                error
            } else {
                let accept = accept(&self.sockets, &mut self.turn, &self.state);
                tokio::select! {
                    biased;
                    changed = self.phase.changed() => {
                        changed.ok()?;
                        continue;
                    }
                    accepted = accept => match accepted {
                        Ok(accepted) => return Some(Ok(accepted)),
                        Err(error) => error,
                    },
                }
            };
            if super::is_exhaustion(&error) {
                // Connections that are not accepted stay in the kernel's queue.
                tracing::error!(%error, listener = %self.addr, "accept failed, retrying");
                tokio::select! {
                    changed = self.phase.changed() => changed.ok()?,
                    () = tokio::time::sleep(super::EXHAUSTED_RETRY_DELAY) => {}
                }
            } else if !super::is_transient(&error) {
                return Some(Err(error));
            }
        }
    }

    /// Accepts what is left in the queue of a listener that no worker accepts on after this one. Once the
    /// queue is empty, closes the sockets and returns `None`. After `until`, no handshake can still add a
    /// connection to the queue.
    async fn finish(&mut self, until: Instant) -> Option<io::Result<(Stream, Addr)>> {
        let (state, index) = (&self.state, self.index);
        self.sockets.retain(|socket| state.ends(index, &socket.addr));
        let mut pause = drain_listener::FIRST_LOOK_DELAY;
        loop {
            let error = match self.accept_last(until) {
                Ok(Some(accepted)) => return Some(Ok(accepted)),
                Ok(None) => match self.register() {
                    Err(error) => error,
                    Ok(()) => {
                        let look = until.min(Instant::now() + pause);
                        pause *= 2;
                        tokio::select! {
                            accepted = accept(&self.sockets, &mut self.turn, &self.state) => {
                                match accepted {
                                    Ok(accepted) => return Some(Ok(accepted)),
                                    Err(error) => error,
                                }
                            }
                            () = tokio::time::sleep_until(look.into()) => continue,
                        }
                    }
                },
                Err(None) => break,
                Err(Some(error)) => error,
            };
            if drain_listener::has_ended(&error) {
                break;
            }
            if super::is_exhaustion(&error) {
                // Tries again, if need be until the process is ended at the drain deadline.
                tracing::error!(%error, listener = %self.addr, "accept failed, retrying");
                tokio::time::sleep(super::EXHAUSTED_RETRY_DELAY).await;
            } else if !super::is_transient(&error) {
                return Some(Err(error));
            }
        }
        self.sockets.drain(..).for_each(|socket| drain_listener::close(&socket.fd));
        None
    }

    /// Same as [`accept_now`](GatedListener::accept_now), but returns `Err(None)` if no connection can reach
    /// the queue any longer.
    fn accept_last(&mut self, until: Instant) -> Result<Option<(Stream, Addr)>, Option<io::Error>> {
        if let Some(accepted) = self.accept_now()? {
            return Ok(Some(accepted));
        }
        let over = Instant::now() >= until
            || !self
                .sockets
                .iter()
                .any(|socket| drain_listener::has_pending_handshakes(&socket.addr));
        // A handshake may have ended between the first accept and the look at pending handshakes.
        match self.accept_now()? {
            None if over => Err(None),
            accepted => Ok(accepted),
        }
    }

    /// Accepts from the queues by accept(2) alone, without the runtime's readiness, which may lag behind.
    fn accept_now(&mut self) -> io::Result<Option<(Stream, Addr)>> {
        for socket in &self.sockets {
            if let Some(accepted) = socket.accept_now(&self.state)? {
                return Ok(Some(accepted));
            }
        }
        Ok(None)
    }

    fn register(&mut self) -> io::Result<()> {
        self.sockets.iter_mut().try_for_each(GatedSocket::register)
    }
}

/// Waits for a connection on any of the sockets and accepts it.
async fn accept(
    sockets: &[GatedSocket],
    turn: &mut usize,
    state: &Arc<SharedState>,
) -> io::Result<(Stream, Addr)> {
    poll_fn(|cx| {
        for _ in sockets {
            *turn = (*turn + 1) % sockets.len();
            let registered = sockets.get(*turn).and_then(|socket| socket.registered.as_ref());
            if let Some(Poll::Ready(accepted)) = registered.map(|it| it.poll_accept(cx, state)) {
                return Poll::Ready(accepted);
            }
        }
        Poll::Pending
    })
    .await
    .inspect(|_| failpoint::hit(Step::WorkerAfterAccept, state.generation))
}

impl GatedSocket {
    fn accept_now(&self, state: &Arc<SharedState>) -> io::Result<Option<(Stream, Addr)>> {
        let attempt = state.accepting();
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let accepted = match rustix::net::accept_with(&self.fd, flags) {
            Ok(accepted) => accepted,
            Err(Errno::AGAIN) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let connection = attempt.succeeded();
        failpoint::note_peer(&accepted);
        failpoint::hit(Step::WorkerAfterAccept, state.generation);
        Ok(Some(match self.addr {
            Addr::Tcp(_) => {
                let stream = tokio::net::TcpStream::from_std(accepted.into())?;
                // A peer that is already gone has no address. Reading the stream returns the error.
                let peer = stream.peer_addr().map_or_else(|_| self.addr.clone(), Addr::Tcp);
                (Stream::Tcp(Tracked::new(stream, connection)), peer)
            }
            Addr::Unix(_) => {
                let stream = tokio::net::UnixStream::from_std(accepted.into())?;
                let peer = stream.peer_addr().map_or(Addr::Unix(None), |addr| Addr::of_unix(&addr));
                (Stream::Unix(Tracked::new(stream, connection)), peer)
            }
        }))
    }

    fn register(&mut self) -> io::Result<()> {
        if self.registered.is_none() {
            let socket = self.fd.try_clone()?;
            self.registered = Some(match self.addr {
                Addr::Tcp(_) => {
                    RegisteredSocket::Tcp(tokio::net::TcpListener::from_std(socket.into())?)
                }
                Addr::Unix(_) => {
                    RegisteredSocket::Unix(tokio::net::UnixListener::from_std(socket.into())?)
                }
            });
        }
        Ok(())
    }
}

impl RegisteredSocket {
    /// Accepts a connection, counted from before accept(2).
    fn poll_accept(
        &self,
        cx: &mut Context<'_>,
        state: &Arc<SharedState>,
    ) -> Poll<io::Result<(Stream, Addr)>> {
        let attempt = state.accepting();
        Poll::Ready(match self {
            RegisteredSocket::Tcp(listener) => {
                ready!(listener.poll_accept(cx)).map(|(tcp, peer)| {
                    failpoint::note_peer(&tcp);
                    (Stream::Tcp(Tracked::new(tcp, attempt.succeeded())), Addr::Tcp(peer))
                })
            }
            RegisteredSocket::Unix(listener) => {
                ready!(listener.poll_accept(cx)).map(|(unix, peer)| {
                    let stream = Tracked::new(unix, attempt.succeeded());
                    (Stream::Unix(stream), Addr::of_unix(&peer))
                })
            }
        })
    }
}

impl Listener {
    pub(crate) fn new(state: &Arc<SharedState>, name: &str) -> Result<Listener> {
        Ok(Listener { gated: GatedListener::new(state, name)? })
    }

    /// Accepts the next connection, like [`tokio::net::TcpListener::accept`]. Cancel safe.
    ///
    /// Connections that their clients have already reset are skipped. When descriptors or memory have run
    /// out, this waits until a connection can be accepted again; until then, new connections queue in the
    /// kernel.
    ///
    /// # Errors
    /// All other errors of accept(2). None of them is expected in normal operation.
    pub async fn accept(&mut self) -> io::Result<(Stream, Addr)> {
        match self.gated.next().await {
            Some(accepted) => accepted,
            None => std::future::pending().await,
        }
    }

    /// Same as [`accept`](Listener::accept), but returns `None` once this worker drains. Cancel safe.
    ///
    /// If no other worker accepts on this listener after this one, because the daemon stops or the next
    /// generation does not declare it, this first returns the connections that are left in the queue: the
    /// drain has begun by then.
    pub async fn next(&mut self) -> Option<io::Result<(Stream, Addr)>> {
        self.gated.next().await
    }

    /// Completes when the worker drains, unless this worker has to accept what is left in the queue: then
    /// never.
    #[cfg(feature = "http")]
    pub(crate) async fn over(&self) {
        let state = &self.gated.state;
        state.draining.cancelled().await;
        if let ListenerMode::Finish { .. } =
            state.listener_mode(WorkerPhase::Draining, self.gated.index)
        {
            std::future::pending::<()>().await;
        }
    }

    /// Returns the next connection. Logs errors, pauses, and tries again.
    #[cfg(feature = "http")]
    pub(crate) async fn next_good(&mut self) -> Option<(Stream, Addr)> {
        loop {
            match self.gated.next().await? {
                Ok(accepted) => return Some(accepted),
                Err(error) => {
                    tracing::error!(%error, listener = %self.gated.addr, "cannot accept");
                    tokio::time::sleep(super::EXHAUSTED_RETRY_DELAY).await;
                }
            }
        }
    }

    /// Returns the address of the socket, with the actual port if port 0 was declared. If the service manager
    /// passed several sockets under this name, the address of the first.
    pub fn local_addr(&self) -> &Addr {
        &self.gated.addr
    }

    /// Converts this listener into a [`TcpListener`].
    ///
    /// # Errors
    /// [`ErrorKind::Listen`] if any of its sockets is a unix socket.
    pub fn into_tcp(self) -> Result<TcpListener> {
        match self.gated.sockets.iter().find(|it| !matches!(it.addr, Addr::Tcp(_))) {
            None if self.gated.addr.tcp().is_some() => Ok(TcpListener { gated: self.gated }),
            other => Err(other_kind(other.map_or(&self.gated.addr, |it| &it.addr), "TCP")),
        }
    }

    /// Converts this listener into a [`UnixListener`].
    ///
    /// # Errors
    /// [`ErrorKind::Listen`] if any of its sockets is a TCP socket.
    pub fn into_unix(self) -> Result<UnixListener> {
        match self.gated.sockets.iter().find(|it| !matches!(it.addr, Addr::Unix(_))) {
            None if self.gated.addr.tcp().is_none() => Ok(UnixListener { gated: self.gated }),
            other => {
                Err(other_kind(other.map_or(&self.gated.addr, |it| &it.addr), "a unix socket"))
            }
        }
    }
}

pub(super) fn other_kind(addr: &Addr, wanted: &str) -> Error {
    Error::new(
        ErrorKind::Listen,
        format!(
            "the listener at {addr} is not {wanted}, which this program needs; change its address"
        ),
    )
}

impl TcpListener {
    /// Accepts the next connection. Cancel safe.
    ///
    /// # Errors
    /// Same as [`Listener::accept`].
    pub async fn accept(&mut self) -> io::Result<(TcpStream, std::net::SocketAddr)> {
        match self.next().await {
            Some(accepted) => accepted,
            None => std::future::pending().await,
        }
    }

    /// Same as [`accept`](TcpListener::accept), but returns `None` once this worker drains. Cancel safe.
    pub async fn next(&mut self) -> Option<io::Result<(TcpStream, std::net::SocketAddr)>> {
        loop {
            match self.gated.next().await? {
                Ok((Stream::Tcp(stream), Addr::Tcp(addr))) => return Some(Ok((stream, addr))),
                Ok(_) => {}
                Err(error) => return Some(Err(error)),
            }
        }
    }

    /// Returns the address of the socket, with the actual port if port 0 was declared.
    pub fn local_addr(&self) -> &Addr {
        &self.gated.addr
    }
}

impl UnixListener {
    /// Accepts the next connection. Cancel safe.
    ///
    /// # Errors
    /// Same as [`Listener::accept`].
    pub async fn accept(&mut self) -> io::Result<(UnixStream, Addr)> {
        match self.next().await {
            Some(accepted) => accepted,
            None => std::future::pending().await,
        }
    }

    /// Same as [`accept`](UnixListener::accept), but returns `None` once this worker drains. Cancel safe.
    pub async fn next(&mut self) -> Option<io::Result<(UnixStream, Addr)>> {
        loop {
            match self.gated.next().await? {
                Ok((Stream::Unix(stream), addr)) => return Some(Ok((stream, addr))),
                Ok(_) => {}
                Err(error) => return Some(Err(error)),
            }
        }
    }

    /// Returns the path of the socket.
    pub fn local_addr(&self) -> &Addr {
        &self.gated.addr
    }
}

macro_rules! debug {
    ($($kind:ident)*) => { $(
        impl std::fmt::Debug for $kind {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_tuple(stringify!($kind)).field(&self.gated.addr).finish()
            }
        }
    )* };
}
debug!(Listener TcpListener UnixListener);

/// Listener for `axum::serve`. Prefer [`Daemon::serve`](crate::Daemon::serve), which also hands off or ends
/// connections at a restart without losing a request.
#[cfg(feature = "axum")]
impl axum::serve::Listener for Listener {
    type Io = Stream;
    type Addr = Addr;

    async fn accept(&mut self) -> (Stream, Addr) {
        match self.next_good().await {
            Some(accepted) => accepted,
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<Addr> {
        Ok(self.gated.addr.clone())
    }
}
