//! The application's own section.

use figment::Figment;
use figment::value::{Num, Value};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value as Json};

use super::origin::Origin;
use super::problem::{Problem, Subject};
use super::values::datetime;
use super::{Configuration, keys, typed};
use crate::error::{Error, Result};
use unbroken_core::sorted::{SortedMap, SortedSet};

impl Configuration {
    /// The application's section as the application's type.
    ///
    /// Values from variables and `--set` are text, read as what `T` asks for; values from the file have
    /// the file's types. The error names the key path and where the value came from.
    pub(crate) fn app<T: DeserializeOwned>(&self) -> Result<T> {
        typed::read(self).map_err(|mistake| Error::config(mistake.to_string()))
    }
}

/// `[app]` as JSON. Notes the source of each leaf in `sources`, and in the set that is returned, which
/// of them are text that the application's type parses.
pub(super) fn section(
    figment: &Figment,
    section: &Value,
    sources: &mut SortedMap<String, String>,
    problems: &mut Vec<Problem>,
) -> (Json, SortedSet<String>) {
    let mut walk = Walk { figment, sources, problems, untyped: SortedSet::new() };
    let json = walk.json(section, &mut vec!["app"]);
    (json, walk.untyped)
}

struct Walk<'a> {
    figment: &'a Figment,
    sources: &'a mut SortedMap<String, String>,
    problems: &'a mut Vec<Problem>,
    untyped: SortedSet<String>,
}

impl Walk<'_> {
    fn json<'v>(&mut self, value: &'v Value, path: &mut Vec<&'v str>) -> Json {
        let table = match value {
            Value::Dict(_, dict) if datetime(value).is_none() => dict,
            leaf => {
                let origin = Origin::new(self.figment.get_metadata(leaf.tag()), path);
                let key = keys::join(path);
                self.sources.insert(key.clone(), origin.source());
                if origin.is_text() {
                    self.untyped.insert(key.clone());
                }
                return leaf_json(leaf).unwrap_or_else(|| {
                    self.problems.push(Problem::NotFinite(Subject::new(key, origin)));
                    Json::Null
                });
            }
        };
        let mut map = Map::new();
        for (key, value) in table {
            path.push(key);
            let value = self.json(value, path);
            path.pop();
            map.insert(key.clone(), value);
        }
        Json::Object(map)
    }
}

/// `None` for a number that JSON has not: NaN and the infinities.
pub(super) fn leaf_json(value: &Value) -> Option<Json> {
    Some(match value {
        Value::String(_, text) => Json::from(text.as_str()),
        Value::Char(_, c) => Json::from(c.to_string()),
        Value::Bool(_, flag) => Json::from(*flag),
        Value::Num(_, number) => number_json(number)?,
        Value::Empty(..) => Json::Null,
        Value::Array(_, items) => items.iter().map(leaf_json).collect::<Option<Vec<_>>>()?.into(),
        Value::Dict(_, dict) => match datetime(value) {
            Some(text) => Json::from(text),
            None => {
                let mut table = Map::new();
                for (key, value) in dict {
                    table.insert(key.clone(), leaf_json(value)?);
                }
                Json::Object(table)
            }
        },
    })
}

fn number_json(number: &Num) -> Option<Json> {
    let signed = number.to_i128().and_then(|n| i64::try_from(n).ok()).map(Json::from);
    let unsigned = || number.to_u128().and_then(|n| u64::try_from(n).ok()).map(Json::from);
    let float = || number.to_f64().and_then(serde_json::Number::from_f64).map(Json::Number);
    signed.or_else(unsigned).or_else(float)
}
