//! Log events, and their three formats: text, JSON and entries of the journal. Supervisor and workers write
//! the same formats.

use std::fmt::Write;
use std::time::SystemTime;

use serde_json::{Map, Value as Json, json};

use crate::config::LogLevel;
use crate::timestamp::rfc3339;

/// The name and value of an additional field of an event.
pub(crate) type Field = (String, Json);

/// The process that writes events.
#[derive(Debug, Clone)]
pub(crate) struct EventWriter {
    /// The daemon's name.
    pub(crate) name: String,
    /// The process that writes.
    pub(crate) pid: u32,
}

/// A log event.
#[derive(Debug, Default, Clone)]
pub(crate) struct LogEvent<'a> {
    pub(crate) level: LogLevel,
    pub(crate) message: &'a str,
    /// The generation and the worker that the event is about, or that write it.
    pub(crate) generation: Option<u32>,
    pub(crate) worker: Option<u32>,
    /// The module that the event is from, and its file and line.
    pub(crate) target: Option<&'a str>,
    pub(crate) place: Option<(&'a str, u32)>,
    pub(crate) fields: &'a [Field],
    /// The spans that the event happened in, the outermost first.
    pub(crate) spans: &'a [(&'a str, Vec<Field>)],
}

impl LogLevel {
    pub(crate) fn word(self) -> &'static str {
        match self {
            LogLevel::Error => "ERROR",
            LogLevel::Warn => "WARN",
            LogLevel::Info => "INFO",
            LogLevel::Debug => "DEBUG",
            LogLevel::Trace => "TRACE",
        }
    }

    /// The priority of syslog(3) and the journal.
    pub(crate) fn priority(self) -> u8 {
        match self {
            LogLevel::Error => 3,
            LogLevel::Warn => 4,
            LogLevel::Info => 6,
            LogLevel::Debug | LogLevel::Trace => 7,
        }
    }
}

impl LogEvent<'_> {
    /// Text for people, without a line end: `2026-05-01T10:00:00.123Z INFO hello[812]: app::db: slow ms=70`.
    pub(crate) fn text(&self, writer: &EventWriter, now: SystemTime) -> String {
        let time = rfc3339(now, 3);
        let (level, name, pid) = (self.level.word(), &writer.name, writer.pid);
        let mut line = format!("{time} {level} {name}[{pid}]: ");
        let mut put = |text: &str| line.extend(text.chars().flat_map(printable));
        if let Some(target) = self.target {
            put(&format!("{target}: "));
        }
        for (name, fields) in self.spans {
            put(name);
            if !fields.is_empty() {
                put(&format!("{{{}}}", pairs(fields).trim_start()));
            }
            put(": ");
        }
        put(self.message);
        put(&pairs(self.fields));
        line
    }

    /// A JSON object, without a line end.
    pub(crate) fn json(&self, writer: &EventWriter, now: SystemTime) -> String {
        let mut object = Map::new();
        let mut put = |key: &str, value: Json| object.insert(key.into(), value);
        put("timestamp", rfc3339(now, 6).into());
        put("level", self.level.word().into());
        put("name", writer.name.clone().into());
        put("pid", writer.pid.into());
        if let Some(generation) = self.generation {
            put("generation", generation.into());
        }
        if let Some(worker) = self.worker {
            put("worker", worker.into());
        }
        if let Some(target) = self.target {
            put("target", target.into());
        }
        let mut fields = Map::new();
        fields.insert("message".into(), self.message.into());
        fields.extend(self.fields.iter().cloned());
        put("fields", fields.into());
        if !self.spans.is_empty() {
            let span = |(name, fields): &(&str, Vec<Field>)| {
                let mut span = Map::new();
                span.extend(fields.iter().cloned());
                span.insert("name".into(), json!(name));
                Json::from(span)
            };
            put("spans", self.spans.iter().map(span).collect());
        }
        Json::from(object).to_string()
    }

    /// An entry in the native journal protocol: one field per line, values with line breaks by length.
    pub(crate) fn journal(&self, writer: &EventWriter) -> Vec<u8> {
        let mut entry = JournalEntry::default();
        entry.put("MESSAGE", self.message);
        entry.put("PRIORITY", &self.level.priority().to_string());
        entry.put("LEVEL", self.level.word());
        entry.put("SYSLOG_IDENTIFIER", &writer.name);
        entry.put("SYSLOG_PID", &writer.pid.to_string());
        if let Some(generation) = self.generation {
            entry.put("GENERATION", &generation.to_string());
        }
        if let Some(worker) = self.worker {
            entry.put("WORKER", &worker.to_string());
        }
        if let Some(target) = self.target {
            entry.put("TARGET", target);
        }
        if let Some((file, line)) = self.place {
            entry.put("CODE_FILE", file);
            entry.put("CODE_LINE", &line.to_string());
        }
        for (name, value) in self.fields {
            entry.put_foreign(name, value);
        }
        // The innermost span first: of fields with the same name, the one nearest to the event keeps it.
        for (name, fields) in self.spans.iter().rev() {
            entry.add("SPAN", name);
            for (name, value) in fields {
                entry.put_foreign(name, value);
            }
        }
        entry.bytes
    }
}

/// The fields as ` key=value`, quoted where necessary.
fn pairs(fields: &[Field]) -> String {
    fields.iter().fold(String::new(), |mut text, (name, value)| {
        // Writing to a string cannot fail.
        let _ = match value {
            Json::String(value) if value.contains([' ', '"', '=']) || value.is_empty() => {
                write!(text, " {name}={value:?}")
            }
            Json::String(value) => write!(text, " {name}={value}"),
            value => write!(text, " {name}={value}"),
        };
        text
    })
}

