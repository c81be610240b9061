//! What processes of this project tell each other and record, as JSON.
//!
//! [`ToJson`] and [`FromJson`] are derived. Serde reads what is the program's own.

mod schema_types;
mod std_types;

use std::fmt;
use std::io;

use serde_json::{Map, Value};

pub use unbroken_macros::{FromJson, ToJson};

/// What can be written as JSON.
pub trait ToJson {
    fn write(&self, out: &mut Writer);
}

/// What is an object, or the part of one.
pub trait ToFields {
    fn write_fields(&self, out: &mut Writer);
}

/// What can be read from JSON. Fields that nobody asks for are ignored: they are of a later release.
pub trait FromJson: Sized {
    fn read(value: Value) -> Result<Self, Mistake>;

    /// The value of a field that is not there; `None` where it has to be.
    fn absent() -> Option<Self> {
        None
    }
}

/// What can be read from the fields of an object, among others.
pub trait FromFields: Sized {
    fn read_fields(fields: &mut Fields) -> Result<Self, Mistake>;
}

/// A value as compact JSON. The error: a path in it is not UTF-8.
pub fn to_string(value: &dyn ToJson) -> Result<String, Mistake> {
    let mut out = Writer { text: String::new(), mistake: None };
    value.write(&mut out);
    match out.mistake {
        Some(mistake) => Err(mistake),
        None => Ok(out.text),
    }
}

/// As [`to_string`], for a message.
pub fn to_vec(value: &dyn ToJson) -> Result<Vec<u8>, Mistake> {
    to_string(value).map(String::into_bytes)
}

/// As [`to_string`], to be looked into.
pub fn to_value(value: &dyn ToJson) -> Result<Value, Mistake> {
    parse(to_string(value)?.as_bytes())
}

/// What the JSON says.
pub fn from_slice<T: FromJson>(json: &[u8]) -> Result<T, Mistake> {
    T::read(parse(json)?)
}

fn parse(json: &[u8]) -> Result<Value, Mistake> {
    serde_json::from_slice(json).map_err(|error| Mistake::new(error.to_string()))
}

/// What JSON is written to.
pub struct Writer {
    text: String,
    mistake: Option<Mistake>,
}

impl Writer {
    /// A string.
    pub fn text(&mut self, text: &str) {
        self.value(&Value::from(text));
    }

    /// A string that is what a value looks like.
    pub fn display(&mut self, value: &dyn fmt::Display) {
        self.text(&value.to_string());
    }

    /// Any value.
    fn value(&mut self, value: &Value) {
        self.raw(&value.to_string());
    }

    /// What is JSON as it is.
    fn raw(&mut self, json: &str) {
        self.text.push_str(json);
    }

    fn fail(&mut self, mistake: Mistake) {
        self.mistake.get_or_insert(mistake);
    }

    /// The object that has these fields.
    pub fn object(&mut self, of: &dyn ToFields) {
        self.raw("{");
        of.write_fields(self);
        self.raw("}");
    }

    /// The key of the value that comes next.
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

    /// A variant of an enum with what it holds.
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

    /// Whatever is not the first within what `open` began is behind a comma.
    fn next_of(&mut self, open: char) {
        if !self.text.ends_with(open) {
            self.raw(",");
        }
    }
}

/// The fields of an object that have not been read.
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

    /// Written out once, and not for each type.
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

/// An enum's variant by name, and what it holds.
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

/// Why a text is not the JSON that was expected, or a value cannot be written as such.
#[derive(Debug)]
pub struct Mistake {
    /// The keys on the way to it, the innermost first.
    path: Vec<&'static str>,
    what: String,
}

impl Mistake {
    pub fn new(what: impl Into<String>) -> Mistake {
        Mistake { path: Vec::new(), what: what.into() }
    }

    /// Not what stands there, which may be a secret, but what kind of value it is.
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
