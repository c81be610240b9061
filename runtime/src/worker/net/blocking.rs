//! Listeners for a `main` without async: accept blocks the calling thread, in poll(2) on the sockets and on
//! an eventfd by which the daemon wakes it when accepting is paused or ends.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use rustix::net::SocketFlags;

use super::{Addr, ConnectionGuard, drain_listener};
use crate::error::Result;
use crate::failpoint::{self, Step};
use crate::sys::readiness::readable;
use crate::worker::connection::Connection;
use crate::worker::daemon::claim_listener;
use crate::worker::state::{Incoming, ListenerClaim, ListenerMode, SharedState, lock};

/// A declared listener. Any number of threads may accept from it or from its clones.
///
/// Like a [`Listener`](super::Listener), it has several sockets if a service manager passed several under its
/// name. The sockets and their `O_NONBLOCK` flag are shared with other processes, so accept waits with
/// poll(2) on the sockets and on a wake descriptor of the daemon.
///
/// ```no_run
/// use std::io::{Read, Write};
/// use unbroken::{Daemon, daemon};
///
/// #[daemon(graceful_restart, listen(echo = "127.0.0.1:7000"))]
/// fn main(daemon: Daemon) -> Result<(), unbroken::Error> {
///     let listener = daemon.blocking_listener("echo")?;
///     while let Some(accepted) = listener.next() {
///         let (mut stream, _peer) = accepted.expect("accept");
///         std::thread::spawn(move || {
///             let mut line = [0; 512];
///             while let Ok(n @ 1..) = stream.read(&mut line) {
///                 stream.write_all(&line[..n])?;
///             }
///             std::io::Result::Ok(())
///         });
///     }
///     Ok(())
/// }
/// ```
pub struct Listener {
    state: Arc<SharedState>,
    /// The listener's place among the declared ones, in the order of their names.
    index: usize,
    /// The address of the first socket.
    addr: Addr,
    /// Usually one, and none once the worker drains. Threads in poll(2) keep a clone until they are woken.
    sockets: Mutex<Sockets>,
    /// Replaced unix sockets whose files were removed; each is kept until its queue is empty.
    former: Mutex<Vec<(OwnedFd, Addr)>>,
    /// New sockets from the supervisor, each with the place of the one it replaces.
    incoming: Arc<Incoming>,
    /// Selects the readable socket to accept from, in turn, so a busy socket cannot starve the others.
    turn: AtomicUsize,
}

/// The sockets of a listener.
type Sockets = Arc<[(OwnedFd, Addr)]>;

/// A counted connection. Reads and writes block.
pub struct Stream {
    kind: Kind,
    connection: Connection,
}

enum Kind {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

impl Listener {
    pub(crate) fn new(state: &Arc<SharedState>, name: &str) -> Result<Listener> {
        let ListenerClaim { sockets, former, addr, index, incoming } = claim_listener(state, name)?;
        Ok(Listener {
            state: Arc::clone(state),
            index,
            addr,
            sockets: Mutex::new(sockets.into()),
            former: Mutex::new(former),
            incoming,
            turn: AtomicUsize::new(0),
        })
    }

    /// Replaces sockets whose files were removed by those that the supervisor bound in their place.
    fn renew(&self) -> io::Result<()> {
        let mut sockets = self.sockets();
        let mut incoming = lock(&self.incoming);
        if incoming.is_empty() {
            return Ok(());
        }
        let clones = sockets.iter().map(|(fd, addr)| Ok((fd.try_clone()?, addr.clone())));
        let mut renewed = clones.collect::<io::Result<Vec<_>>>()?;
        for (place, fd) in incoming.drain(..) {
            if let Some((old, addr)) = renewed.get_mut(place) {
                let old = std::mem::replace(old, fd);
                self.former().push((old, addr.clone()));
            }
        }
        *sockets = renewed.into();
        Ok(())
    }

    /// Accepts a connection left in the queue of a replaced socket, to which nothing can connect any longer.
    /// Drops each such socket once its queue is empty.
    fn accept_former(&self) -> Option<(Stream, Addr)> {
        let mut former = self.former();
        while let Some(socket) = former.last() {
            match self.accept_now(socket) {
                Ok(Some(accepted)) => return Some(accepted),
                Err(error) if super::is_transient(&error) => {}
                // The clients stay in the queue: the accept loop tries again on its next turn.
                Err(error) if super::is_exhaustion(&error) => return None,
                Ok(None) | Err(_) => _ = former.pop(),
            }
        }
        None
    }

