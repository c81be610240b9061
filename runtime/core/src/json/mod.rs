//! JSON for the messages between processes of a daemon and for the state that they hand over.
//!
//! [`ToJson`] and [`FromJson`] are derived, with attributes and a format like serde's. They work on
//! [`serde_json::Value`] and write through `dyn` traits, which keeps the code for each type small. Serde
//! itself is only used to read the application's own configuration.

mod schema_types;
mod std_types;

use std::fmt;
use std::io;

use serde_json::{Map, Value};

pub use unbroken_macros::{FromJson, ToJson};

/// A type that can be written as JSON.
pub trait ToJson {
    fn write(&self, out: &mut Writer);
}

/// A type that is an object in JSON, or part of one (`#[json(flatten)]`).
pub trait ToFields {
    fn write_fields(&self, out: &mut Writer);
}

/// A type that can be read from JSON. Unknown fields are ignored, because they are from a later release.
pub trait FromJson: Sized {
    fn read(value: Value) -> Result<Self, Mistake>;

    /// Returns the value of a field that is missing; `None` if that is a mistake.
    fn absent() -> Option<Self> {
        None
    }
}

/// A type that can be read from some of the fields of an object (`#[json(flatten)]`).
pub trait FromFields: Sized {
    fn read_fields(fields: &mut Fields) -> Result<Self, Mistake>;
}

/// Returns a value as compact JSON. Fails if a path in it is not UTF-8.
pub fn to_string(value: &dyn ToJson) -> Result<String, Mistake> {
    let mut out = Writer { text: String::new(), mistake: None };
    value.write(&mut out);
    match out.mistake {
        Some(mistake) => Err(mistake),
        None => Ok(out.text),
    }
}

/// Returns a value as the bytes of compact JSON. Fails as [`to_string`] does.
pub fn to_vec(value: &dyn ToJson) -> Result<Vec<u8>, Mistake> {
    to_string(value).map(String::into_bytes)
}

/// Returns a value as a [`Value`]. Fails as [`to_string`] does.
pub fn to_value(value: &dyn ToJson) -> Result<Value, Mistake> {
    parse(to_string(value)?.as_bytes())
}

/// Reads a value from JSON.
pub fn from_slice<T: FromJson>(json: &[u8]) -> Result<T, Mistake> {
    T::read(parse(json)?)
}

fn parse(json: &[u8]) -> Result<Value, Mistake> {
    serde_json::from_slice(json).map_err(|error| Mistake::new(error.to_string()))
}

/// Collects the JSON that is written.
pub struct Writer {
    text: String,
    /// The first value that could not be written.
    mistake: Option<Mistake>,
}

impl Writer {
    /// Writes a string.
    pub fn text(&mut self, text: &str) {
        self.value(&Value::from(text));
    }

    /// Writes a value as the string that it displays.
    pub fn display(&mut self, value: &dyn fmt::Display) {
        self.text(&value.to_string());
    }

    /// Writes a value.
    fn value(&mut self, value: &Value) {
        self.raw(&value.to_string());
    }

    /// Writes a piece of JSON as it is.
    fn raw(&mut self, json: &str) {
        self.text.push_str(json);
    }

    /// Notes that a value cannot be written.
    fn fail(&mut self, mistake: Mistake) {
        self.mistake.get_or_insert(mistake);
    }

    /// Writes an object with these fields.
    pub fn object(&mut self, of: &dyn ToFields) {
        self.raw("{");
        of.write_fields(self);
        self.raw("}");
    }

    /// Writes the key of the value that comes next.
    pub fn key(&mut self, key: &str) {
        self.next_of('{');
        self.text(key);
        self.raw(":");
    }

    pub fn field(&mut self, key: &str, value: &dyn ToJson) {
        self.key(key);
        value.write(self);
    }

    pub fn text_field(&mut self, key: &str, text: &str) {
        self.key(key);
        self.text(text);
    }

    /// Writes a variant of an enum that holds a value: an object with the variant's name as its only key.
    pub fn variant(&mut self, word: &str, of: &dyn ToJson) {
        self.raw("{");
        self.field(word, of);
        self.raw("}");
    }

