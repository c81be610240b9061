//! Listening sockets for servers with an accept loop of their own.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use super::Addr;
use super::listener::other_kind;
use crate::error::{Error, ErrorKind, Result};
use crate::worker::daemon::undeclared_error;
use crate::worker::state::{ListenerMode, SharedState};

/// A declared listener as a plain listening socket, for a server that accepts by itself.
///
/// [`Daemon::raw_listener`](crate::Daemon::raw_listener) returns it. Usually it is one socket. It is several
/// if the listener has several addresses, or if a service manager passed several sockets under its name:
/// [`split`](RawListener::split) separates them.
///
/// # The socket is shared
///
/// The supervisor and the workers of other generations use the same open socket, and share its file status
/// flags. It is in non-blocking mode, and **must stay in that mode**: if a program calls
/// `set_nonblocking(false)`, the other generation blocks in accept as well. For the same reason, a program
/// must not call `shutdown(2)` on it. Closing it is harmless: connections in its queue go to the next
/// generation.
pub struct RawListener {
    /// At least one.
    sockets: Vec<(OwnedFd, Addr)>,
}

impl RawListener {
    /// Waits until this worker may accept on the listener `name`, and returns its sockets.
    pub(crate) async fn get(state: &SharedState, name: &str) -> Result<RawListener> {
        let index = claim(state, name)?;
        let mut phase = state.phase();
        while state.listener_mode(*phase.borrow_and_update(), index) == ListenerMode::Wait {
            if phase.changed().await.is_err() {
                break;
            }
        }
        RawListener::claimed(state, name, index)
    }

    /// Same as [`get`](RawListener::get), but blocks the calling thread.
    pub(crate) fn get_blocking(state: &Arc<SharedState>, name: &str) -> Result<RawListener> {
        let index = claim(state, name)?;
        state.wait_listener_mode(index);
        RawListener::claimed(state, name, index)
    }

    fn claimed(state: &SharedState, name: &str, index: usize) -> Result<RawListener> {
        let sockets = state
            .sockets(index)
            .map_err(|error| Error::io(format!("cannot use listener `{name}`"), error))?;
        if sockets.is_empty() {
            let message = format!(
                "this worker drains and accepts no connections on listener `{name}`; return from `main`"
            );
            return Err(Error::new(ErrorKind::Refused, message));
        }
        Ok(RawListener { sockets })
    }

    /// Returns the address of the socket, with the actual port if port 0 was declared; of the first socket,
    /// if there are several.
    pub fn local_addr(&self) -> &Addr {
        &self.sockets[0].1
    }

