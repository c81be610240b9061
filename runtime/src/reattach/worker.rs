//! A worker without its supervisor: who may take it over, and what it hands to that one.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use rustix::process::PidfdFlags;

use crate::error::{Error, Result};
use crate::link::{self, FromWorker, Protocols};
use crate::reattach::protocol;
use crate::worker::state::SharedState;

/// From whom a worker takes orders.
pub(crate) enum SupervisorLink {
    /// The supervisor that spawned it.
    Parent,
    /// Nobody: the next one may come until then.
    Orphan { until: Instant },
    /// One that did not spawn it. If it is gone before it ordered a drain, it failed to start.
    Adopted { link: OwnedFd, until: Instant },
    /// Nobody, and nobody will come.
    Severed,
}

/// Where the worker can be found by the next supervisor, and what that one gets beside the listeners.
pub(crate) struct ReattachSocket {
    socket: OwnedFd,
    counters: OwnedFd,
    /// This process: whoever gets it sees it end, and can end it.
    process: OwnedFd,
}

impl ReattachSocket {
    pub(crate) fn new(socket: OwnedFd, counters: OwnedFd) -> Result<ReattachSocket> {
        let own = rustix::process::getpid();
        let process = rustix::process::pidfd_open(own, PidfdFlags::empty())
            .map_err(|error| Error::io("cannot open this process", error))?;
        Ok(ReattachSocket { socket, counters, process })
    }

    /// The next supervisor, which has been given everything, if there is one.
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
            // It did not wait for the answer, and there may be another.
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