    fn array(&mut self, items: &mut dyn Iterator<Item = &dyn ToJson>) {
        self.raw("[");
        for item in items {
            self.next_of('[');
            item.write(self);
        }
        self.raw("]");
    }

    /// Writes a comma, unless what follows is the first item after `open`.
    fn next_of(&mut self, open: char) {
        if !self.text.ends_with(open) {
            self.raw(",");
        }
    }
}

/// The fields of an object that have not been taken yet.
pub struct Fields(Map<String, Value>);

impl Fields {
    pub fn of(value: Value) -> Result<Fields, Mistake> {
        match value {
            Value::Object(fields) => Ok(Fields(fields)),
            other => Err(Mistake::expected("an object", &other)),
        }
    }

    pub fn take<T: FromJson>(&mut self, key: &'static str) -> Result<T, Mistake> {
        match (self.remove(key), T::absent()) {
            (Some(value), _) => T::read(value).map_err(|mistake| mistake.within(key)),
            (None, Some(absent)) => Ok(absent),
            (None, None) => Err(Mistake::missing(key)),
        }
    }

    // Not generic and not inlined, so that its code exists once and not for each type.
    #[inline(never)]
    fn remove(&mut self, key: &str) -> Option<Value> {
        self.0.remove(key)
    }

    pub fn optional<T>(
        &mut self,
        key: &'static str,
        read: fn(Value) -> Result<T, Mistake>,
    ) -> Result<Option<T>, Mistake> {
        match self.remove(key) {
            Some(value) => read(value).map(Some).map_err(|mistake| mistake.within(key)),
            None => Ok(None),
        }
    }
}

/// Splits a variant of an enum into its name and the value that it holds.
pub fn variant(value: Value) -> Result<(String, Option<Value>), Mistake> {
    match value {
        Value::String(word) => Ok((word, None)),
        Value::Object(fields) if fields.len() == 1 => {
            let first = fields.into_iter().next();
            first.map(|(word, of)| (word, Some(of))).ok_or_else(|| Mistake::new("no variant"))
        }
        other => Err(Mistake::expected("the name of a variant, or an object of one field", &other)),
    }
}

/// The reason why a text is not the expected JSON, or why a value cannot be written as JSON.
#[derive(Debug)]
pub struct Mistake {
    /// The keys on the way to the value, the innermost first.
    path: Vec<&'static str>,
    what: String,
}

impl Mistake {
    pub fn new(what: impl Into<String>) -> Mistake {
        Mistake { path: Vec::new(), what: what.into() }
    }

    /// Returns the mistake of a value of another kind. It names the kind and not the value, which may be a
    /// secret.
    #[cold]
    #[inline(never)]
    pub fn expected(what: &str, found: &Value) -> Mistake {
        let found = match found {
            Value::Null => "null",
            Value::Bool(_) => "a boolean",
            Value::Number(_) => "a number",
            Value::String(_) => "a string",
            Value::Array(_) => "an array",
            Value::Object(_) => "an object",
        };
        Mistake::new(format!("expected {what}, found {found}"))
    }

    #[cold]
    #[inline(never)]
    pub fn missing(key: &str) -> Mistake {
        Mistake::new(format!("the field `{key}` is missing"))
    }

    pub fn variant(found: &str, known: &[&str]) -> Mistake {
        Mistake::new(format!("`{found}` is not one of `{}`", known.join("`, `")))
    }

    /// Adds the key of the object that contains the mistake.
    #[cold]
    #[inline(never)]
    fn within(mut self, key: &'static str) -> Mistake {
        self.path.push(key);
        self
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            let path: Vec<&str> = self.path.iter().rev().copied().collect();
            write!(f, "`{}`: ", path.join("."))?;
        }
        f.write_str(&self.what)
    }
}

impl std::error::Error for Mistake {}

impl From<Mistake> for io::Error {
    fn from(mistake: Mistake) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, mistake)
    }
}

#[cfg(test)]
mod tests;
