//! `fork(2)`, `pidfd_open(2)`, `waitid(2)`: child processes, by pidfd wherever possible; and the arguments,
//! environment and paths of this process.

use std::ffi::{CStr, CString, OsStr, OsString, c_char};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::libc;
use nix::unistd::ForkResult;
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, WaitIdStatus};

pub(crate) use unbroken_core::Exit;

use super::alarm;
use crate::error::{Error, ErrorKind, Result};

fn exit_of(status: &WaitIdStatus) -> Exit {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Exit::Code(code),
        (None, Some(signal)) => Exit::Signal(signal),
        (None, None) => Exit::Code(1),
    }
}

/// A child of this process, held by a pidfd: unlike its process id, that never refers to another process.
#[derive(Debug)]
pub(crate) struct Child {
    pid: Pid,
    pidfd: OwnedFd,
}

impl Child {
    /// Takes over a child that this process has since before its last exec, across which it stays the parent.
    pub(crate) fn adopt(number: i32, pidfd: OwnedFd) -> Result<Child> {
        Ok(Child { pid: pid_of(number)?, pidfd })
    }

    pub(crate) fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Sends a signal; succeeds if the process is already gone.
    pub(crate) fn signal(&self, signal: Signal) -> io::Result<()> {
        match rustix::process::pidfd_send_signal(&self.pidfd, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Reaps the child if it has ended.
    pub(crate) fn try_wait(&self) -> io::Result<Option<Exit>> {
        self.wait_with(WaitIdOptions::EXITED | WaitIdOptions::NOHANG)
    }

    /// Waits until the child has ended, and reaps it.
    pub(crate) fn wait(&self) -> io::Result<Exit> {
        match self.wait_with(WaitIdOptions::EXITED)? {
            Some(exit) => Ok(exit),
            None => Err(io::Error::from(io::ErrorKind::WouldBlock)),
        }
    }

    fn wait_with(&self, options: WaitIdOptions) -> io::Result<Option<Exit>> {
        let status = rustix::io::retry_on_intr(|| {
            rustix::process::waitid(WaitId::PidFd(self.pidfd.as_fd()), options)
        })?;
        Ok(status.as_ref().map(exit_of))
    }
}

impl AsFd for Child {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

/// The process in which [`fork`] returned.
pub(crate) enum Forked {
    Parent(Child),
    Child,
}

/// Forks this process. Refuses to if there is a second thread: the child would have only the calling one, and
/// the locks held by all.
pub(crate) fn fork() -> Result<Forked> {
    require_single_thread()?;
    // SAFETY: this process has one thread, so that the child may do everything its parent could.
    match unsafe { nix::unistd::fork() } {
        Ok(ForkResult::Parent { child }) => Ok(Forked::Parent(child_of(child.as_raw())?)),
        Ok(ForkResult::Child) => Ok(Forked::Child),
        Err(error) => Err(Error::io("cannot fork a process", error)),
    }
}

/// Opens a pidfd for a child of this process, forked by it or inherited as a subreaper.
pub(crate) fn child_of(number: i32) -> Result<Child> {
    let pid = pid_of(number)?;
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty())
        .map_err(|error| Error::io(format!("cannot open process {number}"), error))?;
    Ok(Child { pid, pidfd })
}

/// The process id that a pidfd refers to, by `/proc/self/fdinfo` (pidfd_open(2)); `None` if the descriptor is
/// no pidfd, or the process is gone or not visible.
pub(crate) fn pid_of_pidfd(pidfd: impl AsFd) -> Option<i32> {
    let fd = std::os::fd::AsRawFd::as_raw_fd(&pidfd.as_fd());
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).ok()?;
    let mut lines = info.lines();
    let number = lines.find_map(|line| line.strip_prefix("Pid:"))?.trim().parse().ok()?;
    (number > 0).then_some(number)
}

fn pid_of(number: i32) -> Result<Pid> {
    Pid::from_raw(number)
        .ok_or_else(|| Error::new(ErrorKind::Protocol, format!("{number} is not a process id")))
}

/// Fails if there are threads besides the calling one, and names them.
fn require_single_thread() -> Result<()> {
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else { return Ok(()) };
    let tasks: Vec<_> = tasks.flatten().collect();
    // Counted, not compared with the own thread id: /proc may be of another PID namespace and have other
    // numbers.
    if tasks.len() <= 1 {
        return Ok(());
    }
    let own = rustix::thread::gettid().as_raw_nonzero().get().to_string();
    let others: Vec<String> = tasks
        .iter()
        .filter(|task| task.file_name().to_str() != Some(&own))
        .map(|task| {
            let name = std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
            format!("`{}`", name.trim())
        })
        .collect();
    let cure = match others.iter().any(|name| name == "`jemalloc_bg_thd`") {
        true => {
            "remove the allocator's feature `background_threads` and begin `main` with \
             `tikv_jemalloc_ctl::background_thread::write(true)`"
        }
        false => {
            "find the constructor or preloaded library that starts it and make it wait for `main`"
        }
    };
    Err(Error::new(
        ErrorKind::Refused,
        format!(
            "a daemon cannot start while it has other threads: {} started before `main`; {cure}",
            others.join(", ")
        ),
    ))
}

/// Begins a session without a controlling terminal.
pub(crate) fn new_session() -> io::Result<()> {
    rustix::process::setsid()?;
    Ok(())
}

/// Makes this process the parent of its orphaned descendants, to be able to wait for them.
pub(crate) fn become_subreaper() -> io::Result<()> {
    Ok(rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?)
}

/// Reaps children that have ended and are not `known`, which PID 1 and subreapers inherit.
///
/// Stops at a known child, which its owner reaps by pidfd; has to be called again after that.
pub(crate) fn reap_unknown_children(known: impl Fn(i32) -> bool) -> io::Result<()> {
    use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
    let peek = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    loop {
        let pid = match waitid(Id::All, peek) {
            Ok(WaitStatus::StillAlive) | Err(nix::errno::Errno::ECHILD) => return Ok(()),
            Ok(status) => match status.pid() {
                Some(pid) if !known(pid.as_raw()) => pid,
                _ => return Ok(()),
            },
            Err(nix::errno::Errno::EINTR) => continue,
            Err(error) => return Err(error.into()),
        };
        waitpid(pid, Some(WaitPidFlag::WNOHANG))?;
    }
}

/// Bounds the life of a child that is about to exec: it is killed when its parent dies, and gets SIGALRM
/// after `limit`, in whole seconds.
pub(crate) fn set_pdeathsig(limit: Duration) -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    alarm::arm(limit);
    Ok(())
}

