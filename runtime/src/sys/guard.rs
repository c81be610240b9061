//! `sigaction(2)`, `sigaltstack(2)`, `alarm(2)`: a way back for a program that has just taken over a process
//! and may be broken.
//!
//! While a [`Guard`] stands, a fault, an abort or the alarm makes the process the program that the guard was
//! given, from within the signal handler: nothing of the broken program is needed for that, neither its
//! heap nor its stack.

use std::ffi::c_char;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, Ordering};

use nix::libc;
use nix::sys::signal::{self, SaFlags, SigAction, SigHandler, SigSet, Signal};

use super::alarm;
use super::exec::{self, Program, Strings};

/// What goes wrong with a program that is broken or hangs.
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

/// Stands in the marker of the program to go back to for the number of a signal, which the handler writes
/// there.
pub(crate) const NO_SIGNAL: &str = "00";

const STACK: usize = 64 * 1024;

/// What the handler needs, prepared while all was well.
struct FallbackProgram {
    image: OwnedFd,
    strings: Strings,
    /// Where the two digits of the signal go.
    digits: Option<*mut c_char>,
    _stack: Vec<u8>,
}

static WAY_BACK: AtomicPtr<FallbackProgram> = AtomicPtr::new(null_mut());

/// Stands until it is lifted.
pub(crate) struct Guard {
    actions: Vec<(Signal, SigAction)>,
    stack: libc::stack_t,
}

impl Guard {
    /// From here on what is guarded against leads to `program`. Unblocks those signals.
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

    /// The program stands on its own feet.
    pub(crate) fn lift(self) {
        alarm::disarm();
        for (signal, action) in &self.actions {
            // SAFETY: what was installed before, by the standard library or by nobody.
            let _ = unsafe { signal::sigaction(*signal, action) };
        }
        // SAFETY: the stack from before, which whoever made it still owns.
        unsafe { libc::sigaltstack(&raw const self.stack, null_mut()) };
        let way = WAY_BACK.swap(null_mut(), Ordering::SeqCst);
        if !way.is_null() {
            // SAFETY: it was made by `Box::into_raw` in `install`, and nobody else took it out.
            drop(unsafe { Box::from_raw(way) });
        }
    }
}

/// Becomes the program before. There is no way to return from here.
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
        // A second fault on the way, or the image is gone.
        libc::_exit(128 + number);
    }
}
