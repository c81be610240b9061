//! Listeners with several addresses: `localhost:8080` is bound in two halves, `127.0.0.1` and `[::1]`, with
//! the same port. A host may lack one of them.

use std::io;
use std::net::SocketAddr;

use rustix::io::Errno;
use socket2::{Domain, Socket, Type};

use super::Bound;
use crate::config::{Address, Binding, ListenSettings};
use crate::error::Result;

/// How many ports the kernel may choose for port 0 until one is free in both families. Even on a host with
/// most of its ports in use one of them very probably is.
const PORT_ATTEMPTS: usize = 32;

/// Binds one address of the listener `name`; returns `None` for the half that this host lacks. `bound` are
/// the sockets of this listener that are bound already.
pub(crate) fn bind<'a>(
    name: &str,
    binding: &Binding,
    bound: impl Iterator<Item = &'a Bound>,
) -> Result<Option<Bound>> {
    let wanted = &binding.settings;
    if let Some(other) = binding.half_of {
        let Address::Tcp(half) = wanted.addr else { return Ok(None) };
        let mut others = bound.filter(|bound| bound.is_at(&Address::Tcp(other)));
        let port = match others.next().map(Bound::addr) {
            Some(Address::Tcp(other)) => other.port(),
            _ => half.port(),
        };
        let at = SocketAddr::new(half.ip(), port);
        if lacks(try_bind(at, true)) {
            return Ok(None);
        }
        let chosen = ListenSettings { addr: Address::Tcp(at), ..wanted.clone() };
        let bound = Bound::bind(name, &chosen)?;
        // With the declared settings, by which the next generation finds it, and not with the chosen port.
        return Ok(Some(Bound { settings: wanted.clone(), ..bound }));
    }
    let mut attempts = PORT_ATTEMPTS;
    loop {
        let bound = Bound::bind(name, wanted)?;
        let half = match (&bound.addr, binding.half) {
            (Address::Tcp(addr), Some(half)) if half.port() == 0 => {
                SocketAddr::new(half.ip(), addr.port())
            }
            _ => return Ok(Some(bound)),
        };
        attempts -= 1;
        let taken =
            try_bind(half, true).is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse);
        if !taken || attempts == 0 {
            return Ok(Some(bound));
        }
    }
}

/// Binds a socket to an address and closes it again, to learn whether that is possible.
fn try_bind(addr: SocketAddr, v6only: bool) -> io::Result<()> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM.cloexec(), None)?;
    socket.set_reuse_address(true)?;
    if addr.is_ipv6() {
        socket.set_only_v6(v6only)?;
    }
    socket.bind(&addr.into())
}

/// Returns whether the bind failed because the host has no such address.
fn lacks(bound: io::Result<()>) -> bool {
    let error = bound.err().as_ref().and_then(Errno::from_io_error);
    matches!(error, Some(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL))
}
