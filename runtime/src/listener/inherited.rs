//! Listening sockets that this process was passed at its start by a service manager.
//!
//! [`examine`] checks what a descriptor is; [`InheritedSocket`] then becomes a [`Bound`] that belongs to the
//! manager (a socket of a unit), or to this daemon again (a socket from the fd store).

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use rustix::net::sockopt;
use rustix::net::{AddressFamily, SocketAddrAny, SocketType};
use socket2::{SockAddr, Socket};

use super::{Bound, ListenerSource, backlog, cannot_bind, socket_file, unix};
use crate::config::{Address, Further, HttpSettings, ListenSettings};
use crate::error::Result;
use crate::sys::descriptors;

/// A passed socket that accepts connections.
#[derive(Debug)]
pub(crate) struct InheritedSocket {
    fd: OwnedFd,
    addr: Address,
    v6only: bool,
}

/// What a descriptor is instead of a listener, as a noun phrase for messages.
#[derive(Debug)]
pub(crate) enum Unsuitable {
    NoSocket,
    Datagram,
    SeqPacket,
    OtherKind,
    NotListening,
    /// Its flags cannot be set.
    Flags(io::Error),
    /// Its address cannot be read.
    NoAddress(io::Error),
    /// Its address is not one of its family.
    OddAddress(io::Error),
    OtherFamily,
    /// A unix socket that is abstract or unnamed.
    NoPath,
}

impl fmt::Display for Unsuitable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unsuitable::NoSocket => f.write_str("a descriptor that is not a socket"),
            Unsuitable::Datagram => f.write_str("a datagram socket"),
            Unsuitable::SeqPacket => f.write_str("a sequential-packet socket"),
            Unsuitable::OtherKind => f.write_str("a socket of another kind"),
            Unsuitable::NotListening => f.write_str("a socket that does not listen"),
            Unsuitable::Flags(error) => {
                write!(f, "a socket whose flags cannot be set: {error}")
            }
            Unsuitable::NoAddress(error) => {
                write!(f, "a socket whose address cannot be read: {error}")
            }
            Unsuitable::OddAddress(error) => {
                write!(f, "a socket with an invalid address: {error}")
            }
            Unsuitable::OtherFamily => {
                f.write_str("a socket that is neither TCP nor a unix socket")
            }
            Unsuitable::NoPath => f.write_str("a unix socket without a path"),
        }
    }
}

/// Examines a descriptor that should be a listener, and makes it non-blocking.
pub(crate) fn examine(fd: OwnedFd) -> Result<InheritedSocket, Unsuitable> {
    let kind = sockopt::socket_type(&fd).map_err(|_| Unsuitable::NoSocket)?;
    match kind {
        SocketType::STREAM => {}
        SocketType::DGRAM => return Err(Unsuitable::Datagram),
        SocketType::SEQPACKET => return Err(Unsuitable::SeqPacket),
        _ => return Err(Unsuitable::OtherKind),
    }
    if !matches!(sockopt::socket_acceptconn(&fd), Ok(true)) {
        return Err(Unsuitable::NotListening);
    }
    let addr = address(&fd)?;
    let v6only = addr.is_ipv6() && matches!(sockopt::ipv6_v6only(&fd), Ok(true));
    // By default, socket units pass blocking sockets.
    descriptors::set_nonblocking(&fd).map_err(Unsuitable::Flags)?;
    Ok(InheritedSocket { fd, addr, v6only })
}

fn address(fd: &OwnedFd) -> Result<Address, Unsuitable> {
    let name = rustix::net::getsockname(fd).map_err(|error| Unsuitable::NoAddress(error.into()))?;
    match name.address_family() {
        AddressFamily::INET | AddressFamily::INET6 => SocketAddr::try_from(name)
            .map(Address::Tcp)
            .map_err(|error| Unsuitable::OddAddress(error.into())),
        AddressFamily::UNIX => unix_path(name),
        _ => Err(Unsuitable::OtherFamily),
    }
}

fn unix_path(name: SocketAddrAny) -> Result<Address, Unsuitable> {
    use std::os::unix::ffi::OsStrExt;
    let name = rustix::net::SocketAddrUnix::try_from(name)
        .map_err(|error| Unsuitable::OddAddress(error.into()))?;
    match name.path() {
        Some(path) if !path.is_empty() => {
            Ok(Address::Unix(std::ffi::OsStr::from_bytes(path.to_bytes()).into()))
        }
        _ => Err(Unsuitable::NoPath),
    }
}

impl InheritedSocket {
    pub(crate) fn addr(&self) -> &Address {
        &self.addr
    }

    /// Makes it a listener that belongs to the service manager.
    pub(crate) fn of_manager(self) -> Bound {
        let InheritedSocket { fd, addr, v6only } = self;
        // With the address that it has, not the one that is declared for its name.
        let settings = bare(addr.clone(), v6only);
        Bound {
            settings,
            socket: Socket::from(fd),
            addr,
            file: None,
            source: ListenerSource::Manager,
        }
    }

    /// Returns why a socket from the fd store cannot be the listener declared as `wanted`; `None` if it can.
    pub(crate) fn differs(&self, wanted: &ListenSettings) -> Option<String> {
        let same = match (&self.addr, &wanted.addr) {
            // The declared port 0 is satisfied by the port that the kernel chose before.
            (Address::Tcp(is), Address::Tcp(asked)) if asked.port() == 0 => is.ip() == asked.ip(),
            (is, asked) => is == asked,
        };
        if !same {
            return Some(format!("the listener is now declared at {}", wanted.addr));
        }
        if self.addr.is_ipv6() && self.v6only != wanted.v6only {
            return Some("its `v6only` has changed".into());
        }
        match &self.addr {
            Address::Unix(path) if !is_socket(path) => Some(format!(
                "its file {} is missing; if it was in the runtime directory, set \
                 RuntimeDirectoryPreserve=restart",
                path.display()
            )),
            _ => None,
        }
    }

    /// Makes it the listener declared as `wanted`, which this daemon bound in an earlier run.
    pub(crate) fn of_store(self, name: &str, wanted: &ListenSettings) -> Result<Bound> {
        let cannot = |error: io::Error| cannot_bind(name, wanted, error);
        let InheritedSocket { fd, addr, .. } = self;
        let socket = Socket::from(fd);
        let mut file = None;
        if let Address::Unix(path) = &addr {
            unix::set_owner(name, path, wanted)?;
            if let Some(mode) = wanted.mode {
                super::file::set_mode(path, mode).map_err(cannot)?;
            }
            file = Some(socket_file(path).map_err(cannot)?);
        }
        socket.listen(backlog(wanted)).map_err(cannot)?;
        Ok(Bound { settings: wanted.clone(), socket, addr, file, source: ListenerSource::Store })
    }
}

/// Removes the file of a unix socket from the fd store that was of no use and is closed, unless a process
/// listens there again.
pub(crate) fn clear_away(name: &str, addr: &Address) {
    let Address::Unix(path) = addr else { return };
    let Ok(sock_addr) = SockAddr::unix(path) else { return };
    let settings = bare(addr.clone(), false);
    if let Ok(_lock) = unix::lock_directory(name, path, &settings) {
        // A file that stays is replaced by the next daemon that binds there.
        let _ = unix::remove_dead(name, path, &sock_addr, &settings);
    }
}

/// Settings with nothing but an address.
fn bare(addr: Address, v6only: bool) -> ListenSettings {
    let (further, http) = (Further::default(), HttpSettings::default());
    ListenSettings { addr, further, backlog: 0, mode: None, user: None, group: None, v6only, http }
}

fn is_socket(path: &std::path::Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket())
}
