//! Listeners: named sockets, bound before user code runs and shared by all generations.

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
/// `O_NONBLOCK` is set once, here: the flag belongs to the open file, which all workers share.
#[derive(Debug)]
pub(crate) struct Bound {
    settings: ListenSettings,
    socket: Socket,
    /// The address it has, with the port that the kernel chose.
    addr: Address,
    /// Of a unix socket that is ours to unlink.
    file: Option<SocketFile>,
    source: ListenerSource,
}

/// Who has bound a listener.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ToJson, FromJson)]
#[json(rename_all = "kebab-case")]
pub(crate) enum ListenerSource {
    /// This daemon.
    #[default]
    Daemon,
    /// This daemon, in an earlier life: the service manager has kept it since.
    Store,
    /// The service manager, which shares it with us. It is as its unit says, and never changed, ended or
    /// unlinked by us.
    Manager,
}

impl ListenerSource {
    /// For people; nothing where there is nothing to say.
    pub(crate) fn said(self) -> Option<&'static str> {
        match self {
            ListenerSource::Daemon => None,
            ListenerSource::Store => Some("stored by the service manager"),
            ListenerSource::Manager => Some("passed by the service manager"),
        }
    }
}

/// A listener on its way to the next program.
#[derive(Debug, ToJson, FromJson)]
pub(crate) struct BoundState {
    settings: ListenSettings,
    socket: InheritedFd,
    addr: Address,
    file: Option<SocketFile>,
    #[json(default)]
    source: ListenerSource,
}

/// What is known of the file of a unix socket.
#[derive(Debug, Clone, Copy, ToJson, FromJson)]
struct SocketFile {
    /// So that only our own is ever unlinked.
    inode: (u64, u64),
    mode: u32,
    user: u32,
    group: u32,
}

impl Bound {
    /// Binds `name` as `settings` say.
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

    /// Takes over a socket that this process had before its last exec, or a supervisor before this one.
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

    /// Whether a declaration asks for this address. Port 0 asks for whatever port was chosen before.
    pub(crate) fn is_at(&self, wanted: &Address) -> bool {
        self.settings.addr == *wanted
    }

    /// Whether the kernel chose the port.
    pub(crate) fn has_chosen_port(&self) -> bool {
        matches!(&self.settings.addr, Address::Tcp(addr) if addr.port() == 0)
    }

    /// Whether everything but the address is as `wanted` too.
    pub(crate) fn is_like(&self, wanted: &ListenSettings) -> bool {
        self.settings == *wanted
    }

    /// The same socket with another backlog, mode or owner.
    ///
    /// The old generation shares the socket, and so what changes here changes for it too.
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
        // On a listening socket it changes the backlog alone (listen(2)).
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

    /// Makes it as it was when this was bound or [`adjusted`](Bound::adjusted): the generation that
    /// wanted the socket otherwise is gone.
    pub(crate) fn restore(&self) {
        if self.is_managers() {
            return;
        }
        // What fails here is worth no more than that: the socket is what the last generation made it.
        let _ = self.socket.listen(backlog(&self.settings));
        if let (Address::Unix(path), Some(file)) = (&self.addr, self.file)
            && inode(path) == Some(file.inode)
        {
            let _ = file::set_owner(path, Some(file.user), Some(file.group));
            let _ = file::set_mode(path, file.mode);
        }
    }

    /// The file of a unix socket that is ours to look after.
    pub(crate) fn file(&self) -> Option<(&Path, (u64, u64))> {
        match (&self.addr, self.file) {
            (Address::Unix(path), Some(file)) if !self.is_managers() => Some((path, file.inode)),
            _ => None,
        }
    }

    /// Another socket in the place of this one, whose file was removed.
    pub(crate) fn rebound(&self, name: &str) -> Result<Bound> {
        let Address::Unix(path) = &self.addr else { return self.beside(self) };
        let (socket, file) = unix::bind(name, path, &self.settings)?;
        let (settings, addr) = (self.settings.clone(), self.addr.clone());
        Ok(Bound { settings, socket, addr, file: Some(file), source: ListenerSource::Daemon })
    }

    /// The socket of `other`, in the place of this one, with the settings of this one.
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

    /// Whether it is the service manager's, and only shared with us.
    pub(crate) fn is_managers(&self) -> bool {
        self.source == ListenerSource::Manager
    }

    /// Unlinks the path of a unix socket, if it is still ours. For the daemon's end only.
    pub(crate) fn unlink(&self) {
        if let Some(place) = self.place() {
            place.unlink();
        }
    }

    /// The file of a unix socket, which outlives the socket.
    pub(crate) fn place(&self) -> Option<SocketPlace> {
        match (&self.addr, self.file) {
            (Address::Unix(path), Some(file)) => {
                Some(SocketPlace { path: path.clone(), inode: file.inode })
            }
            _ => None,
        }
    }
}

/// The file of a unix socket that may be closed.
#[derive(Debug, Clone, PartialEq, Eq, ToJson, FromJson)]
pub(crate) struct SocketPlace {
    path: std::path::PathBuf,
    inode: (u64, u64),
}

impl SocketPlace {
    /// Unlinks it, if it is still ours.
    pub(crate) fn unlink(&self) {
        if inode(&self.path) == Some(self.inode) {
            // Somebody may be faster, or the directory read-only: the next start replaces it anyway.
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
    // Without it a restart of the machine's service would wait for TIME_WAIT (socket(7)).
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

/// Whether a descriptor is a listening socket at `addr`, and that is what was `declared`.
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
                // Not by its last part alone: somebody else's may have the same.
                let bound = local.as_pathname() == Some(path);
                // One that was replaced or removed is not ours to unlink.
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

/// Names the process that has the address, where that can be seen.
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
    fn an_address_in_use_is_named_with_its_listener() {
        let first =
            Bound::bind("web", &settings(Address::Tcp(([127, 0, 0, 1], 0).into()))).unwrap();
        let taken = settings(first.addr().clone());
        let error = Bound::bind("api", &taken).unwrap_err().to_string();
        assert!(error.contains("`api`") && error.contains(&first.addr().to_string()), "{error}");
        assert!(error.contains("this daemon itself listens there"), "{error}");
    }

    #[test]
    fn a_live_unix_socket_is_kept_and_a_dead_one_replaced() {
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
    fn another_file_is_never_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("precious");
        std::fs::write(&path, "x").unwrap();
        let error = Bound::bind("a", &settings(Address::Unix(path.clone()))).unwrap_err();
        assert!(error.to_string().contains("a file that is not a socket"), "{error}");
        assert!(path.exists());
    }

    #[test]
    fn only_its_own_inode_is_unlinked() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sock");
        let bound = Bound::bind("a", &settings(Address::Unix(path.clone()))).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "x").unwrap();
        bound.unlink();
        assert!(path.exists());
    }

    #[test]
    fn what_took_the_place_of_its_file_is_not_changed() {
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

    /// A worker of another user could name what is its neighbour's, and have it unlinked.
    #[test]
    fn a_socket_elsewhere_is_not_what_is_declared() {
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
    fn the_mode_is_as_asked() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sock");
        let wanted = ListenSettings { mode: Some(0o640), ..settings(Address::Unix(path.clone())) };
        let _bound = Bound::bind("a", &wanted).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
    }
}
