//! `start`: fork, setsid, fork, and a launcher that waits until the daemon serves or has failed.
//!
//! The launcher becomes a subreaper (`PR_SET_CHILD_SUBREAPER`, prctl(2)), which makes the daemon its child
//! until it returns: the launcher learns the exit code of a daemon that fails, and can kill one that hangs.
//! When the launcher exits, the daemon is re-parented to init like any other daemon.

use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::PipeFlags;

use super::begin::{LaunchContext, become_daemon};
use crate::config::Settings;
use crate::error::{Error, ErrorKind, Result};
use crate::launch::startup_pipe::{StartupMessage, StartupNotifier, StartupReader};
use crate::logs;
use crate::pidfile;
use crate::sys::descriptors;
use crate::sys::process::{self, Child, Forked};

/// What the daemon gets beyond `ready_timeout` and `kill_timeout` before the launcher kills it.
/// With less, a daemon that is about to report its own timeout would be killed without a reason.
const EXIT_MARGIN: Duration = Duration::from_secs(5);

/// Starts the daemon in the background; returns when it serves, or after printing why it does not.
pub(super) fn detach(outset: LaunchContext) -> Result<ExitCode> {
    let settings = outset.configuration.settings.clone();
    let log = outset.log.clone();
    let already = log.as_deref().map_or(0, logs::length);
    let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)
        .map_err(|error| Error::io("cannot open a pipe to the daemon", error))?;
    process::become_subreaper().map_err(|error| Error::io("cannot become a subreaper", error))?;
    match process::fork()? {
        Forked::Child => {
            drop(read);
            let code = second_fork(outset, StartupNotifier::new(write));
            process::exit_now(code);
        }
        Forked::Parent(child) => {
            drop(write);
            child.wait().map_err(|error| Error::io("cannot wait for the daemon", error))?;
            let outcome = await_outcome(&settings, StartupReader::new(read))?;
            Ok(tell(&settings, outcome, log.as_deref(), already))
        }
    }
}

/// Begins a session and forks again: the second child is no session leader, and can never get a controlling
/// terminal again.
fn second_fork(outset: LaunchContext, mut reporter: StartupNotifier) -> u8 {
    let forked = process::new_session()
        .map_err(|error| Error::io("cannot create a session", error))
        .and_then(|()| process::fork());
    match forked {
        Ok(Forked::Parent(_)) => 0,
        Ok(Forked::Child) => {
            reporter.process();
            if let Err(error) = let_go(&reporter) {
                reporter.failed(error.exit_code(), &error.to_string());
                return error.exit_code();
            }
            become_daemon(outset, reporter)
        }
        Err(error) => {
            reporter.failed(error.exit_code(), &error.to_string());
            error.exit_code()
        }
    }
}

/// Lets go of the caller's open files, directory and stdin.
fn let_go(reporter: &StartupNotifier) -> Result<()> {
    descriptors::close_inherited(reporter.descriptor())
        .map_err(|error| Error::io("cannot close inherited descriptors", error))?;
    std::env::set_current_dir("/").map_err(|error| Error::io("cannot enter /", error))?;
    descriptors::stdin_from_null()
        .map_err(|error| Error::io("cannot take stdin from /dev/null", error))
}

/// What became of the daemon, for the caller of `start`.
enum StartOutcome {
    Ready { pid: u32, listeners: Vec<String> },
    Failed { code: u8, reason: String, in_main: bool },
}

/// Waits until the daemon reports or dies, and kills it at the deadline.
fn await_outcome(settings: &Settings, mut reports: StartupReader) -> Result<StartOutcome> {
    let deadline = Instant::now() + settings.ready_timeout + settings.kill_timeout + EXIT_MARGIN;
    let mut daemon = None;
    loop {
        if !reports.buffered() && !readable(&reports, deadline)? {
            end(daemon.as_ref());
            pidfile::remove_abandoned(&settings.pidfile);
            let limit = unbroken_schema::duration::format(settings.ready_timeout);
            let reason = format!(
                "{} was neither ready within {limit} nor reported a failure, and was killed",
                settings.name
            );
            return Ok(StartOutcome::Failed { code: 1, reason, in_main: true });
        }
        match reports.next() {
            Some(StartupMessage::Process { pid }) => daemon = Some(process::child_of(pid)?),
            Some(StartupMessage::Ready { pid, listeners }) => {
                return Ok(StartOutcome::Ready { pid, listeners });
            }
            Some(StartupMessage::Failed { code, reason, in_main }) => {
                reap(daemon.as_ref());
                return Ok(StartOutcome::Failed { code, reason, in_main });
            }
            None => {
                let Some(daemon) = &daemon else {
                    return Err(Error::new(
                        ErrorKind::Worker,
                        "the daemon exited before it reported its process id",
                    ));
                };
                let exit = daemon
                    .wait()
                    .map_err(|error| Error::io("cannot wait for the daemon", error))?;
                let reason = format!("{} {exit} before it was ready", settings.name);
                let code = exit.shell_code().max(1);
                return Ok(StartOutcome::Failed { code, reason, in_main: true });
            }
        }
    }
}

