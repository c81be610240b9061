//! `poll(2)`: waits until a descriptor is readable or a deadline has passed.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Waits until one of the `sources` is readable or hung up, at most until `deadline`; returns the names of
/// those that are. Returns none at the deadline, or after a signal.
pub(crate) fn readable<T: Copy>(
    sources: &[(T, BorrowedFd<'_>)],
    deadline: Option<Instant>,
) -> io::Result<Vec<T>> {
    let mut fds: Vec<PollFd<'_>> =
        sources.iter().map(|(_, fd)| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
    wait(&mut fds, deadline)?;
    let ready = fds.iter().map(|fd| !fd.revents().is_empty());
    Ok(sources.iter().zip(ready).filter(|(_, ready)| *ready).map(|((name, _), _)| *name).collect())
}

/// Waits until a connected socket can send, at most until `deadline`; returns whether it can.
pub(crate) fn wait_for_room(socket: BorrowedFd<'_>, deadline: Instant) -> io::Result<bool> {
    loop {
        let mut fds = [PollFd::from_borrowed_fd(socket, PollFlags::OUT)];
        wait(&mut fds, Some(deadline))?;
        if !fds[0].revents().is_empty() || deadline <= Instant::now() {
            return Ok(!fds[0].revents().is_empty());
        }
    }
}

/// Polls until an event, a signal or the deadline.
fn wait(fds: &mut [PollFd<'_>], deadline: Option<Instant>) -> io::Result<()> {
    let timeout = deadline.map(|at| {
        // Rounded up: on a timeout the deadline has passed, and the caller does not poll again at once.
        let left = at.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
        Timespec::try_from(left).unwrap_or(Timespec { tv_sec: 3600, tv_nsec: 0 })
    });
    match poll(fds, timeout.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
