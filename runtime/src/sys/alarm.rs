//! `alarm(2)`: a limit for what this process does next, be it as another program.

use std::time::Duration;

use nix::libc;
use nix::sys::signal::{self, SaFlags, SigAction, SigHandler, SigSet, Signal};

/// Lets a SIGALRM come after `limit`, in whole seconds, also when this process has become another program
/// by then.
pub(crate) fn arm(limit: Duration) {
    let seconds = u32::try_from(limit.as_secs()).unwrap_or(u32::MAX);
    // SAFETY: alarm(2) has no preconditions.
    unsafe { libc::alarm(seconds) };
}

/// Takes it back, also where it has come already and is blocked.
pub(crate) fn disarm() {
    arm(Duration::ZERO);
    let handler = |handler| SigAction::new(handler, SaFlags::empty(), SigSet::empty());
    for action in [handler(SigHandler::SigIgn), handler(SigHandler::SigDfl)] {
        // SAFETY: runs no code of ours; to ignore a signal discards one that is pending (sigaction(2)).
        let _ = unsafe { signal::sigaction(Signal::SIGALRM, &action) };
    }
}
