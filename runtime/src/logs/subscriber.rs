//! The program's own events: a tracing subscriber, where the configuration asks for one.

use std::fmt::{self, Write as _};
use std::io::{self, Write as _};
use std::time::{Duration, SystemTime};

use serde_json::Value as Json;
use tracing::field::{Field as Key, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Level, Metadata, Subscriber};
use tracing_log::{AsLog, LogTracer, NormalizeEvent};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::{LookupSpan, Registry};

use super::event::{Event, Field, Writer};
use super::journal::Journal;
use super::say::{fallen_back, resolve};
use crate::config::{LogFormat, LogLevel, Settings};

/// How long a program waits for a journal that is busy, before its line goes to stderr.
const PATIENCE: Duration = Duration::from_secs(1);

/// Variable of the filter that wins over `log_level`.
const FILTER: &str = "RUST_LOG";

/// Installs the subscriber, if `log_format` asks for one. Before the program's own code, whose `init()`
/// would find it: only what was asked for is there.
pub(crate) fn install(settings: &Settings, generation: u32) {
    let format = resolve(settings.log_format);
    if format == LogFormat::None {
        return;
    }
    let pid = std::process::id();
    let writer = Writer { name: settings.name.clone(), pid };
    let journal = match format {
        LogFormat::Journald => Journal::new(Some(PATIENCE)).ok(),
        _ => None,
    };
    let (filter, mistake) = filter(settings.log_level, std::env::var(FILTER).ok().as_deref());
    let lines = Lines { writer, generation, format, journal };
    let subscriber = Registry::default().with(lines).with(filter);
    // A library that starts before `main` may have been faster; it has what it wanted.
    if tracing::subscriber::set_global_default(subscriber).is_err() {
        return;
    }
    // Records of the crate `log`, unless something takes them already.
    let _ = LogTracer::builder().with_max_level(LevelFilter::current().as_log()).init();
    if let Some(mistake) = mistake {
        tracing::warn!("{mistake}");
    }
}

fn filter(level: LogLevel, variable: Option<&str>) -> (Targets, Option<String>) {
    let own = Targets::new().with_default(match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    });
    match variable.filter(|text| !text.is_empty()).map(|text| (text, text.parse::<Targets>())) {
        None => (own, None),
        Some((_, Ok(filter))) => (filter, None),
        Some((text, Err(error))) => {
            let mistake = format!("{FILTER} is {text:?}: {error}; `log_level` holds");
            (own, Some(mistake))
        }
    }
}

/// Writes each event.
struct Lines {
    writer: Writer,
    generation: u32,
    format: LogFormat,
    journal: Option<Journal>,
}

/// The fields of a span, kept with it.
struct Kept(Vec<Field>);

impl<S> Layer<S> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if let Some(span) = context.span(id) {
            let mut fields = Fields::default();
            attributes.record(&mut fields);
            span.extensions_mut().insert(Kept(fields.others));
        }
    }

    fn on_record(&self, id: &Id, record: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(Kept(kept)) = span.extensions_mut().get_mut()
        {
            let mut fields = Fields::default();
            record.record(&mut fields);
            kept.retain(|(name, _)| fields.others.iter().all(|(other, _)| other != name));
            kept.extend(fields.others);
        }
    }

    fn on_event(&self, event: &tracing::Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        // A record of `log` tells in fields what an event has in its metadata.
        let normalized = event.normalized_metadata();
        if normalized.is_some() {
            fields.others.retain(|(name, _)| !name.starts_with("log."));
        }
        let metadata = normalized.as_ref().unwrap_or_else(|| event.metadata());
        let mut spans = Vec::new();
        for span in context.event_scope(event).into_iter().flat_map(|scope| scope.from_root()) {
            let kept = span.extensions().get::<Kept>().map(|kept| kept.0.clone());
            spans.push((span.name(), kept.unwrap_or_default()));
        }
        self.write(metadata, &fields, &spans);
    }
}

impl Lines {
    fn write(&self, metadata: &Metadata<'_>, fields: &Fields, spans: &[(&str, Vec<Field>)]) {
        let event = Event {
            level: level(*metadata.level()),
            message: &fields.message,
            generation: Some(self.generation),
            worker: Some(self.writer.pid),
            target: Some(metadata.target()),
            place: metadata.file().zip(metadata.line()),
            fields: &fields.others,
            spans,
        };
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
        // One write, so that lines of several threads and processes stay whole. What a full disk or a pipe
        // without reader does not take is lost, and the program goes on.
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

/// What an event or a span has.
#[derive(Default)]
struct Fields {
    message: String,
    others: Vec<Field>,
}

impl Fields {
    fn put(&mut self, key: &Key, value: impl Into<Json>) {
        self.others.push((key.name().to_owned(), value.into()));
    }
}

impl Visit for Fields {
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
    fn the_variable_wins_where_it_is_understood() {
        let shows = |level, variable: Option<&str>, target: &str, at: Level| {
            filter(level, variable).0.would_enable(target, &at)
        };
        assert!(shows(LogLevel::Info, None, "app", Level::INFO));
        assert!(!shows(LogLevel::Info, None, "app", Level::DEBUG));
        assert!(!shows(LogLevel::Error, Some(""), "app", Level::WARN));
        assert!(shows(LogLevel::Error, Some("warn,app::db=debug"), "app::db", Level::DEBUG));
        assert!(!shows(LogLevel::Trace, Some("warn,app::db=debug"), "app", Level::INFO));
        let (_, mistake) = filter(LogLevel::Info, Some("app=loud"));
        assert!(mistake.unwrap().starts_with("RUST_LOG is \"app=loud\": "));
    }
}
