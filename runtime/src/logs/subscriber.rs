//! The subscriber for the program's own events of `tracing` and records of `log`, installed where
//! `log_format` asks for one.

use std::fmt::{self, Write as _};
use std::io::{self, Write as _};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::Value as Json;
use tracing::field::{Field as Key, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Level, Metadata, Subscriber};
use tracing_core::span::Current;

use super::daemon_log::{fallen_back, resolve};
use super::event::{EventWriter, Field, LogEvent};
use super::filter::Filter;
use super::spans::{self, Spans};
use crate::config::{LogFormat, LogLevel, Settings};
use crate::systemd::journal::Journal;

/// How long a line waits for a journal that is busy before it goes to stderr. The thread that logs
/// waits as long: a longer time stalls the service when the journal hangs, a shorter one scatters
/// lines under load.
const JOURNAL_TIMEOUT: Duration = Duration::from_secs(1);

/// The environment variable with a filter, which takes precedence over `log_level`.
const FILTER: &str = "RUST_LOG";

/// Installs the subscriber, if `log_format` asks for one. Runs before the program's own code, whose `init()`
/// fails if there is a subscriber already: none is installed unasked.
pub(crate) fn install(settings: &Settings, generation: u32) {
    let format = resolve(settings.log_format);
    if format == LogFormat::None {
        return;
    }
    let pid = std::process::id();
    let writer = EventWriter { name: settings.name.clone(), pid };
    let journal = match format {
        LogFormat::Journald => Journal::new(Some(JOURNAL_TIMEOUT)).ok(),
        _ => None,
    };
    let (filter, mistake) = filter(settings.log_level, std::env::var(FILTER).ok().as_deref());
    let lines =
        Arc::new(Lines { writer, generation, format, journal, filter, spans: Spans::default() });
    // A library that runs before `main` has installed its own subscriber: leave it in place.
    if tracing::subscriber::set_global_default(SharedLines(Arc::clone(&lines))).is_err() {
        return;
    }
    // Records of the crate `log`, unless there is a logger already.
    let most = match lines.filter.most().into_level() {
        None => log::LevelFilter::Off,
        Some(level) => record_level(level).to_level_filter(),
    };
    if log::set_boxed_logger(Box::new(SharedLines(lines))).is_ok() {
        log::set_max_level(most);
    }
    if let Some(mistake) = mistake {
        tracing::warn!("{mistake}");
    }
}

/// The filter of the variable, or else of the configured level; with a warning if the variable is malformed.
fn filter(level: LogLevel, variable: Option<&str>) -> (Filter, Option<String>) {
    let own = Filter::all(match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    });
    match variable.filter(|text| !text.is_empty()).map(|text| (text, Filter::parse(text))) {
        None => (own, None),
        Some((_, Ok(filter))) => (filter, None),
        Some((text, Err(error))) => {
            let mistake = format!("ignoring {FILTER}={text:?}: {error}; `log_level` applies");
            (own, Some(mistake))
        }
    }
}

/// Formats and writes events.
struct Lines {
    writer: EventWriter,
    generation: u32,
    format: LogFormat,
    journal: Option<Journal>,
    filter: Filter,
    spans: Spans,
}

/// The [`Lines`], as both the subscriber of `tracing` and the logger of `log`.
struct SharedLines(Arc<Lines>);

impl Subscriber for SharedLines {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        match self.enabled(metadata) {
            true => Interest::always(),
            false => Interest::never(),
        }
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.0.filter.most())
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.0.filter.enables(metadata)
    }

    fn new_span(&self, attributes: &Attributes<'_>) -> Id {
        let mut fields = RecordedFields::default();
        attributes.record(&mut fields);
        self.0.spans.add(attributes, fields.others)
    }

    fn record(&self, id: &Id, record: &Record<'_>) {
        let mut fields = RecordedFields::default();
        record.record(&mut fields);
        self.0.spans.record(id, fields.others);
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut fields = RecordedFields::default();
        event.record(&mut fields);
        let metadata = event.metadata();
        let innermost = match event.is_contextual() {
            true => spans::current(),
            false => event.parent().cloned(),
        };
        self.0.write(&LogEvent {
            level: level(*metadata.level()),
            message: &fields.message,
            target: Some(metadata.target()),
            place: metadata.file().zip(metadata.line()),
            fields: &fields.others,
            spans: &self.0.spans.scope(innermost),
            ..LogEvent::default()
        });
    }

    fn enter(&self, id: &Id) {
        spans::enter(id);
    }

    fn exit(&self, id: &Id) {
        spans::exit(id);
    }

    fn clone_span(&self, id: &Id) -> Id {
        self.0.spans.hold(id);
        id.clone()
    }

    fn try_close(&self, id: Id) -> bool {
        self.0.spans.release(&id)
    }

    fn current_span(&self) -> Current {
        match self.0.spans.current() {
            Some((id, metadata)) => Current::new(id, metadata),
            None => Current::none(),
        }
    }
}

