//! `logs`: shows what the daemon wrote, wherever its output goes: a file, which is shown by [`follow`], or
//! the journal, for which this process becomes journalctl(1).

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use super::{client, follow};
use crate::config::{LogFormat, Settings};
use crate::error::{Error, ErrorKind, Result};
use crate::pidfile;
use crate::sys::holders::{self, Holder};
use crate::systemd::journal;

/// The options of the verb.
#[derive(Debug)]
pub(crate) struct LogsOptions {
    /// The number of lines at the end of the log to begin with.
    pub(crate) lines: u32,
    /// Whether to continue with what is written later, until the reader is gone.
    pub(crate) follow: bool,
}

/// The configuration keys that determine where a daemon writes to.
pub(crate) const KEYS: [&str; 5] = ["name", "pidfile", "runtime_dir", "log", "log_format"];

/// The destination of a daemon's output.
enum LogPlace {
    File(PathBuf),
    /// Matches and options for journalctl(1).
    Journal(Vec<OsString>),
}

/// Runs the verb; returns its exit code.
pub(crate) fn run(settings: &Settings, options: &LogsOptions) -> Result<ExitCode> {
    match place(settings)? {
        LogPlace::File(path) => follow::show(&settings.name, &path, options),
        LogPlace::Journal(matches) => Err(exec_journalctl(matches, options)),
    }
}

/// Finds out where the output goes: by asking a running daemon, and by the settings for one that does not
/// run.
fn place(settings: &Settings) -> Result<LogPlace> {
    let own_journal = settings.log_format == LogFormat::Journald;
    if pidfile::holder(&settings.pidfile)?.is_none() {
        if own_journal {
            return Ok(LogPlace::Journal(vec![
                format!("SYSLOG_IDENTIFIER={}", settings.name).into(),
            ]));
        }
        let path = settings.log.clone().unwrap_or_else(|| settings.detached_log.clone());
        return match path.exists() {
            true => Ok(LogPlace::File(path)),
            false => Err(Error::new(
                ErrorKind::NotRunning,
                format!(
                    "{} is not running and left no log at {}; if it ran under systemd, `journalctl \
                     -u` with its unit shows the log",
                    settings.name,
                    path.display()
                ),
            )),
        };
    }
    let status = client::ask_status(settings)?;
    if own_journal {
        if let Some(log) = &status.log {
            let name = &settings.name;
            eprintln!("{name}: events go to the journal, printed output goes to {}", log.display());
        }
        return Ok(match unit(status.pid) {
            Some(unit) => LogPlace::Journal(unit),
            None => LogPlace::Journal(vec![format!("SYSLOG_IDENTIFIER={}", settings.name).into()]),
        });
    }
    match status.log {
        Some(path) => Ok(LogPlace::File(path)),
        None => of_stderr(&settings.name, status.pid),
    }
}

/// Finds out where stderr of a daemon in the foreground goes.
fn of_stderr(name: &str, pid: u32) -> Result<LogPlace> {
    let stderr = format!("/proc/{pid}/fd/2");
    let cannot = |error| {
        Error::io(
            format!(
                "cannot find out where process {pid} of {name} writes to; run this as its user or \
                 root"
            ),
            error,
        )
    };
    let target = fs::read_link(&stderr).map_err(cannot)?;
    let stream = variable(pid, journal::STREAM).unwrap_or_default();
    if journal::is_stderr_of(pid, &stream) {
        return match unit(pid) {
            Some(unit) => Ok(LogPlace::Journal(unit)),
            None => Ok(LogPlace::Journal(vec![format!("_PID={pid}").into()])),
        };
    }
    let kind = fs::metadata(&stderr).map_err(cannot)?.file_type();
    if kind.is_file() {
        return Ok(LogPlace::File(target));
    }
    let place = if kind.is_fifo() || kind.is_socket() {
        let what = if kind.is_fifo() { "a pipe" } else { "a socket" };
        match holders::other_end(pid).filter(|_| kind.is_fifo()) {
            Some(Holder::Process { pid, command }) => {
                format!("{what} that process {pid} ({command}) reads")
            }
            _ => what.to_owned(),
        }
    } else if target == Path::new("/dev/null") {
        "/dev/null, which discards it".to_owned()
    } else {
        format!("the terminal {}", target.display())
    };
    Err(Error::new(
        ErrorKind::Io,
        format!(
            "{name} runs in the foreground as process {pid} and writes to {place}; look there or \
             set `log` to a file"
        ),
    ))
}

/// Options for journalctl(1) that select the unit of a process: by its cgroup, or else by the invocation id.
fn unit(pid: u32) -> Option<Vec<OsString>> {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    // `0::/system.slice/hello.service`, or `1:name=systemd:/…` with cgroups of version 1.
    let lines = groups.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let controllers = parts.next()?;
        (controllers.is_empty() || controllers == "name=systemd").then_some(parts.next()?)
    });
    let found = lines.filter_map(|group| {
        let units = group.split('/').filter(|part| part.ends_with(".service"));
        let unit = units.clone().next_back()?;
        // The units of a user's manager are below the unit of that manager, `user@….service`.
        let of_user = units.clone().any(|it| it.starts_with("user@")) && !unit.starts_with("user@");
        let option = if of_user { "--user-unit" } else { "--unit" };
        Some(vec![option.into(), unit.into()])
    });
    found.into_iter().next().or_else(|| {
        let run = variable(pid, "INVOCATION_ID")?;
        Some(vec![format!("_SYSTEMD_INVOCATION_ID={run}").into()])
    })
}

/// Reads a variable from the environment that a process was started with.
fn variable(pid: u32, name: &str) -> Option<String> {
    let bytes = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let of = |variable: &[u8]| {
        let (key, value) = std::str::from_utf8(variable).ok()?.split_once('=')?;
        (key == name).then(|| value.to_owned())
    };
    bytes.split(|byte| *byte == 0).find_map(of)
}

/// Replaces this process by journalctl(1); returns only on failure.
fn exec_journalctl(matches: Vec<OsString>, options: &LogsOptions) -> Error {
    let mut command = Command::new("journalctl");
    command.args(["--no-pager", "--lines"]).arg(options.lines.to_string());
    if options.follow {
        command.arg("--follow");
    }
    let error = command.args(matches).exec();
    Error::io("cannot run journalctl to read the journal", error)
}
