//! `execveat(2)`: becoming another program, by its open image.

use std::convert::Infallible;
use std::ffi::{CString, OsString, c_char};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use nix::libc;
use nix::sys::signal::{SigSet, SigmaskHow};

use super::{alarm, signals};

/// A program to become: an open image, its arguments and its environment.
#[derive(Clone, Copy)]
pub(crate) struct Program<'a> {
    pub(crate) image: BorrowedFd<'a>,
    pub(crate) args: &'a [OsString],
    pub(crate) vars: &'a [(OsString, OsString)],
    /// Added to the environment: the marker that tells the new program its role.
    pub(crate) marker: (&'a str, &'a str),
}

/// Replaces this process by the program, with default signals; those it will catch are blocked until then.
pub(crate) fn exec(program: &Program<'_>) -> io::Result<Infallible> {
    let strings = Strings::of(program)?;
    signals::reset_for_exec();
    Err(execute(program.image.as_raw_fd(), &strings))
}

/// As [`exec`], but with all signals blocked, and with an alarm after `limit` that the program has to take
/// care of. Where it fails, all is as it was.
pub(crate) fn exec_blocked(program: &Program<'_>, limit: Duration) -> io::Result<Infallible> {
    let strings = Strings::of(program)?;
    let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
    alarm::arm(limit);
    let error = execute(program.image.as_raw_fd(), &strings);
    alarm::disarm();
    before.thread_set_mask()?;
    Err(error)
}

/// The program's strings as the kernel wants them.
pub(super) struct Strings {
    /// The lists of pointers, each with a null pointer at its end.
    args: Vec<*mut c_char>,
    /// The marker is the last one.
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

    /// Where in the marker `text` stands.
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

/// Becomes the program, or says why not. Fit for a signal handler: one system call and nothing else.
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
