//! `execveat(2)`: replaces this process by a program, given by its open image.

use std::convert::Infallible;
use std::ffi::{CString, OsString, c_char};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use nix::libc;
use nix::sys::signal::{SigSet, SigmaskHow};

use super::{alarm, signals};

/// A program to execute: its open image, arguments and environment.
#[derive(Clone, Copy)]
pub(crate) struct Program<'a> {
    pub(crate) image: BorrowedFd<'a>,
    pub(crate) args: &'a [OsString],
    pub(crate) vars: &'a [(OsString, OsString)],
    /// The name and value of one more environment variable: the role marker.
    pub(crate) marker: (&'a str, &'a str),
}

/// Replaces this process by the program, with default actions for all signals. Signals that the program will
/// catch are blocked until it does.
pub(crate) fn exec(program: &Program<'_>) -> io::Result<Infallible> {
    let strings = Strings::of(program)?;
    signals::reset_for_exec();
    Err(execute(program.image.as_raw_fd(), &strings))
}

/// Like [`exec`], but with all signals blocked, and with an alarm after `limit` (none if zero) that the
/// program has to disarm. On failure restores the signal mask and disarms the alarm.
pub(crate) fn exec_blocked(program: &Program<'_>, limit: Duration) -> io::Result<Infallible> {
    let strings = Strings::of(program)?;
    let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
    alarm::arm(limit);
    let error = execute(program.image.as_raw_fd(), &strings);
    alarm::disarm();
    before.thread_set_mask()?;
    Err(error)
}

/// The arguments and environment of a program as lists of C strings, each ending with a null pointer.
/// Prepared before a signal handler needs them: a handler must not allocate.
pub(super) struct Strings {
    args: Vec<*mut c_char>,
    /// The marker is the last string.
    vars: Vec<*mut c_char>,
}

impl Strings {
    pub(super) fn of(program: &Program<'_>) -> io::Result<Strings> {
        let mut strings = Strings { args: Vec::new(), vars: Vec::new() };
        for arg in program.args {
            strings.args.push(CString::new(arg.as_bytes())?.into_raw());
        }
        for (name, value) in program.vars {
            if name != program.marker.0 {
                let var = CString::new([name.as_bytes(), b"=", value.as_bytes()].concat())?;
                strings.vars.push(var.into_raw());
            }
        }
        let marker = CString::new(format!("{}={}", program.marker.0, program.marker.1))?;
        strings.vars.push(marker.into_raw());
        strings.args.push(std::ptr::null_mut());
        strings.vars.push(std::ptr::null_mut());
        Ok(strings)
    }

    /// The address of `text` within the marker.
    pub(super) fn place_in_marker(&self, program: &Program<'_>, text: &str) -> Option<*mut c_char> {
        let (name, value) = program.marker;
        let at = name.len() + 1 + value.rfind(text)?;
        let marker = self.vars.iter().rev().nth(1)?;
        Some(marker.wrapping_add(at))
    }
}

impl Drop for Strings {
    fn drop(&mut self) {
        for string in self.args.drain(..).chain(self.vars.drain(..)).filter(|it| !it.is_null()) {
            // SAFETY: each was made by `CString::into_raw` in `of`, and keeps its length: what is written
            // into it are digits in place of digits.
            drop(unsafe { CString::from_raw(string) });
        }
    }
}

/// Executes the program; returns only on failure. Async-signal-safe: one system call and nothing else.
pub(super) fn execute(image: RawFd, strings: &Strings) -> io::Error {
    // SAFETY: the pointers lead to C strings, which live as long as `strings`, and both lists end with a
    // null pointer.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            image,
            c"".as_ptr(),
            strings.args.as_ptr(),
            strings.vars.as_ptr(),
            libc::AT_EMPTY_PATH,
        );
    }
    io::Error::last_os_error()
}