    fn former(&self) -> MutexGuard<'_, Vec<(OwnedFd, Addr)>> {
        self.former.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Blocks until a connection arrives. Returns `None` once this worker drains.
    ///
    /// Connections that their clients have already reset are skipped. When descriptors or memory have run
    /// out, this waits until a connection can be accepted again.
    pub fn next(&self) -> Option<io::Result<(Stream, Addr)>> {
        self.state.mark_polled(self.index);
        loop {
            let access = self.state.wait_listener_mode(self.index);
            if let Err(error) = self.renew() {
                tracing::error!(%error, listener = %self.addr,
                    "cannot use the socket that replaces a removed one");
            }
            if let Some(accepted) = self.accept_former() {
                return Some(Ok(accepted));
            }
            let sockets = match access {
                ListenerMode::Over => Sockets::default(),
                _ => self.sockets().clone(),
            };
            if sockets.is_empty() {
                *self.sockets() = sockets;
                return None;
            }
            if let ListenerMode::Finish { until } = access {
                let ends = |it: &&(OwnedFd, Addr)| self.state.ends(self.index, &it.1);
                if !sockets.iter().all(|it| ends(&it)) {
                    // Other workers accept on the remaining sockets: this worker only drops its copies.
                    let ending = sockets.iter().filter(ends);
                    let ending = ending.map(|(fd, addr)| Ok((fd.try_clone()?, addr.clone())));
                    match ending.collect::<io::Result<Sockets>>() {
                        Ok(ending) => *self.sockets() = ending,
                        Err(error) => return Some(Err(error)),
                    }
                    continue;
                }
                return self.finish(&sockets, until);
            }
            match self.try_accept(&sockets) {
                Ok(Some(accepted)) => return Some(Ok(accepted)),
                Ok(None) => {}
                Err(error) => return Some(Err(error)),
            }
        }
    }

    /// Blocks until a connection arrives; forever once this worker drains.
    ///
    /// # Errors
    /// All other errors of accept(2) than those that [`next`](Listener::next) handles. None of them is
    /// expected in normal operation.
    pub fn accept(&self) -> io::Result<(Stream, Addr)> {
        match self.next() {
            Some(accepted) => accepted,
            None => loop {
                std::thread::park();
            },
        }
    }

    /// Returns the address of the socket, with the actual port if port 0 was declared. If the service manager
    /// passed several sockets under this name, the address of the first.
    pub fn local_addr(&self) -> &Addr {
        &self.addr
    }

    /// Returns another handle to the same listener, for another thread.
    ///
    /// # Errors
    /// If dup(2) fails because no descriptor is left.
    pub fn try_clone(&self) -> io::Result<Listener> {
        // Before `renew`: a socket that the supervisor sends from now on reaches both handles.
        let incoming = self.state.attach(self.index);
        self.renew()?;
        let sockets = self.sockets().clone();
        let clones = sockets.iter().map(|(fd, addr)| Ok((fd.try_clone()?, addr.clone())));
        Ok(Listener {
            state: Arc::clone(&self.state),
            index: self.index,
            addr: self.addr.clone(),
            sockets: Mutex::new(clones.collect::<io::Result<_>>()?),
            former: Mutex::default(),
            incoming,
            turn: AtomicUsize::new(0),
        })
    }

    fn sockets(&self) -> MutexGuard<'_, Sockets> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn try_accept(&self, sockets: &Sockets) -> io::Result<Option<(Stream, Addr)>> {
        let gate = self.state.changed_gate();
        let mut sources = vec![(None, gate)];
        sources.extend(sockets.iter().enumerate().map(|(at, (fd, _))| (Some(at), fd.as_fd())));
        let ready = readable(&sources, None)?;
        if ready.is_empty() || ready.contains(&None) {
            return Ok(None);
        }
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let chosen = ready.get(turn % ready.len()).copied().flatten();
        let Some(listening) = chosen.and_then(|at| sockets.get(at)) else { return Ok(None) };
        let accepted = failpoint::try_hit(Step::WorkerBeforeAccept, self.state.generation)
            .and_then(|()| self.accept_now(listening));
        match accepted {
            Err(error) if super::is_exhaustion(&error) => {
                tracing::error!(%error, listener = %self.addr, "accept failed, retrying");
                let until = Instant::now() + super::EXHAUSTED_RETRY_DELAY;
                readable(&[((), gate)], Some(until))?;
                Ok(None)
            }
            Err(error) if super::is_transient(&error) => Ok(None),
            accepted => accepted,
        }
    }

