//! Processes held by pidfds: a PID that the kernel has given to another process is never signalled.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// The variable that every process of a test's daemon carries. Its value is the daemon's directory.
pub(crate) const MARK: &str = "UNBROKEN_TEST_DIR";

/// How long the kernel may take to end a killed process.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

/// A process of a test's daemon.
#[derive(Debug)]
pub(crate) struct Process {
    fd: OwnedFd,
}

impl Process {
    /// Opens the process if it belongs to the daemon in `dir` and has not ended.
    pub(crate) fn open(pid: u32, dir: &Path) -> Option<Self> {
        let raw = Pid::from_raw(i32::try_from(pid).ok()?)?;
        let fd = pidfd_open(raw, PidfdFlags::empty()).ok()?;
        let process = Process { fd };
        // Read after the process was opened: the PID may have been reused before.
        (is_marked(pid, dir) && process.is_alive()).then_some(process)
    }

    /// Opens a child of this process that was not waited for.
    pub(crate) fn of_child(child: &std::process::Child) -> io::Result<Self> {
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let fd = pidfd_open(pid.ok_or(io::ErrorKind::InvalidInput)?, PidfdFlags::empty())?;
        Ok(Process { fd })
    }

    /// Returns all processes of the daemon in `dir`, whatever their parents are.
    pub(crate) fn all(dir: &Path) -> Vec<Self> {
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter(|pid| is_marked(*pid, dir)).filter_map(|pid| Process::open(pid, dir)).collect()
    }

    /// Kills all processes of the daemon in `dir`. Returns `false` if one survives.
    pub(crate) fn kill_all(dir: &Path) -> bool {
        let deadline = Instant::now() + KILL_TIMEOUT;
        loop {
            let processes = Process::all(dir);
            if processes.is_empty() {
                return true;
            }
            // All at once: a supervisor that lives replaces its worker.
            let sent = processes.iter().all(|process| process.signal(Signal::KILL).is_ok());
            let gone = processes.iter().all(|process| {
                process.wait_gone(deadline.saturating_duration_since(Instant::now()))
            });
            if !sent || !gone {
                return false;
            }
        }
    }

    /// Kills the process and waits for its end. Returns `false` if it survives.
    pub(crate) fn kill(&self) -> bool {
        self.signal(Signal::KILL).is_ok() && self.wait_gone(KILL_TIMEOUT)
    }

    /// Waits for the end of the process. Returns `false` if it has not ended in time. A zombie has ended.
    pub(crate) fn wait_gone(&self, within: Duration) -> bool {
        let deadline = Instant::now() + within;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let left = Timespec::try_from(left).ok();
            match poll(&mut [PollFd::new(&self.fd, PollFlags::IN)], left.as_ref()) {
                Err(Errno::INTR) => {}
                ready => return ready.is_ok_and(|ready| ready > 0),
            }
        }
    }

    fn is_alive(&self) -> bool {
        !self.wait_gone(Duration::ZERO)
    }

    fn signal(&self, signal: Signal) -> rustix::io::Result<()> {
        match pidfd_send_signal(&self.fd, signal) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// Returns whether the process was executed with the mark of `dir` in its environment.
fn is_marked(pid: u32, dir: &Path) -> bool {
    use std::os::unix::ffi::OsStrExt;
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let variables = environment.split(|byte| *byte == 0);
    let value = |variable: &[u8]| -> Option<Vec<u8>> {
        Some(variable.strip_prefix(MARK.as_bytes())?.strip_prefix(b"=")?.to_vec())
    };
    variables.filter_map(value).any(|value| value == dir.as_os_str().as_bytes())
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;

    fn sleep(dir: &str) -> Child {
        Command::new("sleep").arg("1000").env(MARK, dir).spawn().unwrap()
    }

    #[test]
    fn only_processes_of_the_daemon_are_killed() {
        let (own, other) = (Path::new("/nowhere/own"), Path::new("/nowhere/other"));
        let mut children = [sleep("/nowhere/own"), sleep("/nowhere/own"), sleep("/nowhere/other")];
        assert!(Process::open(std::process::id(), own).is_none());
        assert!(Process::open(children[2].id(), own).is_none());
        assert!(Process::open(children[0].id(), own).unwrap().kill());
        assert!(
            Process::open(children[0].id(), own).is_none(),
            "it has ended, if not been waited for"
        );
        assert!(Process::kill_all(own));
        assert_eq!((Process::all(own).len(), Process::all(other).len()), (0, 1));
        assert!(Process::kill_all(other));
        children.iter_mut().for_each(|child| assert!(!child.wait().unwrap().success()));
    }
}
