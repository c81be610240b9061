//! `alarm(2)`: a time limit for this process that stays in force across an exec.

use std::time::Duration;

use nix::libc;
use nix::sys::signal::{self, SaFlags, SigAction, SigHandler, SigSet, Signal};

/// Schedules SIGALRM after `limit`, in whole seconds.
pub(crate) fn arm(limit: Duration) {
    let seconds = u32::try_from(limit.as_secs()).unwrap_or(u32::MAX);
    // SAFETY: alarm(2) has no preconditions.
    unsafe { libc::alarm(seconds) };
}

/// Cancels the alarm, and discards a SIGALRM that has arrived but is blocked.
pub(crate) fn disarm() {
    arm(Duration::ZERO);
    let handler = |handler| SigAction::new(handler, SaFlags::empty(), SigSet::empty());
    for action in [handler(SigHandler::SigIgn), handler(SigHandler::SigDfl)] {
        // SAFETY: runs no code of ours; to ignore a signal discards one that is pending (sigaction(2)).
        let _ = unsafe { signal::sigaction(Signal::SIGALRM, &action) };
    }
}
