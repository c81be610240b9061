//! Errors in values of the application, and their messages.

use std::fmt::{self, Display};
use std::path::Path;

use serde::de::{self, Expected, Unexpected};
use serde_json::Value as Json;

use unbroken_schema::{DEFAULT_PREFIX, nearest, one_of};

use crate::config::env::Prefix;
use crate::config::{keys, values};
use unbroken_core::sorted::SortedMap;

/// A deserialization error. Its place is added on the way out.
#[derive(Debug)]
pub(super) struct Fault {
    what: FaultKind,
    /// The key path, and the value as a message shows it, if it is short.
    place: Option<(String, Option<String>)>,
}

#[derive(Debug, PartialEq)]
enum FaultKind {
    Expected { expected: String, found: String },
    Missing(&'static str),
    Unknown(&'static [&'static str]),
    Other(String),
}

impl Fault {
    fn new(what: FaultKind) -> Self {
        Fault { what, place: None }
    }

    /// The fault at a place, unless it has an inner one.
    pub(super) fn at(mut self, path: String, value: &Json) -> Self {
        let shown = || match value {
            Json::String(text) => Some(values::shown_text(text)),
            Json::Object(_) | Json::Array(_) => None,
            scalar => Some(scalar.to_string()),
        };
        self.place.get_or_insert_with(|| (path, shown()));
        self
    }

    /// The fault at a more precise place.
    pub(super) fn moved(mut self, path: String, value: &Json) -> Self {
        self.place = None;
        self.at(path, value)
    }

    /// Whether it could be about the key at `path`: its place is the key or a table around it.
    pub(super) fn may_be_at(&self, path: &str) -> bool {
        let Some((place, _)) = &self.place else { return true };
        let rest = path.strip_prefix(place.as_str());
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    }

    /// Whether it is about a value that exists.
    pub(super) fn is_of_a_value(&self) -> bool {
        matches!(self.what, FaultKind::Expected { .. } | FaultKind::Other(_))
    }

    /// Whether it is the same fault, at any place.
    pub(super) fn is_like(&self, other: &Fault) -> bool {
        self.what == other.what
    }

    /// One sentence: key path, source, and what was expected.
    pub(super) fn sentence(
        &self,
        sources: &SortedMap<String, String>,
        file: Option<&Path>,
        prefix: Prefix<'_>,
        hides: impl Fn(&str) -> bool,
    ) -> String {
        let (path, shown) = match &self.place {
            Some((path, shown)) => (path.as_str(), shown.as_deref()),
            None => ("app", None),
        };
        if hides(path) {
            return self.without_value(sources);
        }
        let of = subject(path, sources);
        match (&self.what, shown) {
            (FaultKind::Expected { expected, .. }, Some(shown)) => {
                format!("{of} is {shown}: expected {expected}")
            }
            (FaultKind::Expected { expected, found }, None) => {
                format!("{of} is {found}: expected {expected}")
            }
            (FaultKind::Missing(field), _) => missing(&keys::child(path, field), file, prefix),
            (FaultKind::Unknown(fields), _) => unknown(&of, path, fields),
            (FaultKind::Other(message), Some(shown)) => format!("{of} is {shown}: {message}"),
            (FaultKind::Other(message), None) => format!("{of}: {message}"),
        }
    }
}

impl Fault {
    /// The sentence for a secret, without text that could quote its value.
    pub(super) fn without_value(&self, sources: &SortedMap<String, String>) -> String {
        let path = self.place.as_ref().map_or("app", |(path, _)| path.as_str());
        let of = subject(path, sources);
        match &self.what {
            FaultKind::Expected { expected, .. } if self.place.is_some() => {
                format!("{of} has a wrong value, which is not shown: expected {expected}")
            }
            _ => format!("{of} has a value, which is not shown, that the program does not take"),
        }
    }
}

/// The key and the source of its value: its own, that of a table around it, or the only source of the
/// values in it.
fn subject(path: &str, sources: &SortedMap<String, String>) -> String {
    let part_of = |whole: &str| {
        let rest = path.strip_prefix(whole);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    };
    let words = |(key, source): (&String, &String)| match source.strip_suffix(&format!(": {key}")) {
        Some(file) => format!(" in {file}"),
        None => format!(" from {source}"),
    };
    let whole = sources.iter().filter(|(key, _)| part_of(key)).max_by_key(|(key, _)| key.len());
    let inside = || {
        let inside = sources.iter().filter(|(key, _)| key.starts_with(&format!("{path}.")));
        let mut words: Vec<String> = inside.map(words).collect();
        words.dedup();
        words.pop().filter(|_| words.is_empty())
    };
    format!("`{path}`{}", whole.map(words).or_else(inside).unwrap_or_default())
}

