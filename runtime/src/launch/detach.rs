//! `start`: fork, setsid, fork, and a launcher that waits for the truth.
//!
//! The launcher becomes a subreaper (`PR_SET_CHILD_SUBREAPER`, prctl(2)), so that the daemon is its
//! child until it returns: it learns the exit code of one that fails, and can end one that hangs. When
//! it returns, the daemon is inherited by init as every daemon is.

use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::PipeFlags;

use super::{LaunchContext, become_daemon};
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

/// Starts the daemon in the background; returns when it serves, or says why it does not.
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

/// Leaves the session, and becomes a process that can never get a terminal again.
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

/// Keeps neither the caller's directory nor its terminal nor its files.
fn let_go(reporter: &StartupNotifier) -> Result<()> {
    descriptors::close_inherited(reporter.descriptor())
        .map_err(|error| Error::io("cannot close inherited descriptors", error))?;
    std::env::set_current_dir("/").map_err(|error| Error::io("cannot enter /", error))?;
    descriptors::stdin_from_null()
        .map_err(|error| Error::io("cannot take stdin from /dev/null", error))
}

/// What became of the daemon.
enum StartOutcome {
    Ready { pid: u32, listeners: Vec<String> },
    Failed { code: u8, reason: String, in_main: bool },
}

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

/// A daemon that said why it ends is gone in a moment; the caller shall find nothing left of it.
fn reap(daemon: Option<&Child>) {
    if let Some(daemon) = daemon {
        // Whatever its code is: the report said it.
        let _ = daemon.wait();
    }
}

/// Kills the daemon and everything it leaves, which is ours as we are its subreaper.
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

/// Tells the person who started it.
fn tell(settings: &Settings, outcome: StartOutcome, log: Option<&Path>, already: u64) -> ExitCode {
    let name = &settings.name;
    match outcome {
        StartOutcome::Ready { pid, listeners } => {
            let on = match listeners.is_empty() {
                true => String::new(),
                false => format!(", serving {}", listeners.join(", ")),
            };
            // Somebody who closed stdout does not want to know.
            let within = other_directory(settings).map(|dir| format!(", in {dir}"));
            let within = within.unwrap_or_default();
            let _ = writeln!(std::io::stdout(), "{name} started as process {pid}{within}{on}");
            ExitCode::SUCCESS
        }
        StartOutcome::Failed { code, reason, in_main } => {
            // As with stdout, above.
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
            // A program that runs in the foreground, and not in the background, mostly fails for this.
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

/// The directory that the program runs in, if it is not the one of whoever starts it.
fn other_directory(settings: &Settings) -> Option<String> {
    let dir = settings.workdir.as_deref().unwrap_or(Path::new("/"));
    if let Some(root) = &settings.chroot {
        return Some(format!("{} of {}", dir.display(), root.display()));
    }
    let file = |path: &Path| std::fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()));
    (file(dir) != file(Path::new("."))).then(|| dir.display().to_string())
}
