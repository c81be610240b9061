//! `fcntl(2)`, `dup2(2)`, `close_range(2)`: descriptors across an exec, and the standard streams.

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

/// Keeps `fd` open across the next exec.
pub(crate) fn keep_across_exec(fd: BorrowedFd<'_>) -> io::Result<()> {
    Ok(rustix::io::fcntl_setfd(fd, FdFlags::empty())?)
}

/// Takes ownership of a descriptor that stayed open across the exec, by its number, and marks it
/// close-on-exec.
///
/// Fails if the number is a standard stream, or not open.
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

/// Duplicates a descriptor that stayed open across the exec, by its number, and marks the duplicate
/// close-on-exec. The number itself stays open.
pub(crate) fn duplicate(number: RawFd) -> io::Result<OwnedFd> {
    if number < 3 {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    // SAFETY: borrowed for one call, which reports a number that is not open.
    let handed = unsafe { BorrowedFd::borrow_raw(number) };
    Ok(rustix::io::fcntl_dupfd_cloexec(handed, 3)?)
}

/// Sets whether descriptors stay open across the next exec; skips numbers that are not open.
pub(crate) fn set_kept(numbers: &[RawFd], kept: bool) {
    let flags = if kept { FdFlags::empty() } else { FdFlags::CLOEXEC };
    for &number in numbers {
        // SAFETY: borrowed for one call, which reports a number that is not open.
        let fd = unsafe { BorrowedFd::borrow_raw(number) };
        let _ = rustix::io::fcntl_setfd(fd, flags);
    }
}

/// Closes descriptors that stayed open across the exec and were [duplicated](duplicate), by their numbers.
pub(crate) fn close(mut numbers: Vec<RawFd>) {
    numbers.sort_unstable();
    numbers.dedup();
    for number in numbers.into_iter().filter(|number| *number > 2) {
        // SAFETY: the number was handed over by the program before, and no value of this one owns it: it
        // has duplicates.
        drop(unsafe { OwnedFd::from_raw_fd(number) });
    }
}

/// Sizes the descriptor table of this process for its limit (`RLIMIT_NOFILE`), at most for [`MOST_SIZED`]
/// descriptors, by opening the last one for a moment: a table never shrinks. `any` is a descriptor to
/// duplicate. Must be called before a second thread exists.
///
/// When a process with several threads grows its table, at 64, 128, 256 … descriptors, it waits each time for
/// the kernel's RCU: 5 to 20 ms in which the thread that accepts is blocked. A process with a single thread
/// does not wait.
///
/// The table costs 8 bytes and two bits of kernel memory per descriptor, rounded up to a power of two: 8 KiB
/// for 1,024 descriptors and 528 KiB for 65,536. Beyond that the table grows on demand.
pub(crate) fn size_table(any: impl AsFd) -> io::Result<()> {
    let limit = getrlimit(Resource::Nofile).current;
    match rustix::io::fcntl_dupfd_cloexec(any, last_sized(limit)) {
        // EMFILE: the last descriptor is in use, and so the table is large enough.
        Ok(_) | Err(Errno::MFILE) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The largest number of descriptors that [`size_table`] sizes the table for. Its documentation has the cost;
/// a limit of millions, which containers have, would cost megabytes.
fn last_sized(limit: Option<u64>) -> RawFd {
    let count = limit.unwrap_or(MAX_TABLE).clamp(1, MAX_TABLE);
    RawFd::try_from(count - 1).unwrap_or(RawFd::MAX)
}

/// Makes `fd` stdout and stderr of this process.
pub(crate) fn become_output(fd: impl AsFd) -> io::Result<()> {
    rustix::stdio::dup2_stdout(fd.as_fd())?;
    rustix::stdio::dup2_stderr(fd.as_fd())?;
    Ok(())
}

/// Returns whether writing a line to `fd` would return at once.
///
/// Other processes share the open file and may fill it after the check. Setting `O_NONBLOCK` instead would
/// affect these processes.
pub(crate) fn takes_output(fd: impl AsFd) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::OUT)];
    !matches!(poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(0))
}

/// Device and inode of the file behind `fd`.
pub(crate) fn identity(fd: impl AsFd) -> io::Result<(u64, u64)> {
    let stat = rustix::fs::fstat(fd)?;
    Ok((stat.st_dev, stat.st_ino))
}

/// Makes `/dev/null` stdin of this process.
pub(crate) fn stdin_from_null() -> io::Result<()> {
    let null = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    Ok(rustix::stdio::dup2_stdin(&null)?)
}

/// Opens `/dev/null` as each standard stream that is closed: otherwise the next file that is opened would be
/// written to as stdout or stderr.
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

/// Closes every descriptor above the standard streams except `kept` (close_range(2)).
///
/// For a daemon that has just detached: the descriptors that it inherited belong to its caller, and a pipe
/// that stays open keeps the pipe's reader waiting.
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

/// Makes reads and writes return instead of waiting. The flag belongs to the open file and affects all
/// processes that share it.
pub(crate) fn set_nonblocking(fd: impl AsFd) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(&fd)?;
    Ok(rustix::fs::fcntl_setfl(&fd, flags | OFlags::NONBLOCK)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_size_follows_limit_up_to_maximum() {
        for (limit, last) in [(Some(1024), 1023), (Some(20_000), 19_999), (Some(1), 0)] {
            assert_eq!(last_sized(limit), last);
        }
        for limit in [Some(65_536), Some(1_048_576), Some(1_073_741_816), None] {
            assert_eq!(last_sized(limit), 65_535);
        }
    }
}
