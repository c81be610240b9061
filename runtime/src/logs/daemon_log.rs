//! The log lines that the daemon writes itself, as opposed to those of the program.

use std::io::{self, IsTerminal};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use super::event::{EventWriter, Field, LogEvent};
use super::stderr::Stderr;
use crate::config::{LogFormat, LogLevel, Settings};
use crate::systemd::journal::{self, Journal};
use crate::timestamp::rfc3339;

/// Writes the daemon's own lines to stderr, as `hello[812]: generation 2 serves` or in the format that
/// `log_format` asks for.
///
/// Writing never waits. If stderr is full (a pipe whose reader is stuck, a stopped terminal), lines are
/// dropped; their number is written when there is room again.
#[derive(Debug, Clone)]
pub(crate) struct DaemonLog {
    writer: EventWriter,
    /// Whether lines begin with the time: in a log file, which does not add one as the journal does.
    timestamps: bool,
    format: LogFormat,
    level: LogLevel,
    output: Arc<Mutex<Output>>,
}

#[derive(Debug, Default)]
struct Output {
    stderr: Stderr,
    /// The resolved format; `auto` is resolved at the first line, when stderr is final.
    format: Option<LogFormat>,
    journal: Option<Journal>,
}

/// What is known about a line besides its text.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct EventContext<'a> {
    pub(crate) generation: Option<u32>,
    pub(crate) worker: Option<i32>,
    /// The file and line in the program's source.
    pub(crate) place: Option<(&'a str, u32)>,
    pub(crate) fields: &'a [Field],
}

impl DaemonLog {
    pub(crate) fn new(settings: &Settings, timestamps: bool) -> DaemonLog {
        DaemonLog {
            writer: EventWriter { name: settings.name.clone(), pid: std::process::id() },
            timestamps,
            format: settings.log_format,
            level: settings.log_level,
            output: Arc::default(),
        }
    }

    /// Returns whether lines begin with the time.
    pub(crate) fn has_timestamps(&self) -> bool {
        self.timestamps
    }

    /// Returns whether this process wrote `line`.
    pub(crate) fn has_written(&self, line: &str) -> bool {
        let EventWriter { name, pid } = &self.writer;
        line.contains(&format!("{name}[{pid}]: ")) || line.contains(&format!("\"pid\":{pid},"))
    }

    /// Writes a line of level info.
    pub(crate) fn line(&self, text: &str) {
        self.event(LogLevel::Info, text, EventContext::default());
    }

    /// Writes a line of level warn.
    pub(crate) fn warn(&self, text: &str) {
        self.event(LogLevel::Warn, text, EventContext::default());
    }

    /// Writes a line of level error.
    pub(crate) fn error(&self, text: &str) {
        self.event(LogLevel::Error, text, EventContext::default());
    }

    /// Writes a line with a level and a context.
    pub(crate) fn event(&self, level: LogLevel, message: &str, about: EventContext<'_>) {
        let mut output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        let Output { stderr, format, journal } = &mut *output;
        let format = *format.get_or_insert_with(|| resolve(self.format));
        if format != LogFormat::None && level > self.level {
            return;
        }
        if format == LogFormat::Journald && self.enter(journal, level, message, about).is_ok() {
            return;
        }
        let notice = |dropped| {
            let text =
                format!("{dropped} lines dropped because they could not be written to stderr");
            self.shaped(format, LogLevel::Warn, &text, EventContext::default())
        };
        stderr.line(self.shaped(format, level, message, about).as_bytes(), notice);
    }

    /// Sends an entry to the journal.
    fn enter(
        &self,
        journal: &mut Option<Journal>,
        level: LogLevel,
        message: &str,
        about: EventContext<'_>,
    ) -> io::Result<()> {
        let journal = match journal {
            Some(journal) => journal,
            none => none.insert(Journal::new(None)?),
        };
        journal.send(&event(level, message, about).journal(&self.writer))
    }

    /// Formats a line for stderr.
    fn shaped(
        &self,
        format: LogFormat,
        level: LogLevel,
        text: &str,
        about: EventContext<'_>,
    ) -> String {
        let now = SystemTime::now();
        let event = event(level, text, about);
        match format {
            LogFormat::Json => event.json(&self.writer, now) + "\n",
            LogFormat::Text => event.text(&self.writer, now) + "\n",
            LogFormat::Journald => fallen_back(&event, &self.writer, now),
            LogFormat::None | LogFormat::Auto => {
                let time = match self.timestamps {
                    true => format!("{} ", rfc3339(now, 3)),
                    false => String::new(),
                };
                format!("{time}{}[{}]: {text}\n", self.writer.name, self.writer.pid)
            }
        }
    }
}

fn event<'a>(level: LogLevel, message: &'a str, about: EventContext<'a>) -> LogEvent<'a> {
    LogEvent {
        level,
        message,
        generation: about.generation,
        worker: about.worker.and_then(|pid| u32::try_from(pid).ok()),
        place: about.place,
        fields: about.fields,
        ..LogEvent::default()
    }
}

/// A line for stderr in place of an entry that the journal did not accept. If stderr leads to the journal as
/// well, the line has a prefix with its level (sd-daemon(3)).
pub(super) fn fallen_back(event: &LogEvent<'_>, writer: &EventWriter, now: SystemTime) -> String {
    let level = match journal::is_stderr() {
        true => format!("<{}>", event.level.priority()),
        false => String::new(),
    };
    format!("{level}{}\n", event.text(writer, now))
}

/// Resolves `auto` for this process: by where its stderr leads.
pub(super) fn resolve(format: LogFormat) -> LogFormat {
    match format {
        LogFormat::Auto if journal::is_stderr() => LogFormat::Journald,
        LogFormat::Auto if io::stderr().is_terminal() => LogFormat::Text,
        LogFormat::Auto => LogFormat::Json,
        other => other,
    }
}
