//! Listeners: named sockets, bound before user code runs and shared by all generations.
//!
//! A [`Bound`] is one such socket, with the settings it was declared with and the address it has. It is bound
//! here (TCP) or in [`unix`], for each address of a listener by [`several::bind`]; or comes from a service
//! manager ([`inherited`]), from before an exec ([`Bound::unpack`]), or from a supervisor that was killed
//! ([`Bound::adopt`]).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;

use crate::json::{FromJson, ToJson};
use socket2::{Domain, SockRef, Socket, Type};

use crate::config::{Address, ListenSettings};
use crate::error::{Error, ErrorKind, Result};
use crate::inherited_fd::{FdTable, InheritedFd};
use crate::sys::holders::{self, Holder};

mod file;
mod inherited;
mod several;
mod unix;

pub(crate) use inherited::{InheritedSocket, Unsuitable, clear_away, examine};
pub(crate) use several::bind;

/// A bound, listening, non-blocking socket.
///
/// `O_NONBLOCK` is set once, when it is bound, and never changed: the flag belongs to the open file, which
/// all workers share.
#[derive(Debug)]
pub(crate) struct Bound {
    settings: ListenSettings,
    socket: Socket,
    /// The actual address, with the port that the kernel chose.
    addr: Address,
    /// The file of a unix socket, if it is ours to unlink.
    file: Option<SocketFile>,
    source: ListenerSource,
}

/// The origin of a listener.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ToJson, FromJson)]
#[json(rename_all = "kebab-case")]
pub(crate) enum ListenerSource {
    /// Bound by this daemon.
    #[default]
    Daemon,
    /// Bound by this daemon in an earlier run, and kept by the service manager since.
    Store,
    /// Bound by the service manager, which shares it with us. Its unit determines its settings: it is never
    /// changed, ended or unlinked by us.
    Manager,
}

impl ListenerSource {
    /// The origin in words, where it is not the usual one.
    pub(crate) fn describe(self) -> Option<&'static str> {
        match self {
            ListenerSource::Daemon => None,
            ListenerSource::Store => Some("stored by the service manager"),
            ListenerSource::Manager => Some("passed by the service manager"),
        }
    }
}

/// A listener in the state for the next image.
#[derive(Debug, ToJson, FromJson)]
pub(crate) struct BoundState {
    settings: ListenSettings,
    socket: InheritedFd,
    addr: Address,
    file: Option<SocketFile>,
    #[json(default)]
    source: ListenerSource,
}

/// The file of a unix socket, as it was when it was bound or adjusted.
#[derive(Debug, Clone, Copy, ToJson, FromJson)]
struct SocketFile {
    /// Identifies the file: a foreign one at the path is never changed or unlinked.
    inode: (u64, u64),
    mode: u32,
    user: u32,
    group: u32,
}

impl Bound {
    /// Binds the listener `name` according to `settings`.
    pub(crate) fn bind(name: &str, settings: &ListenSettings) -> Result<Bound> {
        let (socket, addr, file) = match &settings.addr {
            Address::Tcp(addr) => {
                let socket =
                    tcp(*addr, settings).map_err(|error| cannot_bind(name, settings, error))?;
                let local =
                    socket.local_addr().ok().and_then(|addr| addr.as_socket()).unwrap_or(*addr);
                (socket, Address::Tcp(local), None)
            }
            Address::Unix(path) => {
                let (socket, file) = unix::bind(name, path, settings)?;
                (socket, settings.addr.clone(), Some(file))
            }
        };
        Ok(Bound { settings: settings.clone(), socket, addr, file, source: ListenerSource::Daemon })
    }

    /// Takes over a socket that was bound by a previous image or a previous supervisor.
    pub(crate) fn adopt(
        settings: ListenSettings,
        fd: OwnedFd,
        addr: Address,
        source: ListenerSource,
    ) -> Bound {
        let file = match &addr {
            Address::Unix(path) if source != ListenerSource::Manager => socket_file(path).ok(),
            _ => None,
        };
        Bound { settings, socket: Socket::from(fd), addr, file, source }
    }

    pub(crate) fn pack(&self, packing: &mut FdTable) -> BoundState {
        BoundState {
            settings: self.settings.clone(),
            socket: packing.add(&self.socket),
            addr: self.addr.clone(),
            file: self.file,
            source: self.source,
        }
    }

