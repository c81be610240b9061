//! `fcntl(2)`, `dup2(2)`: which descriptors a program gets, and what its standard streams are.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::FdFlags;

/// Lets `fd` survive the next `exec`.
pub(crate) fn keep_across_exec(fd: BorrowedFd<'_>) -> io::Result<()> {
    Ok(rustix::io::fcntl_setfd(fd, FdFlags::empty())?)
}

/// Takes ownership of a descriptor that `exec` handed over under a number, and marks it close-on-exec.
///
/// Fails where the number is not an open descriptor.
pub(crate) fn adopt(number: RawFd) -> io::Result<OwnedFd> {
    if number < 3 {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    // SAFETY: the number comes from the marker written by the process that exec'd us for exactly this
    // use, and each number is adopted once; `fcntl` below reports a number that is not open.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    match rustix::io::fcntl_setfd(&fd, FdFlags::CLOEXEC) {
        Ok(()) => Ok(fd),
        Err(error) => {
            std::mem::forget(fd);
            Err(error.into())
        }
    }
}

/// Makes `fd` this process' stdout and stderr.
pub(crate) fn become_output(fd: impl AsFd) -> io::Result<()> {
    rustix::stdio::dup2_stdout(fd.as_fd())?;
    rustix::stdio::dup2_stderr(fd.as_fd())?;
    Ok(())
}

/// Makes `/dev/null` this process' stdin.
pub(crate) fn stdin_from_null() -> io::Result<()> {
    let null = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    Ok(rustix::stdio::dup2_stdin(&null)?)
}

/// Opens `/dev/null` on the standard streams that are closed, so that no other file gets their numbers.
pub(crate) fn fill_standard_streams() -> io::Result<()> {
    loop {
        let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        if std::os::fd::AsRawFd::as_raw_fd(&null) > 2 {
            return Ok(());
        }
        keep_across_exec(null.as_fd())?;
        std::mem::forget(null);
    }
}

/// Reads and writes return instead of waiting. The flag belongs to the open file, so that everyone who
/// shares it is affected.
pub(crate) fn set_nonblocking(fd: impl AsFd) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(&fd)?;
    Ok(rustix::fs::fcntl_setfl(&fd, flags | OFlags::NONBLOCK)?)
}