/// Escapes control characters: a client whose input is logged must not be able to forge lines or to control
/// the terminal.
fn printable(c: char) -> impl Iterator<Item = char> {
    let escaped = c.is_control() && c != '\t';
    let (plain, escape) = if escaped { (None, Some(c.escape_default())) } else { (Some(c), None) };
    plain.into_iter().chain(escape.into_iter().flatten())
}

/// An entry of the journal under construction.
#[derive(Default)]
struct JournalEntry {
    bytes: Vec<u8>,
    /// The names that are in use: a second field of that name is renamed or left out.
    names: Vec<String>,
}

impl JournalEntry {
    /// Adds a field that has one value.
    fn put(&mut self, name: &str, value: &str) {
        self.add(name, value);
        self.names.push(name.to_owned());
    }

    /// Adds a value to a field, which may have several.
    fn add(&mut self, name: &str, value: &str) {
        self.bytes.extend(name.as_bytes());
        if value.contains('\n') {
            self.bytes.push(b'\n');
            self.bytes.extend((value.len() as u64).to_le_bytes());
        } else {
            self.bytes.push(b'=');
        }
        self.bytes.extend(value.as_bytes());
        self.bytes.push(b'\n');
    }

    /// Adds a field that the program named. The name is converted to what the journal accepts, and gets a
    /// prefix if it is in use: a field of the program must not replace one of the daemon.
    fn put_foreign(&mut self, name: &str, value: &Json) {
        let mut name: String = name
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' })
            .collect();
        // The journal drops names that begin with a digit, and those with `_` are its own.
        let begins = name.bytes().next().is_some_and(|b| b.is_ascii_uppercase());
        if !begins || self.names.contains(&name) {
            name.insert_str(0, "F_");
        }
        name.truncate(64);
        if self.names.contains(&name) {
            return;
        }
        match value {
            Json::String(text) => self.put(&name, text),
            value => self.put(&name, &value.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    fn writer() -> EventWriter {
        EventWriter { name: "hello".into(), pid: 812 }
    }

    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(1_777_626_000_123)
    }

    fn fields() -> Vec<Field> {
        vec![
            ("ms".into(), json!(70)),
            ("listener".into(), json!("http")),
            ("peer".into(), json!("a b")),
        ]
    }

    #[test]
    fn text_is_one_printable_line() {
        let fields = fields();
        let spans = [("request", vec![("id".to_owned(), json!(7))]), ("query", vec![])];
        let event = LogEvent {
            level: LogLevel::Warn,
            message: "slow\nforged \u{1b}[31m",
            target: Some("app::db"),
            fields: &fields,
            spans: &spans,
            ..LogEvent::default()
        };
        assert_eq!(
            event.text(&writer(), now()),
            "2026-05-01T09:00:00.123Z WARN hello[812]: app::db: request{id=7}: query: \
             slow\\nforged \\u{1b}[31m ms=70 listener=http peer=\"a b\""
        );
    }

    #[test]
    fn json_is_one_object() {
        let fields = fields();
        let event = LogEvent {
            message: "a \"b\"\n",
            generation: Some(2),
            worker: Some(812),
            target: Some("app"),
            fields: &fields,
            spans: &[("request", vec![("id".to_owned(), json!(7))])],
            ..LogEvent::default()
        };
        let line = event.json(&writer(), now());
        assert!(!line.contains('\n'));
        let read: Json = serde_json::from_str(&line).unwrap();
        assert_eq!(
            read,
            json!({
                "timestamp": "2026-05-01T09:00:00.123000Z", "level": "INFO", "name": "hello",
                "pid": 812, "generation": 2, "worker": 812, "target": "app",
                "fields": { "message": "a \"b\"\n", "ms": 70, "listener": "http", "peer": "a b" },
                "spans": [{ "name": "request", "id": 7 }],
            })
        );
    }

    #[test]
    fn journal_entry_keeps_own_fields() {
        let fields = [
            ("http.method", json!("GET")),
            ("priority", json!(1)),
            ("_uid", json!(0)),
            ("9lives", json!("two\nlines")),
            ("ok", json!(true)),
        ]
        .map(|(name, value)| (name.to_owned(), value));
        let event = LogEvent {
            level: LogLevel::Error,
            message: "a\nb",
            generation: Some(2),
            worker: Some(812),
            place: Some(("src/main.rs", 7)),
            fields: &fields,
            spans: &[("request", vec![("ok".to_owned(), json!(false))])],
            ..LogEvent::default()
        };
        let mut expected = b"MESSAGE\n\x03\0\0\0\0\0\0\0a\nb\nPRIORITY=3\nLEVEL=ERROR\n\
            SYSLOG_IDENTIFIER=hello\nSYSLOG_PID=812\nGENERATION=2\nWORKER=812\n\
            CODE_FILE=src/main.rs\nCODE_LINE=7\nHTTP_METHOD=GET\nF_PRIORITY=1\nF__UID=0\nF_9LIVES\n"
            .to_vec();
        expected.extend(b"\x09\0\0\0\0\0\0\0two\nlines\nOK=true\nSPAN=request\nF_OK=false\n");
        let entry = event.journal(&writer());
        assert_eq!(String::from_utf8_lossy(&entry), String::from_utf8_lossy(&expected));
    }

    #[test]
    fn levels_have_syslog_priorities() {
        let levels =
            [LogLevel::Error, LogLevel::Warn, LogLevel::Info, LogLevel::Debug, LogLevel::Trace];
        assert_eq!(levels.map(LogLevel::priority), [3, 4, 6, 7, 7]);
    }
}