/// Ends this process at once, without exit handlers: after a fork they may belong to the parent, and at a
/// deadline they may hang.
pub(crate) fn exit_now(code: u8) -> ! {
    // SAFETY: _exit(2) has no preconditions.
    unsafe { libc::_exit(i32::from(code)) }
}

/// Removes a variable from the environment. Fails if there is a second thread: to be called at the top of
/// `main`.
pub(crate) fn remove_variable(name: &str) -> Result<()> {
    require_single_thread()?;
    // SAFETY: no other thread can read or write the environment, as there is none.
    unsafe { std::env::remove_var(name) };
    Ok(())
}

/// Removes variables from the environment and sets others. Fails if there is a second thread: to be called at
/// the top of `main`.
pub(crate) fn change_environment(removed: &[OsString], set: &[(OsString, OsString)]) -> Result<()> {
    require_single_thread()?;
    for name in removed {
        // SAFETY: no other thread can read or write the environment, as there is none.
        unsafe { std::env::remove_var(name) };
    }
    for (name, value) in set {
        // SAFETY: as above.
        unsafe { std::env::set_var(name, value) };
    }
    Ok(())
}

/// The process id of the parent; 0 if it is not visible.
pub(crate) fn parent() -> u32 {
    rustix::process::getppid().map_or(0, |pid| pid.as_raw_nonzero().get().unsigned_abs())
}

/// The current directory, by its name in `PWD` if that leads there, as pwd(1) reports it. A user who entered
/// the directory through a link, such as `current`, means whatever the link leads to later.
pub(crate) fn current_directory() -> io::Result<PathBuf> {
    let physical = std::env::current_dir()?;
    let logical = std::env::var_os("PWD").map(PathBuf::from);
    Ok(logical.filter(|path| leads_to(path, &physical)).unwrap_or(physical))
}