    /// Returns the sockets one by one.
    ///
    /// ```no_run
    /// # async fn serve(daemon: unbroken::Daemon) -> unbroken::Result<()> {
    /// for socket in daemon.raw_listener("http").await?.split() {
    ///     println!("listening on {}", socket.local_addr());
    ///     let listener = socket.into_std_tcp()?;
    /// #   drop(listener);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn split(self) -> Vec<RawListener> {
        self.sockets.into_iter().map(|socket| RawListener { sockets: vec![socket] }).collect()
    }

    /// Converts this listener into a [`std::net::TcpListener`], in non-blocking mode: its `accept` returns
    /// [`WouldBlock`](std::io::ErrorKind::WouldBlock) if no connection is waiting.
    ///
    /// That is what servers expect that run an event loop of their own, as those of actix-web and ntex do. A
    /// server that blocks in `accept`, such as tiny_http, cannot use it: the mode is shared with other
    /// processes. A program with blocking threads waits with poll(2) before each `accept`, or takes
    /// connections from [`Daemon::blocking_listener`](crate::Daemon::blocking_listener), which does that.
    ///
    /// # Errors
    /// [`ErrorKind::Listen`] if it is a unix socket, or several sockets.
    pub fn into_std_tcp(self) -> Result<std::net::TcpListener> {
        Ok(self.into_socket(Kind::Tcp)?.into())
    }

    /// Converts this listener into a [`std::os::unix::net::UnixListener`], in non-blocking mode. See
    /// [`into_std_tcp`](RawListener::into_std_tcp) for what this means.
    ///
    /// # Errors
    /// [`ErrorKind::Listen`] if it is a TCP socket, or several sockets.
    pub fn into_std_unix(self) -> Result<std::os::unix::net::UnixListener> {
        Ok(self.into_socket(Kind::Unix)?.into())
    }

    /// Converts this listener into a [`tokio::net::TcpListener`].
    ///
    /// # Errors
    /// [`ErrorKind::Listen`] if it is a unix socket, or several sockets; [`ErrorKind::Io`] if the runtime
    /// cannot watch it.
    ///
    /// # Panics
    /// If called outside of a Tokio runtime, like [`tokio::net::TcpListener::from_std`].
    pub fn into_tokio_tcp(self) -> Result<tokio::net::TcpListener> {
        tokio::net::TcpListener::from_std(self.into_std_tcp()?).map_err(unwatched)
    }

    /// Converts this listener into a [`tokio::net::UnixListener`].
    ///
    /// # Errors
    /// [`ErrorKind::Listen`] if it is a TCP socket, or several sockets; [`ErrorKind::Io`] if the runtime
    /// cannot watch it.
    ///
    /// # Panics
    /// If called outside of a Tokio runtime, like [`tokio::net::UnixListener::from_std`].
    pub fn into_tokio_unix(self) -> Result<tokio::net::UnixListener> {
        tokio::net::UnixListener::from_std(self.into_std_unix()?).map_err(unwatched)
    }

    fn into_socket(self, wanted: Kind) -> Result<OwnedFd> {
        let [(socket, addr)] = <[_; 1]>::try_from(self.sockets).map_err(|sockets| {
            let addrs: Vec<_> = sockets.iter().map(|(_, addr)| addr.to_string()).collect();
            Error::new(
                ErrorKind::Listen,
                format!(
                    "the listener has {} sockets ({}) where this program expects one; use \
                     `RawListener::split`, or declare one address",
                    addrs.len(),
                    addrs.join(", ")
                ),
            )
        })?;
        match (wanted, &addr) {
            (Kind::Tcp, Addr::Tcp(_)) | (Kind::Unix, Addr::Unix(_)) => Ok(socket),
            (Kind::Tcp, Addr::Unix(_)) => Err(other_kind(&addr, "TCP")),
            (Kind::Unix, Addr::Tcp(_)) => Err(other_kind(&addr, "a unix socket")),
        }
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Tcp,
    Unix,
}

/// Claims the listener `name` and counts it as polled for accept. Returns its place among the declared ones.
fn claim(state: &SharedState, name: &str) -> Result<usize> {
    let index = state.claim_raw(name).ok_or_else(|| undeclared_error(state, name))?;
    state.mark_polled(index);
    Ok(index)
}

fn unwatched(error: std::io::Error) -> Error {
    Error::io("cannot register a listener with the Tokio runtime", error)
}

/// The first socket, if there are several.
impl AsFd for RawListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.sockets[0].0.as_fd()
    }
}

impl std::fmt::Debug for RawListener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.sockets.iter().map(|(_, addr)| addr)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp() -> (OwnedFd, Addr) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let addr = Addr::Tcp(listener.local_addr().unwrap());
        (listener.into(), addr)
    }

    fn unix() -> (tempfile::TempDir, OwnedFd, Addr) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sock");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        listener.set_nonblocking(true).unwrap();
        (dir, listener.into(), Addr::Unix(Some(path)))
    }

    #[tokio::test]
    async fn one_socket_converts_into_its_own_kind() {
        let (fd, addr) = tcp();
        let raw = || RawListener { sockets: vec![(fd.try_clone().unwrap(), addr.clone())] };
        assert_eq!(raw().local_addr(), &addr);
        assert_eq!(raw().into_std_tcp().unwrap().local_addr().ok(), addr.tcp());
        assert_eq!(raw().into_tokio_tcp().unwrap().local_addr().ok(), addr.tcp());
        let error = raw().into_std_unix().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Listen);
        assert!(error.to_string().contains("is not a unix socket"), "{error}");

        let (_dir, fd, addr) = unix();
        let raw = || RawListener { sockets: vec![(fd.try_clone().unwrap(), addr.clone())] };
        raw().into_std_unix().unwrap();
        raw().into_tokio_unix().unwrap();
        let error = raw().into_tokio_tcp().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Listen);
        assert!(error.to_string().contains("is not TCP"), "{error}");
    }

    #[test]
    fn several_sockets_are_split() {
        let (first, second) = (tcp(), tcp());
        let addrs = [first.1.clone(), second.1.clone()];
        let raw = RawListener { sockets: vec![first, second] };
        let split = raw.split();
        assert!(split.iter().map(RawListener::local_addr).eq(&addrs));
        let sockets = split.into_iter().flat_map(|it| it.sockets).collect();
        let error = RawListener { sockets }.into_std_tcp().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Listen);
        assert!(error.to_string().contains("2 sockets"), "{error}");
    }
}