impl log::Log for SharedLines {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        self.0.filter.enables_plain(metadata.target(), event_level(metadata.level()))
    }

    fn log(&self, record: &log::Record<'_>) {
        if !log::Log::enabled(self, record.metadata()) {
            return;
        }
        self.0.write(&LogEvent {
            level: level(event_level(record.level())),
            message: &record.args().to_string(),
            target: Some(record.target()),
            place: record.file().zip(record.line()),
            spans: &self.0.spans.scope(spans::current()),
            ..LogEvent::default()
        });
    }

    fn flush(&self) {}
}

impl Lines {
    fn write(&self, event: &LogEvent<'_>) {
        let (generation, worker) = (Some(self.generation), Some(self.writer.pid));
        let event = LogEvent { generation, worker, ..event.clone() };
        let now = SystemTime::now();
        let line = match (self.format, &self.journal) {
            (LogFormat::Json, _) => event.json(&self.writer, now) + "\n",
            (LogFormat::Journald, Some(journal)) => {
                match journal.send(&event.journal(&self.writer)) {
                    Ok(()) => return,
                    Err(_) => fallen_back(&event, &self.writer, now),
                }
            }
            (LogFormat::Journald, None) => fallen_back(&event, &self.writer, now),
            _ => event.text(&self.writer, now) + "\n",
        };
        // One write per line keeps the lines of several threads and processes whole. An error (a full disk, a
        // pipe without a reader) loses the line and does not stop the program.
        let _ = io::stderr().lock().write_all(line.as_bytes());
    }
}

fn level(level: Level) -> LogLevel {
    match level {
        Level::ERROR => LogLevel::Error,
        Level::WARN => LogLevel::Warn,
        Level::INFO => LogLevel::Info,
        Level::DEBUG => LogLevel::Debug,
        Level::TRACE => LogLevel::Trace,
    }
}

fn event_level(level: log::Level) -> Level {
    match level {
        log::Level::Error => Level::ERROR,
        log::Level::Warn => Level::WARN,
        log::Level::Info => Level::INFO,
        log::Level::Debug => Level::DEBUG,
        log::Level::Trace => Level::TRACE,
    }
}

fn record_level(level: Level) -> log::Level {
    match level {
        Level::ERROR => log::Level::Error,
        Level::WARN => log::Level::Warn,
        Level::INFO => log::Level::Info,
        Level::DEBUG => log::Level::Debug,
        Level::TRACE => log::Level::Trace,
    }
}

/// The fields of an event or a span.
#[derive(Default)]
struct RecordedFields {
    message: String,
    others: Vec<Field>,
}

impl RecordedFields {
    fn put(&mut self, key: &Key, value: impl Into<Json>) {
        self.others.push((key.name().to_owned(), value.into()));
    }
}

impl Visit for RecordedFields {
    fn record_debug(&mut self, key: &Key, value: &dyn fmt::Debug) {
        if key.name() == "message" {
            // Writing to a string cannot fail.
            let _ = write!(self.message, "{value:?}");
        } else {
            self.put(key, format!("{value:?}"));
        }
    }

    fn record_str(&mut self, key: &Key, value: &str) {
        if key.name() == "message" {
            self.message.push_str(value);
        } else {
            self.put(key, value);
        }
    }

    fn record_error(&mut self, key: &Key, value: &(dyn std::error::Error + 'static)) {
        let mut text = value.to_string();
        let mut source = value.source();
        while let Some(error) = source {
            let _ = write!(text, ": {error}");
            source = error.source();
        }
        self.put(key, text);
    }

    fn record_f64(&mut self, key: &Key, value: f64) {
        self.put(key, value);
    }

    fn record_i64(&mut self, key: &Key, value: i64) {
        self.put(key, value);
    }

    fn record_u64(&mut self, key: &Key, value: u64) {
        self.put(key, value);
    }

    fn record_bool(&mut self, key: &Key, value: bool) {
        self.put(key, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn valid_variable_overrides_level() {
        let shows = |level, variable: Option<&str>, target: &str, at: Level| {
            filter(level, variable).0.enables_plain(target, at)
        };
        assert!(shows(LogLevel::Info, None, "app", Level::INFO));
        assert!(!shows(LogLevel::Info, None, "app", Level::DEBUG));
        assert!(!shows(LogLevel::Error, Some(""), "app", Level::WARN));
        assert!(shows(LogLevel::Error, Some("warn,app::db=debug"), "app::db", Level::DEBUG));
        assert!(!shows(LogLevel::Trace, Some("warn,app::db=debug"), "app", Level::INFO));
        let (_, mistake) = filter(LogLevel::Info, Some("app=loud"));
        assert!(mistake.unwrap().starts_with("ignoring RUST_LOG=\"app=loud\": "));
    }
}
