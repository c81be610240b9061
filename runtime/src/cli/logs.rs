//! `logs`: what the daemon wrote, wherever it goes.

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

/// What is asked for.
#[derive(Debug)]
pub(crate) struct Options {
    /// The last lines to begin with.
    pub(crate) lines: u32,
    /// And whatever comes, until the reader is gone.
    pub(crate) follow: bool,
}

/// The keys that say where a daemon writes to.
pub(crate) const KEYS: [&str; 5] = ["name", "pidfile", "runtime_dir", "log", "log_format"];

/// Where a daemon's output goes.
enum LogPlace {
    File(PathBuf),
    /// Matches and options for journalctl(1).
    Journal(Vec<OsString>),
}

/// Runs the verb; returns its exit code.
pub(crate) fn run(settings: &Settings, options: &Options) -> Result<ExitCode> {
    match place(settings)? {
        LogPlace::File(path) => follow::show(&settings.name, &path, options),
        LogPlace::Journal(matches) => Err(exec_journalctl(matches, options)),
    }
}

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

/// Where the stderr of a daemon in the foreground goes.
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

/// How journalctl(1) finds the unit that a process belongs to: by its cgroup, or by the run of the unit.
fn unit(pid: u32) -> Option<Vec<OsString>> {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    // `0::/system.slice/hello.service`, or `1:name=systemd:/…` of old.
    let lines = groups.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let controllers = parts.next()?;
        (controllers.is_empty() || controllers == "name=systemd").then_some(parts.next()?)
    });
    let found = lines.filter_map(|group| {
        let units = group.split('/').filter(|part| part.ends_with(".service"));
        let unit = units.clone().next_back()?;
        // One of a user's manager is below that manager's own.
        let of_user = units.clone().any(|it| it.starts_with("user@")) && !unit.starts_with("user@");
        let option = if of_user { "--user-unit" } else { "--unit" };
        Some(vec![option.into(), unit.into()])
    });
    found.into_iter().next().or_else(|| {
        let run = variable(pid, "INVOCATION_ID")?;
        Some(vec![format!("_SYSTEMD_INVOCATION_ID={run}").into()])
    })
}

/// A variable that a process was started with.
fn variable(pid: u32, name: &str) -> Option<String> {
    let bytes = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let of = |variable: &[u8]| {
        let (key, value) = std::str::from_utf8(variable).ok()?.split_once('=')?;
        (key == name).then(|| value.to_owned())
    };
    bytes.split(|byte| *byte == 0).find_map(of)
}

/// Returns only with an error.
fn exec_journalctl(matches: Vec<OsString>, options: &Options) -> Error {
    let mut command = Command::new("journalctl");
    command.args(["--no-pager", "--lines"]).arg(options.lines.to_string());
    if options.follow {
        command.arg("--follow");
    }
    let error = command.args(matches).exec();
    Error::io("cannot run journalctl to read the journal", error)
}
