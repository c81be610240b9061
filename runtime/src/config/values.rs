//! One value of a layer, parsed by the kind of its key.

use std::path::{Component, Path, PathBuf};

use figment::value::{Num, Value};
use unbroken_schema::Value as Parsed;
use unbroken_schema::{Address, Input, Kind, Listen, check_distinct, check_socket_path};

use super::document::DATETIME;
use super::env::EnvFile;
use super::origin::Origin;
use super::problem::ValueError;

/// A value, and what its reading depends on.
pub(super) struct Raw<'a> {
    pub(super) value: &'a Value,
    pub(super) origin: &'a Origin,
    pub(super) start_dir: &'a Path,
}

impl Raw<'_> {
    /// Parses the value, with its relative paths made absolute.
    pub(super) fn parse(&self, kind: Kind) -> Result<Parsed, ValueError> {
        let parsed = kind.parse(&input(self.value, self.origin.is_text()))?;
        Ok(match parsed {
            Parsed::Path(path) => Parsed::Path(self.absolute(&path)?),
            Parsed::List(paths) if kind == Kind::Paths => {
                let absolute = paths.into_iter().map(|text| {
                    let EnvFile { path, optional } = EnvFile::from(text);
                    let file = EnvFile { path: self.absolute(&path)?, optional };
                    Ok(file.to_string())
                });
                Parsed::List(absolute.collect::<Result<_, ValueError>>()?)
            }
            Parsed::Addresses(listed) => {
                let absolute = listed.into_iter().map(|listen| match listen.address {
                    Address::Unix(path) => {
                        let path = self.absolute(&path)?;
                        check_socket_path(&path)?;
                        Ok(Listen { address: Address::Unix(path), ipv6: None })
                    }
                    Address::Tcp(_) => Ok(listen),
                });
                let listed = absolute.collect::<Result<Vec<Listen>, ValueError>>()?;
                check_distinct(&listed)?;
                Parsed::Addresses(listed)
            }
            parsed => parsed,
        })
    }

    fn absolute(&self, path: &Path) -> Result<PathBuf, ValueError> {
        let path = absolute(self.origin.base(self.start_dir), path);
        if path.to_str().is_none() {
            return Err(ValueError::NotUtf8(path));
        }
        Ok(path)
    }
}

/// A value as the schema takes it.
fn input(value: &Value, is_text: bool) -> Input<'_> {
    match value {
        Value::String(_, text) if is_text => Input::Untyped(text),
        Value::String(_, text) => Input::Text(text),
        Value::Bool(_, flag) => Input::Flag(*flag),
        Value::Num(_, number) => integer(number).map_or(Input::Other, Input::Number),
        Value::Array(_, items) => {
            Input::List(items.iter().map(|item| input(item, false)).collect())
        }
        _ => Input::Other,
    }
}

/// A value in a message.
pub(super) fn shown(value: &Value) -> String {
    match value {
        Value::String(_, text) => shown_text(text),
        Value::Char(_, c) => format!("{c:?}"),
        Value::Bool(_, flag) => flag.to_string(),
        Value::Num(_, number) => match (integer(number), number.to_f64()) {
            (Some(number), _) => number.to_string(),
            (None, Some(number)) => number.to_string(),
            (None, None) => "a number".into(),
        },
        Value::Empty(..) => "empty".into(),
        Value::Dict(..) => match datetime(value) {
            Some(text) => text.to_owned(),
            None => "a table".into(),
        },
        Value::Array(..) => "an array".into(),
    }
}

/// Text in a message: quoted, and no more than a line of it.
pub(super) fn shown_text(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// TOML's dates and times have no type of their own here: they arrive as a table of one key.
pub(super) fn datetime(value: &Value) -> Option<&str> {
    let dict = value.as_dict()?;
    dict.get(DATETIME)?.as_str().filter(|_| dict.len() == 1)
}

/// `path` below `base`, without `.`. A `..` stays: only the file system knows what is above a symlink.
pub(super) fn absolute(base: &Path, path: &Path) -> PathBuf {
    base.join(path).components().filter(|c| *c != Component::CurDir).collect()
}

fn integer(number: &Num) -> Option<i128> {
    match number.to_i128() {
        Some(number) => Some(number),
        None => number.to_u128().and_then(|n| i128::try_from(n).ok()),
    }
}
