//! The service manager's store: listeners that it keeps while the daemon is not there
//! (`FileDescriptorStoreMax=`, systemd.service(5)).
//!
//! What was kept comes back at the next start, see [`crate::activation`].

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use rustix::pipe::PipeFlags;

use super::{Manager, Notifier};
use crate::activation::{self, STORED};
use crate::config::Address;
use crate::listener::{Bound, Source};
use crate::sorted::SortedMap;
use crate::sys::readiness::readable;
use crate::sys::seqpacket;

/// How long the manager may take to do what it was told.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the manager keeps, by the name of the listener.
#[derive(Debug, Default)]
pub(super) struct Store {
    /// How much it keeps.
    room: usize,
    held: SortedMap<String, Address>,
    /// That was said.
    is_full: bool,
}

impl Store {
    /// A manager says by `FDSTORE` how much it keeps; to one that does not say so nothing is given, as each
    /// time would be a warning in its log. One before systemd 254 does not, but the unit can.
    pub(super) fn new(vars: &[(OsString, OsString)]) -> Store {
        let room = vars.iter().find(|(name, _)| name == "FDSTORE");
        let room = room.and_then(|(_, value)| value.to_str()?.parse().ok()).unwrap_or(0);
        Store { room, ..Store::default() }
    }
}

impl Notifier {
    /// What the manager has already.
    pub(crate) fn set_held(&mut self, held: SortedMap<String, Address>) {
        self.store.held = held;
    }

    /// What the manager keeps.
    pub(crate) fn held(&self) -> &SortedMap<String, Address> {
        &self.store.held
    }

    /// Whether the manager keeps the listener at this address.
    pub(crate) fn holds(&self, addr: &Address) -> bool {
        self.store.held.values().any(|held| held == addr)
    }

    /// Gives the manager these listeners to keep, in place of all others. Returns what the operator should
    /// know, once.
    ///
    /// What the manager does not read now, it is told with the next change.
    pub(crate) fn keep<'a>(
        &mut self,
        listeners: impl Iterator<Item = (&'a String, &'a Bound)>,
    ) -> Option<String> {
        let Some(manager) = &self.manager else { return None };
        let store = &mut self.store;
        let ours = listeners.filter(|(_, bound)| bound.source() != Source::Manager);
        let ours: SortedMap<String, &Bound> = activation::store_names(ours)
            .into_iter()
            .map(|(name, (_, bound))| (name, bound))
            .collect();
        let stays =
            |name: &String, addr: &Address| ours.get(name).is_some_and(|it| it.addr() == addr);
        store.held.retain(|name, addr| stays(name, addr) || manager.forget(name).is_err());
        let new: Vec<_> = ours.iter().filter(|(name, _)| !store.held.contains_key(*name)).collect();
        for (name, bound) in new {
            if store.held.len() >= store.room {
                let says = store.room > 0 && !std::mem::replace(&mut store.is_full, true);
                return says.then(|| {
                    format!(
                        "the service manager keeps {} of {} listeners: raise FileDescriptorStoreMax=",
                        store.room,
                        ours.len()
                    )
                });
            }
            // It is no reason to forget a listener that it has an error to report.
            let message = format!("FDSTORE=1\nFDNAME={STORED}{name}\nFDPOLL=0\n");
            if manager.send_with(&message, bound.as_fd()).is_ok() {
                store.held.insert(name.clone(), bound.addr().clone());
            }
        }
        None
    }

    /// What it keeps of this name is no use any more: the next [`keep`](Notifier::keep) gives it another.
    pub(crate) fn renew(&mut self, name: &str) {
        if let (Some(manager), Some(_)) = (&self.manager, self.store.held.remove(name)) {
            // One that does not take this does not take the other one either, and is told again.
            let _ = manager.forget(name);
        }
    }

    /// Tells the manager to close what it keeps of these names, and waits until it has.
    pub(crate) fn forget(&self, names: &[String]) -> io::Result<()> {
        let (Some(manager), false) = (&self.manager, names.is_empty()) else { return Ok(()) };
        names.iter().try_for_each(|name| manager.forget(name))?;
        let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        manager.send_with("BARRIER=1", write.as_fd())?;
        drop(write);
        match readable(&[((), read.as_fd())], Some(Instant::now() + PATIENCE))?.is_empty() {
            false => Ok(()),
            true => Err(io::Error::from(io::ErrorKind::TimedOut)),
        }
    }
}

impl Manager {
    fn forget(&self, name: &str) -> io::Result<()> {
        self.send(&format!("FDSTOREREMOVE=1\nFDNAME={STORED}{name}\n"))
    }

    fn send_with(&self, message: &str, fd: BorrowedFd<'_>) -> io::Result<()> {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        socket.connect_addr(&self.addr)?;
        seqpacket::send(&socket, message.as_bytes(), &[fd])
    }
}
