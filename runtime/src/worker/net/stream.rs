//! Connections as Tokio streams that the ledger counts as open until they are dropped.

use std::io::{self, IoSlice};
use std::ops::{Deref, DerefMut};
use std::pin::Pin;
use std::task::{Context, Poll};

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::net::{AddressFamily, SocketType};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::ConnectionGuard;
use crate::worker::connection::Connection;
use crate::worker::state::SharedState;

/// A stream that the daemon counts as an open connection, and that a drain waits for, until it is dropped.
pub struct Tracked<S> {
    stream: S,
    connection: Connection,
}

/// A counted TCP connection. Dereferences to [`tokio::net::TcpStream`].
pub type TcpStream = Tracked<tokio::net::TcpStream>;
/// A counted unix connection. Dereferences to [`tokio::net::UnixStream`].
pub type UnixStream = Tracked<tokio::net::UnixStream>;

/// A counted connection, over TCP or a unix socket.
#[derive(Debug)]
#[non_exhaustive]
pub enum Stream {
    /// Over TCP.
    Tcp(TcpStream),
    /// Over a unix socket.
    Unix(UnixStream),
}

impl<S> Tracked<S> {
    pub(crate) fn new(stream: S, connection: Connection) -> Tracked<S> {
        Tracked { stream, connection }
    }

    /// Returns the inner stream. The ledger counts the connection as ended, and no drain waits for it.
    pub fn into_inner(self) -> S {
        self.stream
    }

    /// Returns the inner stream, and a guard that keeps the connection in the ledger until it is dropped: for
    /// a framework that wants Tokio's own stream.
    ///
    /// ```no_run
    /// # async fn handle(_: tokio::net::TcpStream) {}
    /// # async fn serve(daemon: unbroken::Daemon) -> anyhow::Result<()> {
    /// let mut listener = daemon.listener("http")?.into_tcp()?;
    /// while let Some(accepted) = listener.next().await {
    ///     let (stream, guard) = accepted?.0.into_parts();
    ///     tokio::spawn(async move {
    ///         tokio::select! {
    ///             () = handle(stream) => {}
    ///             // Cut here. A protocol with a farewell would send it and call `guard.mark_closed()`.
    ///             () = guard.draining() => {}
    ///         }
    ///     });
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn into_parts(self) -> (S, ConnectionGuard) {
        (self.stream, ConnectionGuard::new(self.connection))
    }

    /// Notes for the ledger that the program asked the peer to close because of the drain: the connection
    /// then counts as *closed*. Without this call it counts as *finished*.
    pub fn mark_closed(&self) {
        self.connection.close_notice().mark_sent();
    }

    pub(crate) fn connection(&self) -> &Connection {
        &self.connection
    }
}

impl Stream {
    /// Same as [`Tracked::mark_closed`].
    pub fn mark_closed(&self) {
        self.connection().close_notice().mark_sent();
    }

    /// Returns whether the kernel has bytes to read.
    #[cfg(feature = "http")]
    pub(crate) fn has_input(&self) -> bool {
        use rustix::net::RecvFlags;
        // Asks the kernel directly because the runtime may not have seen the readiness event yet.
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        rustix::net::recv(self, &mut [0; 1], flags).is_ok_and(|(read, _)| read > 0)
    }

    /// Returns another descriptor of the same connection.
    pub(crate) fn duplicate(&self) -> io::Result<OwnedFd> {
        self.as_fd().try_clone_to_owned()
    }

    /// Wraps an offered connection that is known to be a non-blocking stream socket, as HTTP handoffs are:
    /// saves the system calls of [`Stream::from_socket`].
    #[cfg(feature = "http")]
    pub(crate) fn from_stream(
        state: &Arc<SharedState>,
        socket: OwnedFd,
        is_tcp: bool,
    ) -> io::Result<Stream> {
        crate::failpoint::note_peer(&socket);
        Ok(if is_tcp {
            let stream = tokio::net::TcpStream::from_std(socket.into())?;
            Stream::Tcp(Tracked::new(stream, state.offered()))
        } else {
            let stream = tokio::net::UnixStream::from_std(socket.into())?;
            Stream::Unix(Tracked::new(stream, state.offered()))
        })
    }

    /// Wraps an offered connection after checking its type and making it non-blocking.
    ///
    /// # Errors
    /// If it is not a stream socket over TCP or a unix socket, or the runtime cannot watch it.
    pub(crate) fn from_socket(state: &Arc<SharedState>, socket: OwnedFd) -> io::Result<Stream> {
        if rustix::net::sockopt::socket_type(&socket)? != SocketType::STREAM {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a stream socket"));
        }
        match rustix::net::sockopt::socket_domain(&socket)? {
            AddressFamily::INET | AddressFamily::INET6 => {
                crate::sys::descriptors::set_nonblocking(&socket)?;
                crate::failpoint::note_peer(&socket);
                let stream = tokio::net::TcpStream::from_std(socket.into())?;
                Ok(Stream::Tcp(Tracked::new(stream, state.offered())))
            }
            AddressFamily::UNIX => {
                crate::sys::descriptors::set_nonblocking(&socket)?;
                let stream = tokio::net::UnixStream::from_std(socket.into())?;
                Ok(Stream::Unix(Tracked::new(stream, state.offered())))
            }
            _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "not TCP and not a unix socket")),
        }
    }

    pub(crate) fn connection(&self) -> &Connection {
        match self {
            Stream::Tcp(stream) => stream.connection(),
            Stream::Unix(stream) => stream.connection(),
        }
    }
}

impl<S: AsFd> AsFd for Tracked<S> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Stream::Tcp(stream) => stream.as_fd(),
            Stream::Unix(stream) => stream.as_fd(),
        }
    }
}

impl<S> Deref for Tracked<S> {
    type Target = S;

    fn deref(&self) -> &S {
        &self.stream
    }
}

impl<S> DerefMut for Tracked<S> {
    fn deref_mut(&mut self) -> &mut S {
        &mut self.stream
    }
}

impl<S: std::fmt::Debug> std::fmt::Debug for Tracked<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.stream.fmt(f)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Tracked<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Tracked<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

macro_rules! either {
    ($self:ident, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Stream::Tcp($stream) => $call,
            Stream::Unix($stream) => $call,
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        either!(self, stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        either!(self, stream => Pin::new(stream).poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(self, stream => Pin::new(stream).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Stream::Tcp(stream) => stream.is_write_vectored(),
            Stream::Unix(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }
}