/// Waits until the pipe is readable; `false` at the deadline.
fn readable(reports: &StartupReader, deadline: Instant) -> Result<bool> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).unwrap_or(Timespec { tv_sec: 3600, tv_nsec: 0 });
        let mut fds = [PollFd::from_borrowed_fd(reports.as_fd(), PollFlags::IN)];
        match poll(&mut fds, Some(&timeout)) {
            Ok(0) if left.is_zero() => return Ok(false),
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) => return Ok(true),
            Err(error) => return Err(Error::io("cannot wait for the daemon", error)),
        }
    }
}

/// Waits for the end of a daemon that has reported its failure: when `start` returns, its pidfile and sockets
/// are gone.
fn reap(daemon: Option<&Child>) {
    if let Some(daemon) = daemon {
        // The exit code does not matter: the daemon has reported the one to use.
        let _ = daemon.wait();
    }
}

/// Kills the daemon, and then its orphaned children, which are re-parented to this subreaper.
fn end(daemon: Option<&Child>) {
    if let Some(daemon) = daemon {
        let _ = daemon.signal(rustix::process::Signal::KILL);
        let _ = daemon.wait();
    }
    while let Some(orphans) = children() {
        for orphan in orphans {
            let _ = orphan.signal(rustix::process::Signal::KILL);
            let _ = orphan.wait();
        }
    }
}

/// The children of this process; `None` if it has none.
fn children() -> Option<Vec<Child>> {
    let own = std::process::id();
    let listed = std::fs::read_to_string(format!("/proc/self/task/{own}/children")).ok()?;
    let children: Vec<Child> = listed
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .filter_map(|pid| process::child_of(pid).ok())
        .collect();
    (!children.is_empty()).then_some(children)
}

/// Prints the outcome for the caller of `start`; returns the exit code.
///
/// `already` is the length that the log had before the start: only what was written since is shown.
fn tell(settings: &Settings, outcome: StartOutcome, log: Option<&Path>, already: u64) -> ExitCode {
    let name = &settings.name;
    match outcome {
        StartOutcome::Ready { pid, listeners } => {
            let on = match listeners.is_empty() {
                true => String::new(),
                false => format!(", serving {}", listeners.join(", ")),
            };
            // A failure to print, below, is ignored: the caller may have closed stdout.
            let within = other_directory(settings).map(|dir| format!(", in {dir}"));
            let within = within.unwrap_or_default();
            let _ = writeln!(std::io::stdout(), "{name} started as process {pid}{within}{on}");
            ExitCode::SUCCESS
        }
        StartOutcome::Failed { code, reason, in_main } => {
            // A closed stderr is ignored as well.
            let mut err = std::io::stderr().lock();
            let _ = writeln!(err, "{name}: {reason}");
            let mut lines = log.and_then(|log| logs::tail(log, already).ok()).unwrap_or_default();
            lines.retain(|line| !logs::says(line, &reason));
            if let (Some(log), false) = (log, lines.is_empty()) {
                let _ = writeln!(err, "{name}: the last lines of its log {}:", log.display());
                for line in lines {
                    let _ = writeln!(err, "  {line}");
                }
            }
            // The most frequent reason why a program runs in the foreground but not in the background.
            if let (true, None, Some(dir)) = (in_main, &settings.workdir, other_directory(settings))
            {
                let _ = writeln!(
                    err,
                    "{name}: it ran in the directory {dir}; if it uses relative paths, set \
                     `workdir`"
                );
            }
            ExitCode::from(code)
        }
    }
}

/// The directory that the program runs in, if it is not the one that `start` was called in.
fn other_directory(settings: &Settings) -> Option<String> {
    let dir = settings.workdir.as_deref().unwrap_or(Path::new("/"));
    if let Some(root) = &settings.chroot {
        return Some(format!("{} of {}", dir.display(), root.display()));
    }
    let file = |path: &Path| std::fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()));
    (file(dir) != file(Path::new("."))).then(|| dir.display().to_string())
}