    /// Accepts what is left in the queue of a listener that no worker accepts on after this one. Once the
    /// queue is empty, closes the sockets and returns `None`. After `until`, no handshake can still add a
    /// connection to the queue.
    fn finish(&self, sockets: &Sockets, until: Instant) -> Option<io::Result<(Stream, Addr)>> {
        let mut pause = drain_listener::FIRST_LOOK_DELAY;
        let first = || {
            let mut waiting = sockets.iter().map(|socket| self.accept_now(socket));
            waiting.find(|accepted| !matches!(accepted, Ok(None))).unwrap_or(Ok(None))
        };
        let mut over = false;
        loop {
            match first() {
                Ok(Some(accepted)) => return Some(Ok(accepted)),
                Ok(None) if over => break,
                Ok(None) => {
                    over = Instant::now() >= until
                        || !sockets
                            .iter()
                            .any(|(_, addr)| drain_listener::has_pending_handshakes(addr));
                    if over {
                        // Accepts once more: a handshake may have ended between the last accept and the look
                        // at pending handshakes.
                        continue;
                    }
                    let sources: Vec<_> = sockets.iter().map(|(fd, _)| ((), fd.as_fd())).collect();
                    let look = until.min(Instant::now() + pause);
                    pause *= 2;
                    if let Err(error) = readable(&sources, Some(look)) {
                        return Some(Err(error));
                    }
                }
                Err(error) if drain_listener::has_ended(&error) => break,
                Err(error) if super::is_exhaustion(&error) => {
                    // Tries again, if need be until the process is ended at the drain deadline.
                    tracing::error!(%error, listener = %self.addr, "accept failed, retrying");
                    std::thread::sleep(super::EXHAUSTED_RETRY_DELAY);
                }
                Err(error) if super::is_transient(&error) => {}
                Err(error) => return Some(Err(error)),
            }
        }
        sockets.iter().for_each(|(fd, _)| drain_listener::close(fd));
        *self.sockets() = Sockets::default();
        None
    }

    /// Accepts a connection from the queue; `None` if it is empty.
    fn accept_now(
        &self,
        (listening, addr): &(OwnedFd, Addr),
    ) -> io::Result<Option<(Stream, Addr)>> {
        let attempt = self.state.accepting();
        let socket = match rustix::net::accept_with(listening, SocketFlags::CLOEXEC) {
            Ok(socket) => socket,
            Err(rustix::io::Errno::AGAIN) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let connection = attempt.succeeded();
        failpoint::note_peer(&socket);
        failpoint::hit(Step::WorkerAfterAccept, self.state.generation);
        let (kind, peer) = match addr {
            Addr::Tcp(_) => {
                let stream = std::net::TcpStream::from(socket);
                // A peer that is already gone has no address. Reading the stream returns the error.
                let peer = stream.peer_addr().map_or_else(|_| addr.clone(), Addr::Tcp);
                (Kind::Tcp(stream), peer)
            }
            Addr::Unix(_) => (Kind::Unix(socket.into()), Addr::Unix(None)),
        };
        Ok(Some((Stream { kind, connection }, peer)))
    }
}

impl Stream {
    /// Returns the connected socket, in blocking mode, and a guard that keeps the connection in the ledger
    /// until it is dropped. The socket converts into a [`TcpStream`](std::net::TcpStream) or a
    /// [`UnixStream`](std::os::unix::net::UnixStream); which of them it is, the listener's address says.
    ///
    /// ```no_run
    /// # fn handle(_: std::net::TcpStream) {}
    /// # fn serve(daemon: unbroken::Daemon) -> anyhow::Result<()> {
    /// let listener = daemon.blocking_listener("http")?;
    /// while let Some(accepted) = listener.next() {
    ///     let (socket, guard) = accepted?.0.into_parts();
    ///     std::thread::spawn(move || {
    ///         handle(std::net::TcpStream::from(socket));
    ///         drop(guard);
    ///     });
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn into_parts(self) -> (OwnedFd, ConnectionGuard) {
        let socket = match self.kind {
            Kind::Tcp(stream) => stream.into(),
            Kind::Unix(stream) => stream.into(),
        };
        (socket, ConnectionGuard::new(self.connection))
    }
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Listener").field(&self.addr).finish()
    }
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.kind {
            Kind::Tcp(stream) => stream.fmt(f),
            Kind::Unix(stream) => stream.fmt(f),
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        match &self.kind {
            Kind::Tcp(stream) => stream.as_fd(),
            Kind::Unix(stream) => stream.as_fd(),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match &mut self.kind {
            Kind::Tcp(stream) => stream.read(buf),
            Kind::Unix(stream) => stream.read(buf),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match &mut self.kind {
            Kind::Tcp(stream) => stream.write(buf),
            Kind::Unix(stream) => stream.write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.kind {
            Kind::Tcp(stream) => stream.flush(),
            Kind::Unix(stream) => stream.flush(),
        }
    }
}