    pub(crate) fn unpack(packed: BoundState) -> Result<Bound> {
        let socket = packed.socket.duplicate("a listener")?;
        let BoundState { settings, addr, file, source, .. } = packed;
        Ok(Bound { settings, socket: Socket::from(socket), addr, file, source })
    }

    /// Returns whether the listener was declared with the address `wanted`. A declared port 0 is compared as
    /// it is, not by the port that the kernel chose.
    pub(crate) fn is_at(&self, wanted: &Address) -> bool {
        self.settings.addr == *wanted
    }

    /// Returns whether the kernel chose the port.
    pub(crate) fn has_chosen_port(&self) -> bool {
        matches!(&self.settings.addr, Address::Tcp(addr) if addr.port() == 0)
    }

    /// Returns whether the listener was declared with the same settings as `wanted`.
    pub(crate) fn is_like(&self, wanted: &ListenSettings) -> bool {
        self.settings == *wanted
    }

    /// Returns the same socket with the backlog, mode and owner of `wanted`.
    ///
    /// The old generation shares the socket: the change affects it, too, until [`restore`](Bound::restore)
    /// takes it back.
    pub(crate) fn adjusted(&self, name: &str, wanted: &ListenSettings) -> Result<Bound> {
        let cannot = |error: io::Error| cannot_bind(name, wanted, error);
        if self.settings.v6only != wanted.v6only {
            return Err(Error::new(
                ErrorKind::Listen,
                format!(
                    "`v6only` of listener `{name}` at {} cannot change at a restart; stop and start",
                    wanted.addr
                ),
            ));
        }
        let socket = self.socket.try_clone().map_err(cannot)?;
        if let Address::Unix(path) = &wanted.addr {
            unix::set_owner(name, path, wanted)?;
            if let Some(mode) = wanted.mode {
                file::set_mode(path, mode).map_err(cannot)?;
            }
        }
        // On a socket that listens, listen(2) only changes the backlog.
        socket.listen(backlog(wanted)).map_err(cannot)?;
        let (settings, addr) = (wanted.clone(), self.addr.clone());
        let file = match (&self.file, &wanted.addr) {
            (Some(ours), Address::Unix(path)) if inode(path) == Some(ours.inode) => {
                socket_file(path).ok()
            }
            (file, _) => *file,
        };
        Ok(Bound { settings, socket, addr, file, source: self.source })
    }

    /// Restores the backlog, mode and owner that the socket had when this was bound or
    /// [`adjusted`](Bound::adjusted), after the generation that adjusted them is gone.
    pub(crate) fn restore(&self) {
        if self.is_managers() {
            return;
        }
        // On failure the socket keeps the settings of that generation, and still serves.
        let _ = self.socket.listen(backlog(&self.settings));
        if let (Address::Unix(path), Some(file)) = (&self.addr, self.file)
            && inode(path) == Some(file.inode)
        {
            let _ = file::set_owner(path, Some(file.user), Some(file.group));
            let _ = file::set_mode(path, file.mode);
        }
    }

    /// The path and inode of a unix socket, if the file is ours.
    pub(crate) fn file(&self) -> Option<(&Path, (u64, u64))> {
        match (&self.addr, self.file) {
            (Address::Unix(path), Some(file)) if !self.is_managers() => Some((path, file.inode)),
            _ => None,
        }
    }

    /// Binds a new socket in place of this one, whose file was removed.
    pub(crate) fn rebound(&self, name: &str) -> Result<Bound> {
        let Address::Unix(path) = &self.addr else { return self.beside(self) };
        let (socket, file) = unix::bind(name, path, &self.settings)?;
        let (settings, addr) = (self.settings.clone(), self.addr.clone());
        Ok(Bound { settings, socket, addr, file: Some(file), source: ListenerSource::Daemon })
    }

    /// Returns the socket of `other` with the settings of this one.
    pub(crate) fn beside(&self, other: &Bound) -> Result<Bound> {
        let socket = other.socket.try_clone();
        let socket = socket
            .map_err(|error| Error::io("cannot duplicate the socket of a listener", error))?;
        let (settings, addr) = (self.settings.clone(), self.addr.clone());
        Ok(Bound { settings, socket, addr, file: other.file, source: other.source })
    }

    pub(crate) fn addr(&self) -> &Address {
        &self.addr
    }

    pub(crate) fn settings(&self) -> &ListenSettings {
        &self.settings
    }