fn missing(path: &str, file: Option<&Path>, prefix: Prefix<'_>) -> String {
    let parts: Vec<&str> = path.split('.').collect();
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-' || b == b'.';
    let variable = path.bytes().all(plain).then(|| prefix.variable(&parts));
    match (file, variable) {
        (Some(file), Some(variable)) => {
            format!("`{path}` is missing: set it in {} or by {variable}", file.display())
        }
        (Some(file), None) => format!("`{path}` is missing: set it in {}", file.display()),
        (None, Some(variable)) => {
            format!("`{path}` is missing: set {variable}, or name a configuration file that has it")
        }
        (None, None) => format!("`{path}` is missing: name a configuration file that has it"),
    }
}

fn unknown(of: &str, path: &str, fields: &[&str]) -> String {
    let (parent, word) = path.rsplit_once('.').unwrap_or(("app", path));
    let near = nearest(word, fields.iter().copied());
    match (near, fields) {
        (Some(near), _) => {
            let near = keys::child(parent, near);
            format!("{of} is not a known key: did you mean `{near}`?")
        }
        (None, []) => format!("{of} is not a known key: the program takes none here"),
        (None, fields) => format!("{of} is not a known key: expected {}", one_of(fields)),
    }
}

/// Rust's types in the words of configuration.
fn plain(expected: &dyn Expected) -> String {
    let whole = |min: i128, max: u128| format!("a whole number from {min} to {max}");
    let text = expected.to_string();
    match text.as_str() {
        "u8" => whole(0, u8::MAX.into()),
        "u16" => whole(0, u16::MAX.into()),
        "u32" => whole(0, u32::MAX.into()),
        "u64" | "usize" | "u128" => "a whole number that is not negative".into(),
        "i8" => whole(i8::MIN.into(), i8::MAX as u128),
        "i16" => whole(i16::MIN.into(), i16::MAX as u128),
        "i32" => whole(i32::MIN.into(), i32::MAX as u128),
        "i64" | "isize" | "i128" => "a whole number".into(),
        "f32" | "f64" => "a number".into(),
        "a boolean" => "true or false".into(),
        "a string" | "a borrowed string" => "text".into(),
        "a sequence" => "an array".into(),
        "a map" => "a table".into(),
        "unit" => "nothing".into(),
        text if text.starts_with("a nonzero ") => {
            text.replace("a nonzero ", "a number that is not 0, ")
        }
        text if text.starts_with("struct ") => "a table".into(),
        text if text.starts_with("tuple struct ") => "an array".into(),
        text => text.trim_start_matches("expected ").to_owned(),
    }
}

fn found(unexpected: &Unexpected<'_>) -> String {
    match unexpected {
        Unexpected::Map => "a table".into(),
        Unexpected::Seq => "an array".into(),
        Unexpected::Str(text) => values::shown_text(text),
        Unexpected::UnitVariant => "a name alone".into(),
        other => other.to_string(),
    }
}

impl Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence(&SortedMap::new(), None, Prefix::new(DEFAULT_PREFIX), |_| false))
    }
}

impl std::error::Error for Fault {}

impl de::Error for Fault {
    fn custom<T: Display>(message: T) -> Self {
        Fault::new(FaultKind::Other(message.to_string()))
    }

    fn invalid_type(unexpected: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Fault::new(FaultKind::Expected { expected: plain(expected), found: found(&unexpected) })
    }

    fn invalid_value(unexpected: Unexpected<'_>, expected: &dyn Expected) -> Self {
        de::Error::invalid_type(unexpected, expected)
    }

    fn invalid_length(length: usize, expected: &dyn Expected) -> Self {
        Fault::new(FaultKind::Other(format!("expected {expected}, found {length}")))
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        Fault::new(FaultKind::Expected {
            expected: match expected {
                [] => "nothing".into(),
                words => one_of(words),
            },
            found: values::shown_text(variant),
        })
    }

    fn unknown_field(_: &str, expected: &'static [&'static str]) -> Self {
        Fault::new(FaultKind::Unknown(expected))
    }

    fn missing_field(field: &'static str) -> Self {
        Fault::new(FaultKind::Missing(field))
    }

    fn duplicate_field(field: &'static str) -> Self {
        Fault::new(FaultKind::Other(format!("`{field}` is set twice, under two names")))
    }
}
