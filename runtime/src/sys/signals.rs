//! Signals: read from a descriptor by the supervisor (signalfd(2)), caught by a handler in workers
//! (sigaction(2)).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicI32, Ordering};

use crate::json::{FromJson, ToJson};
use nix::libc;
use nix::sys::signal::{self, SaFlags, SigAction, SigHandler, SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::pipe::PipeFlags;

/// The signals that a supervisor acts on.
const WATCHED: [Signal; 7] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGHUP,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGCHLD,
];

/// The watched signals as a readable descriptor. They are blocked and have no other effect.
pub(crate) struct Signals {
    fd: SignalFd,
}

impl Signals {
    /// Blocks the watched signals, and no others, and opens a descriptor for them.
    pub(crate) fn watch() -> io::Result<Signals> {
        let mask: SigSet = WATCHED.into_iter().collect();
        mask.thread_set_mask()?;
        let fd = SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        Ok(Signals { fd })
    }

    /// Returns the next pending signal, if there is one.
    pub(crate) fn next(&mut self) -> io::Result<Option<Signal>> {
        match self.fd.read_signal()? {
            Some(info) => Ok(i32::try_from(info.ssi_signo)
                .ok()
                .and_then(|number| Signal::try_from(number).ok())),
            None => Ok(None),
        }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// What SIGHUP means to a daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ToJson, FromJson)]
pub(crate) enum SighupAction {
    /// A request, such as a restart: the daemon has no terminal that could hang up.
    Request,
    /// The end: the terminal that the daemon runs in is gone.
    End,
    /// Nothing: the daemon was started to survive the end of its terminal (`nohup`).
    Ignored,
}

/// Returns whether `signal` is ignored, as inherited from the parent.
pub(crate) fn is_ignored(signal: Signal) -> io::Result<bool> {
    let mut now = std::mem::MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: with no new action, sigaction(2) only writes the present one to the place given.
    let done =
        unsafe { libc::sigaction(signal as libc::c_int, std::ptr::null(), now.as_mut_ptr()) };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded and has written it.
    Ok(unsafe { now.assume_init() }.sa_sigaction == libc::SIG_IGN)
}

/// Restores the default action of `signals`, which a parent may have left ignored (`nohup`, some shells).
pub(crate) fn default_action(signals: &[Signal]) -> io::Result<()> {
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    for &signal in signals {
        // SAFETY: the default action runs no code of ours.
        unsafe { signal::sigaction(signal, &default) }?;
    }
    Ok(())
}

/// The signals that a worker catches.
pub(crate) const HANDLED: [Signal; 6] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGHUP,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
];

/// Restores the default actions of all signals for the program that is executed next. Blocks the signals that
/// a worker catches: they stay pending until [`CaughtSignals::catch`].
pub(crate) fn reset_for_exec() {
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    for signal in Signal::iterator() {
        // SAFETY: the default action runs no code of ours. KILL and STOP cannot be changed, and need not be.
        let _ = unsafe { signal::sigaction(signal, &default) };
    }
    let _ = HANDLED.into_iter().collect::<SigSet>().thread_set_mask();
}

/// The write end of the pipe for the handler. There is one [`CaughtSignals`] per process, which lives as long
/// as the process.
static CAUGHT: AtomicI32 = AtomicI32::new(-1);

/// The signal handler: writes the number of the signal into the pipe.
extern "C" fn note(number: libc::c_int) {
    let fd: RawFd = CAUGHT.load(Ordering::Relaxed);
    let byte = u8::try_from(number).unwrap_or(0);
    // SAFETY: write(2) is async-signal-safe; the descriptor stays open for the life of the process; errno is
    // restored for the interrupted code. A full pipe, with 64 Ki signals unread, drops the byte.
    unsafe {
        let errno = libc::__errno_location();
        let saved = *errno;
        libc::write(fd, std::ptr::from_ref(&byte).cast(), 1);
        *errno = saved;
    }
}

/// Caught signals, as bytes in a pipe.
pub(crate) struct CaughtSignals {
    pipe: OwnedFd,
}

impl CaughtSignals {
    /// Catches `signals`, also those pending since before the exec. A handler is used even for signals that
    /// are discarded, because `SIG_IGN` would be inherited by programs that this one executes.
    ///
    /// To be called before a second thread or a child is started, which would inherit the blocked signals.
    pub(crate) fn catch(signals: &[Signal]) -> io::Result<CaughtSignals> {
        let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        CAUGHT.store(std::os::fd::IntoRawFd::into_raw_fd(write), Ordering::SeqCst);
        let action =
            SigAction::new(SigHandler::Handler(note), SaFlags::SA_RESTART, SigSet::empty());
        for &signal in signals {
            // SAFETY: `note` is async-signal-safe.
            unsafe { signal::sigaction(signal, &action) }?;
        }
        SigSet::empty().thread_set_mask()?;
        Ok(CaughtSignals { pipe: read })
    }

    /// Returns the next caught signal, if there is one.
    pub(crate) fn next(&mut self) -> io::Result<Option<Signal>> {
        let mut byte = [0];
        match rustix::io::retry_on_intr(|| rustix::io::read(&self.pipe, &mut byte)) {
            Ok(1) => Ok(Signal::try_from(i32::from(byte[0])).ok()),
            Ok(_) | Err(rustix::io::Errno::AGAIN) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for CaughtSignals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }
}

extern "C" fn ignore(_: libc::c_int) {}

/// Makes a write beyond the file size limit (`RLIMIT_FSIZE`) fail with an error, like a write to a full disk,
/// instead of killing the process. Uses an empty handler, which executed programs do not inherit, unlike
/// `SIG_IGN`.
pub(crate) fn ignore_sigxfsz() -> io::Result<()> {
    let action = SigAction::new(SigHandler::Handler(ignore), SaFlags::SA_RESTART, SigSet::empty());
    // SAFETY: the handler does nothing.
    unsafe { signal::sigaction(Signal::SIGXFSZ, &action) }?;
    Ok(())
}

/// Ends this process as the signal's default action would.
pub(crate) fn die_by_signal(signal: Signal) -> ! {
    let _ = default_action(&[signal]);
    let _ = signal::raise(signal);
    // Still here: a signal without a handler does not kill PID 1 of a PID namespace (pid_namespaces(7)).
    super::process::exit_now(128_u8.saturating_add(signal as u8))
}