/// Returns whether an absolute path leads to a directory, without `.` and `..`, whose meaning changes with a
/// link before them.
fn leads_to(path: &Path, directory: &Path) -> bool {
    let steps =
        |bytes: &[u8]| bytes.split(|byte| *byte == b'/').any(|it| it == b"." || it == b"..");
    let same = || -> io::Result<bool> {
        let (a, b) = (std::fs::metadata(path)?, std::fs::metadata(directory)?);
        Ok((a.dev(), a.ino()) == (b.dev(), b.ino()))
    };
    path.is_absolute() && !steps(path.as_os_str().as_bytes()) && same().unwrap_or(false)
}

/// The path that this program was started by (`AT_EXECFN`, getauxval(3)), with symbolic links unresolved.
///
/// It is made absolute against the current directory, which at the top of `main` is the starting directory.
pub(crate) fn initial_exe_path() -> PathBuf {
    // Not rustix, which looks up getauxval(3) by name at run time and does not find it in a static program.
    // SAFETY: getauxval(3) has no preconditions.
    let given = unsafe { libc::getauxval(libc::AT_EXECFN) } as *const c_char;
    let given = match given.is_null() {
        true => c"",
        // SAFETY: the kernel put a string there, terminated by a zero, which stays while the process does.
        false => unsafe { CStr::from_ptr(given) },
    };
    let path = Path::new(OsStr::from_bytes(given.to_bytes()));
    absolute(path)
}

/// Makes a path absolute against [`current_directory`], with symbolic links unresolved.
pub(crate) fn absolute(path: &Path) -> PathBuf {
    let from_here = current_directory().map_or_else(|_| path.to_owned(), |dir| dir.join(path));
    std::path::absolute(&from_here).unwrap_or(from_here)
}

/// The environment of this process.
pub(crate) fn variables() -> Vec<(OsString, OsString)> {
    std::env::vars_os().collect()
}

/// The arguments of this process, its name first, which is never missing.
pub(crate) fn arguments() -> Vec<OsString> {
    let args: Vec<OsString> = std::env::args_os().collect();
    if args.is_empty() { vec![OsString::from_vec(b"daemon".to_vec())] } else { args }
}

/// Names the calling thread; the name of the first thread is the name of the process in ps(1).
pub(crate) fn set_name(name: &str) {
    let short: String = name.bytes().take(15).map(char::from).filter(|c| *c != '\0').collect();
    if let Ok(name) = CString::new(short) {
        // A failure only leaves the old name.
        let _ = rustix::thread::set_name(&name);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::thread;

    use super::*;

    #[test]
    fn path_leads_to_its_directory_only() {
        let bed = tempfile::tempdir().unwrap();
        let [one, other, link] = ["one", "other", "link"].map(|name| bed.path().join(name));
        std::fs::create_dir(&one).unwrap();
        std::fs::create_dir(&other).unwrap();
        std::os::unix::fs::symlink("one", &link).unwrap();
        assert!(leads_to(&one, &one) && leads_to(&link, &one));
        assert!(!leads_to(&link, &other), "it lies");
        assert!(!leads_to(&bed.path().join("none"), &one));
        for stepping in ["link/../one", "link/.", "other/../link"] {
            let stepping = bed.path().join(stepping);
            assert_eq!(
                std::fs::canonicalize(&stepping).unwrap(),
                std::fs::canonicalize(&one).unwrap()
            );
            assert!(!leads_to(&stepping, &one), "{}", stepping.display());
        }
        assert!(!leads_to(Path::new("."), Path::new(".")));
        assert!(!leads_to(Path::new(""), Path::new(".")));
    }

    /// The threads of the test harness are named in the error, too.
    #[test]
    fn other_threads_are_named_with_advice() {
        let (begun, has_begun) = channel();
        let (end, ended) = channel::<()>();
        let named = thread::Builder::new().name("jemalloc_bg_thd".into()).spawn(move || {
            begun.send(()).unwrap();
            // Until the other end is dropped.
            let _ = ended.recv();
        });
        has_begun.recv().unwrap();
        let error = require_single_thread().unwrap_err().to_string();
        assert!(error.contains("`jemalloc_bg_thd`"), "{error}");
        assert!(error.contains("tikv_jemalloc_ctl::background_thread::write(true)"), "{error}");
        drop(end);
        named.unwrap().join().unwrap();
    }
}
