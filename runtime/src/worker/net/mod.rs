//! The declared listeners and the connections they accept.
//!
//! A listening socket is bound by the supervisor and shared by all generations. This module therefore never
//! shuts it down and never changes its file status flags: while this worker may not accept, it only removes
//! the socket from epoll, and connections wait in the kernel. The exception is a listener that no later
//! generation has, which the module `drain_listener` closes.

pub mod blocking;
pub(crate) mod drain_listener;
mod guard;
mod listener;
mod raw;
mod stream;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

pub use guard::ConnectionGuard;
pub use listener::{Listener, TcpListener, UnixListener};
pub use raw::RawListener;
pub use stream::{Stream, TcpStream, Tracked, UnixStream};

/// The address of a listener or of a peer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Addr {
    /// TCP over IPv4 or IPv6.
    Tcp(SocketAddr),
    /// A unix socket with its path. `None` if it is unnamed, as most clients' sockets are.
    Unix(Option<PathBuf>),
}

impl Addr {
    /// Returns the TCP address; `None` for a unix socket.
    pub fn tcp(&self) -> Option<SocketAddr> {
        match self {
            Addr::Tcp(addr) => Some(*addr),
            Addr::Unix(_) => None,
        }
    }

    #[cfg(feature = "http")]
    pub(crate) fn path(&self) -> Option<&PathBuf> {
        match self {
            Addr::Unix(path) => path.as_ref(),
            Addr::Tcp(_) => None,
        }
    }

    fn of_unix(addr: &tokio::net::unix::SocketAddr) -> Addr {
        Addr::Unix(addr.as_pathname().map(PathBuf::from))
    }
}

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Addr::Tcp(addr) => addr.fmt(f),
            Addr::Unix(Some(path)) => write!(f, "unix:{}", path.display()),
            Addr::Unix(None) => f.write_str("unix:"),
        }
    }
}

impl From<&crate::config::Address> for Addr {
    fn from(addr: &crate::config::Address) -> Addr {
        match addr {
            crate::config::Address::Tcp(addr) => Addr::Tcp(*addr),
            crate::config::Address::Unix(path) => Addr::Unix(Some(path.clone())),
        }
    }
}

/// How long no connection is accepted when descriptors or memory have run out. Without the delay
/// the worker would spin on accept(2); a longer one leaves free descriptors unused.
const EXHAUSTED_RETRY_DELAY: std::time::Duration = std::time::Duration::from_millis(50);

/// Returns whether descriptors or memory have run out: the next accept would fail as well, until some
/// connection ends.
pub(crate) fn is_exhaustion(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let exhausted = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    Errno::from_io_error(error).is_some_and(|errno| exhausted.contains(&errno))
}

/// Returns whether the accept loop may ignore the error and accept again at once.
pub(crate) fn is_transient(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::Interrupted || concerns_one_connection(error)
}

/// Returns whether the error concerns only the connection that was being accepted: accept(2) returns
/// network errors that are already pending on the new socket.
pub(crate) fn concerns_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{
        ConnectionAborted, ConnectionRefused, ConnectionReset, HostUnreachable, NetworkUnreachable,
    };
    matches!(
        error.kind(),
        ConnectionAborted
            | ConnectionRefused
            | ConnectionReset
            | HostUnreachable
            | NetworkUnreachable
    )
}
