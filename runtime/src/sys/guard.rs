//! `sigaction(2)`, `sigaltstack(2)`, `alarm(2)`: executes the previous image from a signal handler if a new
//! one crashes or hangs while it takes over the process.
//!
//! While a [`Guard`] is installed, a fault, an abort or the alarm makes the signal handler execute the
//! fallback program. The handler uses neither the heap nor the stack of the broken program: its strings are
//! prepared, and it has a stack of its own.

use std::ffi::c_char;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, Ordering};

use nix::libc;
use nix::sys::signal::{self, SaFlags, SigAction, SigHandler, SigSet, Signal};

use super::alarm;
use super::exec::{self, Program, Strings};

/// The signals of a program that crashes or, by the alarm, hangs.
const GUARDED: [Signal; 8] = [
    Signal::SIGSEGV,
    Signal::SIGBUS,
    Signal::SIGILL,
    Signal::SIGFPE,
    Signal::SIGABRT,
    Signal::SIGSYS,
    Signal::SIGTRAP,
    Signal::SIGALRM,
];

/// The placeholder in the fallback program's role marker that the handler overwrites with the number of the
/// signal, in two digits.
pub(crate) const NO_SIGNAL: &str = "00";

/// The size of the handler's stack in bytes. The handler makes a few system calls; the kernel's signal frame,
/// with the vector registers of the processor, takes some kilobytes more.
const STACK: usize = 64 * 1024;

/// Everything that the handler needs, prepared when the guard is installed.
struct FallbackProgram {
    image: OwnedFd,
    strings: Strings,
    /// The address of the two digits of the signal within the marker.
    digits: Option<*mut c_char>,
    _stack: Vec<u8>,
}

/// The program for the handler; null while no guard is installed.
static WAY_BACK: AtomicPtr<FallbackProgram> = AtomicPtr::new(null_mut());

/// An installed guard, with the signal actions and the signal stack from before. In force until it is lifted.
pub(crate) struct Guard {
    actions: Vec<(Signal, SigAction)>,
    stack: libc::stack_t,
}

impl Guard {
    /// Installs the guard with `program` as the fallback, and unblocks the guarded signals.
    pub(crate) fn install(program: &Program<'_>) -> io::Result<Guard> {
        let image = program.image.try_clone_to_owned()?;
        let strings = Strings::of(program)?;
        let digits = strings.place_in_marker(program, NO_SIGNAL);
        let mut space = vec![0; STACK];
        let new = libc::stack_t { ss_sp: space.as_mut_ptr().cast(), ss_flags: 0, ss_size: STACK };
        let way = Box::new(FallbackProgram { image, strings, digits, _stack: space });
        WAY_BACK.store(Box::into_raw(way), Ordering::SeqCst);
        let mut stack = libc::stack_t { ss_sp: null_mut(), ss_flags: libc::SS_DISABLE, ss_size: 0 };
        // SAFETY: the new stack lives in `WAY_BACK` until the guard is lifted, which puts the old one back.
        if unsafe { libc::sigaltstack(&raw const new, &raw mut stack) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let flags = SaFlags::SA_ONSTACK | SaFlags::SA_NODEFER;
        let action = SigAction::new(SigHandler::Handler(go_back), flags, SigSet::all());
        let mut actions = Vec::with_capacity(GUARDED.len());
        for signal in GUARDED {
            // SAFETY: `go_back` is async-signal-safe.
            actions.push((signal, unsafe { signal::sigaction(signal, &action) }?));
        }
        GUARDED.into_iter().collect::<SigSet>().thread_unblock()?;
        Ok(Guard { actions, stack })
    }

    /// Removes the guard: the takeover has succeeded. Disarms the alarm and restores the signal actions and
    /// stack.
    pub(crate) fn lift(self) {
        alarm::disarm();
        for (signal, action) in &self.actions {
            // SAFETY: restores the action from before: the standard library's, or the default.
            let _ = unsafe { signal::sigaction(*signal, action) };
        }
        // SAFETY: restores the stack from before, which its owner, the standard library, has not freed.
        unsafe { libc::sigaltstack(&raw const self.stack, null_mut()) };
        let way = WAY_BACK.swap(null_mut(), Ordering::SeqCst);
        if !way.is_null() {
            // SAFETY: the pointer is from `Box::into_raw` in `install`, and the swap makes this its only
            // taker.
            drop(unsafe { Box::from_raw(way) });
        }
    }
}

/// The signal handler: executes the fallback program, and never returns.
extern "C" fn go_back(number: libc::c_int) {
    let way = WAY_BACK.swap(null_mut(), Ordering::SeqCst);
    // SAFETY: only system calls that signal-safety(7) allows, on memory that `install` prepared and that
    // this handler, having taken the pointer, has for itself.
    unsafe {
        if let Some(way) = way.as_ref() {
            let mut all: libc::sigset_t = std::mem::zeroed();
            libc::sigfillset(&raw mut all);
            libc::sigprocmask(libc::SIG_SETMASK, &raw const all, null_mut());
            libc::alarm(0);
            if let Some(digits) = way.digits {
                let digit = |value: libc::c_int| b"0123456789"[(value % 10) as usize] as c_char;
                digits.write(digit(number / 10));
                digits.add(1).write(digit(number));
            }
            exec::execute(way.image.as_raw_fd(), &way.strings);
        }
        // A second fault within this handler, or the exec failed.
        libc::_exit(128 + number);
    }
}
