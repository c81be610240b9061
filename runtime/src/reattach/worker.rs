//! The worker's side of re-attaching: how it accepts the next supervisor, and what it hands to that one.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use rustix::process::PidfdFlags;

use crate::error::{Error, Result};
use crate::link::{self, FromWorker, Protocols};
use crate::reattach::protocol;
use crate::worker::state::SharedState;

/// The supervisor from which a worker takes commands.
pub(crate) enum SupervisorLink {
    /// The supervisor that spawned it.
    Parent,
    /// None: the worker is an orphan and serves until this time, unless the next supervisor comes.
    Orphan { until: Instant },
    /// A later supervisor, which took it over. If the link ends before it sent *drain*, this supervisor
    /// failed to start, and the worker is an orphan again until the same time.
    Adopted { link: OwnedFd, until: Instant },
    /// None, and none will come.
    Severed,
}

/// The socket at which a worker waits for the next supervisor, and the descriptors that this one gets in
/// addition to the listeners.
pub(crate) struct ReattachSocket {
    socket: OwnedFd,
    counters: OwnedFd,
    /// A pidfd of this process, by which the supervisor can watch and signal it.
    process: OwnedFd,
}

impl ReattachSocket {
    /// Takes the socket and the counters that came with the *welcome*.
    pub(crate) fn new(socket: OwnedFd, counters: OwnedFd) -> Result<ReattachSocket> {
        let own = rustix::process::getpid();
        let process = rustix::process::pidfd_open(own, PidfdFlags::empty())
            .map_err(|error| Error::io("cannot open this process", error))?;
        Ok(ReattachSocket { socket, counters, process })
    }

    /// Accepts the next supervisor, if one waits, and sends it everything that it needs; returns the new
    /// link.
    pub(crate) fn accept_supervisor(&self, state: &SharedState) -> io::Result<Option<OwnedFd>> {
        let Some(newcomer) = protocol::accept(&self.socket)? else { return Ok(None) };
        let sent = state.with_listeners(|listeners, sockets| {
            let message = FromWorker::Orphan {
                protocol: Protocols::OURS,
                release: env!("CARGO_PKG_VERSION").to_owned(),
                generation: state.generation,
                exclusive: state.configuration.settings.exclusive,
                listeners,
            };
            let mut fds = vec![self.counters.as_fd(), self.process.as_fd()];
            fds.extend(sockets);
            link::send(&newcomer, &message, &fds)
        });
        match sent {
            Ok(()) => Ok(Some(newcomer)),
            // This supervisor has gone already; another one may come.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl AsFd for ReattachSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
