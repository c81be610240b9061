//! The fd store: listeners that the service manager keeps open while the daemon does not run
//! (`FileDescriptorStoreMax=`, systemd.service(5)).
//!
//! The next start gets them back, see [`crate::systemd::activation`].

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

/// The state of the manager's fd store, as far as this daemon knows it.
#[derive(Debug, Default)]
pub(super) struct Store {
    /// The number of descriptors that the manager keeps.
    room: usize,
    /// The listeners that it has, by their name in the store.
    held: SortedMap<String, Address>,
    /// Names in `held` whose socket has to be replaced.
    stale: SortedSet<String>,
    /// Whether the operator was warned that there is too little room.
    is_full: bool,
}

impl Store {
    /// Reads the size of the store from the variable `FDSTORE`. Without the variable nothing is sent to the
    /// store, because a manager without a store logs a warning each time. systemd sets it since version 254;
    /// for earlier ones the unit can.
    pub(super) fn new(vars: &[(OsString, OsString)]) -> Store {
        let room = vars.iter().find(|(name, _)| name == "FDSTORE");
        let room = room.and_then(|(_, value)| value.to_str()?.parse().ok()).unwrap_or(0);
        Store { room, ..Store::default() }
    }
}

impl Notifier {
    /// Sets what the manager has already, as known from the start or from before an exec.
    pub(crate) fn set_held(&mut self, held: SortedMap<String, Address>) {
        self.store.held = held;
    }

    /// The listeners that the manager keeps, by their name in the store.
    pub(crate) fn held(&self) -> &SortedMap<String, Address> {
        &self.store.held
    }

    /// Returns whether the manager keeps a listener at this address.
    pub(crate) fn holds(&self, addr: &Address) -> bool {
        self.store.held.values().any(|held| held == addr)
    }

    /// Has the manager keep these listeners and no others. Returns a warning for the operator, once, if the
    /// store is too small.
    ///
    /// If the manager's queue is full this has to be called again, when [`Notifier::retries`] returns true.
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
            // FDPOLL=0: by default the manager drops a descriptor that polls an error, and a listener may
            // well do so.
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

    /// Marks the socket stored under this name as outdated: the next [`keep`](Notifier::keep) replaces it.
    pub(crate) fn renew(&mut self, name: &str) {
        if self.store.held.contains_key(name) {
            self.store.stale.insert(name.to_owned());
        }
    }

    /// Has the manager close the sockets stored under these names, and waits until it has. The barrier is a
    /// pipe whose write end the manager closes after it has read everything sent before.
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

    /// A socket connected to the manager, through which descriptors can be sent.
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
