//! The service manager's store: listeners that it keeps while the daemon is not there
//! (`FileDescriptorStoreMax=`, systemd.service(5)).
//!
//! What was kept comes back at the next start, see [`crate::systemd::activation`].

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use rustix::pipe::PipeFlags;

use super::{Notifier, RETRY_DELAY, ServiceManager};
use crate::config::Address;
use crate::listener::{Bound, ListenerSource};
use crate::sys::readiness::{readable, wait_for_room};
use crate::sys::seqpacket;
use crate::systemd::activation::{self, STORED};
use unbroken_core::sorted::{SortedMap, SortedSet};

/// How long the service manager may take to process the messages before a barrier. It takes
/// milliseconds; the start waits for it, so it must not be much longer.
const BARRIER_TIMEOUT: Duration = Duration::from_secs(5);

/// What the manager keeps, by the name of the listener.
#[derive(Debug, Default)]
pub(super) struct Store {
    /// How much it keeps.
    room: usize,
    held: SortedMap<String, Address>,
    /// Those of these names that are to be replaced.
    stale: SortedSet<String>,
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
    /// For what the manager has no room now, this has to be called again: [`Notifier::retries`] tells when.
    pub(crate) fn keep<'a>(
        &mut self,
        listeners: impl Iterator<Item = (&'a String, &'a Bound)>,
    ) -> Option<String> {
        let Some(manager) = &self.manager else { return None };
        let store = &mut self.store;
        let ours = listeners.filter(|(_, bound)| bound.source() != ListenerSource::Manager);
        let ours: SortedMap<String, &Bound> = activation::store_names(ours)
            .into_iter()
            .map(|(name, (_, bound))| (name, bound))
            .collect();
        let stays =
            |name: &String, addr: &Address| ours.get(name).is_some_and(|it| it.addr() == addr);
        let mut full = false;
        let mut is_sent = |sent: io::Result<()>| {
            full |= sent.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
            sent.is_ok()
        };
        store.held.retain(|name, addr| {
            let stays = stays(name, addr) && !store.stale.contains(name);
            stays || !is_sent(manager.forget(name))
        });
        store.stale.retain(|name| store.held.contains_key(name));
        let new: Vec<_> = ours.iter().filter(|(name, _)| !store.held.contains_key(*name)).collect();
        let mut remark = None;
        for (name, bound) in new {
            if store.held.len() >= store.room {
                let says = store.room > 0 && !std::mem::replace(&mut store.is_full, true);
                remark = says.then(|| {
                    format!(
                        "the service manager stores only {} of {} listeners; raise \
                         FileDescriptorStoreMax=",
                        store.room,
                        ours.len()
                    )
                });
                break;
            }
            // It is no reason to forget a listener that it has an error to report.
            let message = format!("FDSTORE=1\nFDNAME={STORED}{name}\nFDPOLL=0\n");
            if is_sent(manager.send_with(&message, bound.as_fd())) {
                store.held.insert(name.clone(), bound.addr().clone());
            }
        }
        if full {
            self.retry = Some(Instant::now() + RETRY_DELAY);
        }
        remark
    }

    /// What it keeps of this name is of no use any more: the next [`keep`](Notifier::keep) gives it another.
    pub(crate) fn renew(&mut self, name: &str) {
        if self.store.held.contains_key(name) {
            self.store.stale.insert(name.to_owned());
        }
    }

    /// Tells the manager to close what it keeps of these names, and waits until it has.
    pub(crate) fn forget(&self, names: &[String]) -> io::Result<()> {
        let (Some(manager), false) = (&self.manager, names.is_empty()) else { return Ok(()) };
        let deadline = Instant::now() + BARRIER_TIMEOUT;
        let socket = manager.connected()?;
        let send = |message: &str, fds: &[BorrowedFd<'_>]| loop {
            match seqpacket::send(&socket, message.as_bytes(), fds) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if !wait_for_room(socket.as_fd(), deadline)? {
                        return Err(io::Error::from(io::ErrorKind::TimedOut));
                    }
                }
                sent => return sent,
            }
        };
        names.iter().try_for_each(|name| send(&forgets(name), &[]))?;
        let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        send("BARRIER=1", &[write.as_fd()])?;
        drop(write);
        match readable(&[((), read.as_fd())], Some(deadline))?.is_empty() {
            false => Ok(()),
            true => Err(io::Error::from(io::ErrorKind::TimedOut)),
        }
    }
}

impl ServiceManager {
    fn forget(&self, name: &str) -> io::Result<()> {
        self.send(&forgets(name))
    }

    fn send_with(&self, message: &str, fd: BorrowedFd<'_>) -> io::Result<()> {
        seqpacket::send(&self.connected()?, message.as_bytes(), &[fd])
    }

    fn connected(&self) -> io::Result<UnixDatagram> {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        socket.connect_addr(&self.addr)?;
        Ok(socket)
    }
}

fn forgets(name: &str) -> String {
    format!("FDSTOREREMOVE=1\nFDNAME={STORED}{name}\n")
}