    pub(crate) fn source(&self) -> ListenerSource {
        self.source
    }

    /// Returns whether the socket belongs to the service manager, and is only shared with us.
    pub(crate) fn is_managers(&self) -> bool {
        self.source == ListenerSource::Manager
    }

    /// Unlinks the file of a unix socket, if it is still ours. Only for the end of the daemon.
    pub(crate) fn unlink(&self) {
        if let Some(place) = self.place() {
            place.unlink();
        }
    }

    /// The file of a unix socket, to be unlinked after the socket is closed.
    pub(crate) fn place(&self) -> Option<SocketPlace> {
        match (&self.addr, self.file) {
            (Address::Unix(path), Some(file)) => {
                Some(SocketPlace { path: path.clone(), inode: file.inode })
            }
            _ => None,
        }
    }
}

/// The file of a unix socket, without the socket.
#[derive(Debug, Clone, PartialEq, Eq, ToJson, FromJson)]
pub(crate) struct SocketPlace {
    path: std::path::PathBuf,
    inode: (u64, u64),
}

impl SocketPlace {
    /// Unlinks the file, if it is still ours.
    pub(crate) fn unlink(&self) {
        if inode(&self.path) == Some(self.inode) {
            // On failure the file stays, and is replaced by the next start.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl AsFd for Bound {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn tcp(addr: std::net::SocketAddr, settings: &ListenSettings) -> io::Result<Socket> {
    let socket =
        Socket::new(Domain::for_address(addr), Type::STREAM.cloexec().nonblocking(), None)?;
    // Without SO_REUSEADDR a stop and start would fail while old connections are in TIME_WAIT (socket(7)).
    socket.set_reuse_address(true)?;
    if addr.is_ipv6() {
        socket.set_only_v6(settings.v6only)?;
    }
    socket.bind(&addr.into())?;
    socket.listen(backlog(settings))?;
    Ok(socket)
}

fn backlog(settings: &ListenSettings) -> i32 {
    i32::try_from(settings.backlog).unwrap_or(i32::MAX)
}

/// Returns whether a descriptor that another process sent is a listening socket at `addr`, and `addr` is what
/// was `declared`.
pub(crate) fn is(fd: impl AsFd, addr: &Address, declared: &ListenSettings) -> bool {
    let socket = SockRef::from(&fd);
    let listens = socket.is_listener().unwrap_or(false);
    let Ok(local) = socket.local_addr() else { return false };
    listens
        && match (addr, &declared.addr) {
            (Address::Tcp(addr), Address::Tcp(wanted)) => {
                let same = wanted.port() == addr.port() || wanted.port() == 0;
                local.as_socket() == Some(*addr) && same && wanted.ip() == addr.ip()
            }
            (Address::Unix(path), Address::Unix(wanted)) => {
                let file = std::fs::symlink_metadata(path);
                // The whole path: another directory may have a socket of the same name.
                let bound = local.as_pathname() == Some(path);
                // A missing file can be restored; a file that is no socket has replaced ours.
                let is_socket = file.map_or(true, |file| file.file_type().is_socket());
                path == wanted && bound && is_socket
            }
            _ => false,
        }
}

fn inode(path: &Path) -> Option<(u64, u64)> {
    socket_file(path).ok().map(|file| file.inode)
}

fn socket_file(path: &Path) -> io::Result<SocketFile> {
    let meta = std::fs::symlink_metadata(path)?;
    Ok(SocketFile {
        inode: (meta.dev(), meta.ino()),
        mode: meta.permissions().mode() & 0o7777,
        user: meta.uid(),
        group: meta.gid(),
    })
}

/// The error for an address in use, which names the process that has it where that is visible.
fn in_use(name: &str, addr: &Address, v6only: bool, error: io::Error) -> Error {
    let holder = match addr {
        Address::Tcp(addr) => holders::of_tcp(*addr, v6only),
        Address::Unix(path) => holders::of_unix(path),
    };
    let advice = match holder {
        Some(Holder::Process { pid, .. }) if pid == std::process::id() => {
            "this daemon itself listens there; stop and start it, or set another address".to_owned()
        }
        Some(Holder::Process { pid, command }) => {
            format!("process {pid} ({command}) listens there; stop it or set another address")
        }
        Some(Holder::Hidden) => {
            "a process of another user or namespace listens there; stop it or set \
                                 another address"
                .to_owned()
        }
        None => "stop the process that listens there or set another address".to_owned(),
    };
    let message = format!("cannot bind listener `{name}` to {addr}; {advice}");
    Error::os(ErrorKind::Listen, message, error)
}

fn cannot_bind(name: &str, settings: &ListenSettings, error: io::Error) -> Error {
    let ListenSettings { addr, v6only, .. } = settings;
    let v6only = *v6only;
    let advice = match error.kind() {
        io::ErrorKind::AddrInUse => return in_use(name, addr, v6only, error),
        io::ErrorKind::PermissionDenied => {
            "; ports below 1024 and directories of other users need privileges: run as root or set \
             another address"
        }
        io::ErrorKind::AddrNotAvailable => "; no interface of this host has that address",
        io::ErrorKind::NotFound => "; create its directory first",
        _ => "",
    };
    Error::os(ErrorKind::Listen, format!("cannot bind listener `{name}` to {addr}{advice}"), error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Further;

    fn settings(addr: Address) -> ListenSettings {
        ListenSettings {
            addr,
            further: Further::default(),
            backlog: 16,
            mode: None,
            user: None,
            group: None,
            v6only: true,
            http: crate::config::HttpSettings::default(),
        }
    }

    #[test]
    fn address_in_use_error_names_listener_and_address() {
        let first =
            Bound::bind("web", &settings(Address::Tcp(([127, 0, 0, 1], 0).into()))).unwrap();
        let taken = settings(first.addr().clone());
        let error = Bound::bind("api", &taken).unwrap_err().to_string();
        assert!(error.contains("`api`") && error.contains(&first.addr().to_string()), "{error}");
        assert!(error.contains("this daemon itself listens there"), "{error}");
    }

    #[test]
    fn live_unix_socket_is_kept_and_dead_one_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sock");
        let wanted = settings(Address::Unix(path.clone()));
        let first = Bound::bind("a", &wanted).unwrap();
        let error = Bound::bind("a", &wanted).unwrap_err().to_string();
        assert!(error.contains("in use"), "{error}");
        drop(first);
        assert!(path.exists());
        let second = Bound::bind("a", &wanted).unwrap();
        second.unlink();
        assert!(!path.exists());
    }

    #[test]
    fn foreign_file_is_never_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("precious");
        std::fs::write(&path, "x").unwrap();
        let error = Bound::bind("a", &settings(Address::Unix(path.clone()))).unwrap_err();
        assert!(error.to_string().contains("a file that is not a socket"), "{error}");
        assert!(path.exists());
    }

    #[test]
    fn replaced_socket_file_is_not_unlinked() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sock");
        let bound = Bound::bind("a", &settings(Address::Unix(path.clone()))).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "x").unwrap();
        bound.unlink();
        assert!(path.exists());
    }

    #[test]
    fn link_in_place_of_socket_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (path, precious) = (dir.path().join("a.sock"), dir.path().join("precious"));
        let bound = Bound::bind("a", &settings(Address::Unix(path.clone()))).unwrap();
        std::fs::write(&precious, "x").unwrap();
        std::fs::set_permissions(&precious, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(&precious, &path).unwrap();
        let wanted = ListenSettings { mode: Some(0o666), ..settings(Address::Unix(path)) };
        let error = bound.adjusted("a", &wanted).unwrap_err().to_string();
        assert!(error.contains("`a`") && error.contains("another file"), "{error}");
        let mode = std::fs::metadata(&precious).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    /// A worker of another user could otherwise name the socket of its neighbour, and have it unlinked.
    #[test]
    fn socket_in_other_directory_is_not_accepted() {
        let dir = tempfile::tempdir().unwrap();
        let [here, there] = ["here", "there"].map(|name| {
            std::fs::create_dir(dir.path().join(name)).unwrap();
            let path = dir.path().join(name).join("a.sock");
            Bound::bind("a", &settings(Address::Unix(path))).unwrap()
        });
        let is_at = |fd: &Bound, at: &Bound| is(fd, at.addr(), &settings(at.addr().clone()));
        assert!(is_at(&here, &here) && is_at(&there, &there));
        assert!(!is_at(&here, &there));
    }

    #[test]
    fn socket_file_has_configured_mode() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sock");
        let wanted = ListenSettings { mode: Some(0o640), ..settings(Address::Unix(path.clone())) };
        let _bound = Bound::bind("a", &wanted).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
    }
}
