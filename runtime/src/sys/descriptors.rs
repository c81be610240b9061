//! `fcntl(2)`, `dup2(2)`: which descriptors a program gets, and what its standard streams are.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::libc;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, FdFlags};
use rustix::process::{Resource, getrlimit};

/// The most descriptors that the table is sized for in advance: 65,536 take 512 KiB. Beyond that it
/// grows as needed, which pauses a process with several threads.
const MAX_TABLE: u64 = 65_536;

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

/// A duplicate, marked close-on-exec, of a descriptor that `exec` handed over under a number. The number
/// itself stays open.
pub(crate) fn duplicate(number: RawFd) -> io::Result<OwnedFd> {
    if number < 3 {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    // SAFETY: borrowed for one call, which reports a number that is not open.
    let handed = unsafe { BorrowedFd::borrow_raw(number) };
    Ok(rustix::io::fcntl_dupfd_cloexec(handed, 3)?)
}

/// Whether descriptors survive the next `exec`, by number; those that are not open are passed over.
pub(crate) fn set_kept(numbers: &[RawFd], kept: bool) {
    let flags = if kept { FdFlags::empty() } else { FdFlags::CLOEXEC };
    for &number in numbers {
        // SAFETY: borrowed for one call, which reports a number that is not open.
        let fd = unsafe { BorrowedFd::borrow_raw(number) };
        let _ = rustix::io::fcntl_setfd(fd, flags);
    }
}

/// Closes descriptors that were handed over and duplicated, by number.
pub(crate) fn close(mut numbers: Vec<RawFd>) {
    numbers.sort_unstable();
    numbers.dedup();
    for number in numbers.into_iter().filter(|number| *number > 2) {
        // SAFETY: the number was handed over by the program before, and no value of this one owns it: it
        // has duplicates.
        drop(unsafe { OwnedFd::from_raw_fd(number) });
    }
}

/// Sizes this process' descriptor table for the limit in force (`RLIMIT_NOFILE`), and for 65,536 descriptors
/// at most, by opening the last of them for a moment: a table does not shrink. To be called before there is
/// a second thread.
///
/// A process with several threads that grows its table, at 64, 128, 256 … descriptors, waits each time for
/// the kernel's RCU: 5 to 20 ms in which the thread that accepts does nothing. One with a single thread does
/// not wait.
///
/// It costs 8 bytes and two bits of kernel memory for each descriptor, rounded up to a power of two: 8 KiB
/// for 1,024 of them and 528 KiB for 65,536. Beyond that the table grows as it has to.
pub(crate) fn size_table(any: impl AsFd) -> io::Result<()> {
    let limit = getrlimit(Resource::Nofile).current;
    match rustix::io::fcntl_dupfd_cloexec(any, last_sized(limit)) {
        // The second: the last one is in use, so that the table is large enough.
        Ok(_) | Err(Errno::MFILE) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The last descriptor that the table is sized for.
fn last_sized(limit: Option<u64>) -> RawFd {
    let count = limit.unwrap_or(MAX_TABLE).clamp(1, MAX_TABLE);
    RawFd::try_from(count - 1).unwrap_or(RawFd::MAX)
}

/// Makes `fd` this process' stdout and stderr.
pub(crate) fn become_output(fd: impl AsFd) -> io::Result<()> {
    rustix::stdio::dup2_stdout(fd.as_fd())?;
    rustix::stdio::dup2_stderr(fd.as_fd())?;
    Ok(())
}

/// Whether a write of a line to `fd` returns at once.
///
/// Its flags are shared with other processes and cannot be made non-blocking, so that one of them may
/// be faster in filling it.
pub(crate) fn takes_output(fd: impl AsFd) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::OUT)];
    !matches!(poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(0))
}

/// Device and inode of the file behind `fd`.
pub(crate) fn identity(fd: impl AsFd) -> io::Result<(u64, u64)> {
    let stat = rustix::fs::fstat(fd)?;
    Ok((stat.st_dev, stat.st_ino))
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
        if null.as_raw_fd() > 2 {
            return Ok(());
        }
        keep_across_exec(null.as_fd())?;
        std::mem::forget(null);
    }
}

/// Closes every descriptor above the standard streams but `kept` (close_range(2)).
///
/// For a daemon that has just left its caller: what it inherited is the caller's, and a pipe among it
/// would keep the caller's caller waiting.
pub(crate) fn close_inherited(kept: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let close = |first: u32, last: u32| -> io::Result<()> {
        if first > last {
            return Ok(());
        }
        // SAFETY: the only thread of a fresh process closes what no value in this crate owns: the one
        // descriptor it holds is `kept`. A library that holds one by number loses it, as in every
        // daemon.
        let done = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0_u32) };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    match kept.and_then(|fd| u32::try_from(fd.as_raw_fd()).ok()) {
        Some(kept) if kept > 2 => close(3, kept - 1).and_then(|()| close(kept + 1, u32::MAX)),
        _ => close(3, u32::MAX),
    }
}

/// Reads and writes return instead of waiting. The flag belongs to the open file, so that everyone who
/// shares it is affected.
pub(crate) fn set_nonblocking(fd: impl AsFd) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(&fd)?;
    Ok(rustix::fs::fcntl_setfl(&fd, flags | OFlags::NONBLOCK)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A limit of millions costs no more than the most that is sensible.
    #[test]
    fn the_table_follows_the_limit_up_to_a_point() {
        for (limit, last) in [(Some(1024), 1023), (Some(20_000), 19_999), (Some(1), 0)] {
            assert_eq!(last_sized(limit), last);
        }
        for limit in [Some(65_536), Some(1_048_576), Some(1_073_741_816), None] {
            assert_eq!(last_sized(limit), 65_535);
        }
    }
}
