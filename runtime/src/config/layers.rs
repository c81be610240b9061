//! The layers: figment providers that know how people spell their keys.

use std::path::{Path, PathBuf};

use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider, Source};

use unbroken_schema::{
    Fallback, KEYS, LIMITS, LISTENER_FIELDS, LISTENER_VARIABLE, SECTIONS, attribute_key,
    is_address_word, is_listener_name, key, listener_field, nearest, suggested_address,
};

use super::document;
use super::keys::join;
use super::origin::{Origin, Rank};
use super::problem::{Problem, Subject};
use super::values::shown;
use crate::program::Override;
use crate::spec::{Literal, Spec};
use unbroken_core::sorted::SortedMap;

/// The values of one layer. Listeners are always tables here: a string is an `addr`, so that a string
/// in one layer and a table in another merge.
#[derive(Debug)]
pub(super) struct Layer {
    rank: Rank,
    place: String,
    dict: Dict,
    /// How this layer spells a key, if not as the key itself.
    spelled: SortedMap<String, String>,
}

impl Layer {
    /// An empty layer. `place`: the attribute's location or the file's path.
    pub(super) fn new(rank: Rank, place: impl Into<String>) -> Self {
        Layer { rank, place: place.into(), dict: Dict::new(), spelled: SortedMap::new() }
    }

    /// Removes all other keys.
    pub(super) fn keep(&mut self, keys: &[&str]) {
        self.dict.retain(|key, _| keys.contains(&key.as_str()));
    }

    /// The values of the layer.
    pub(super) fn dict(&self) -> &Dict {
        &self.dict
    }

    /// The origin of a value of this layer.
    pub(super) fn origin(&self, spelled: &str) -> Origin {
        Origin { rank: self.rank, place: self.place.clone(), spelled: spelled.to_owned() }
    }

    /// The spelling of a key that is already set and that `path` would replace, contain or be part of.
    pub(super) fn rival(&self, path: &[&str]) -> Option<&str> {
        let path = join(&full(path));
        let within =
            |a: &str, b: &str| a == b || (a.starts_with(b) && a[b.len()..].starts_with('.'));
        let mut set = self.spelled.iter();
        set.find(|(set, _)| within(set, &path) || within(&path, set)).map(|(_, s)| s.as_str())
    }

    /// Sets the key at a path, or returns why there is no such key.
    pub(super) fn put(
        &mut self,
        path: &[&str],
        spelled: &str,
        value: Value,
    ) -> Result<(), Problem> {
        let of = || Subject::new(join(path), self.origin(spelled));
        let unknown = |near: Option<String>| Err(Problem::UnknownKey { of: of(), near });
        match path {
            ["app"] if !matches!(value, Value::Dict(..)) => {
                return Err(Problem::NotASection(of()));
            }
            ["app", ..] => {}
            ["listen", name] | ["listen", name, _] if !is_listener_name(name) => {
                return Err(Problem::NotAListenerName(of()));
            }
            ["listen", _] => {}
            ["listen", name, field] => {
                if listener_field(field).is_none() {
                    let known =
                        LISTENER_FIELDS.iter().map(|field| join(&["listen", name, field.name]));
                    return unknown(nearest(&join(path), known));
                }
            }
            ["limits", name] => {
                if !LIMITS.contains(name) {
                    let known = LIMITS.iter().map(|limit| join(&["limits", limit]));
                    return unknown(nearest(&join(path), known));
                }
            }
            ["listen" | "limits"] => return Err(Problem::NotASection(of())),
            ["config"] if self.rank == Rank::File => return Err(Problem::NestedFile(of())),
            [name] if attribute_key(name).is_some() => return Err(Problem::AttributeOnly(of())),
            [name] if key(name).is_some() => {}
            [name, ..] if is_address_word(name) => {
                let address = suggested_address(value.as_str().unwrap_or(&shown(&value)));
                return Err(Problem::AddressKey { of: of(), address });
            }
            _ => {
                let known = KEYS.iter().map(|key| key.name).chain(SECTIONS).chain(["app"]);
                return unknown(nearest(&join(path), known).map(str::to_owned));
            }
        }
        let path = full(path);
        self.spelled.insert(join(&path), spelled.to_owned());
        insert(&mut self.dict, &path, value);
        Ok(())
    }
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        let source = match self.rank {
            Rank::File => Source::File(PathBuf::from(&self.place)),
            _ => Source::Custom(self.place.clone()),
        };
        let spelled = self.spelled.clone();
        Metadata::from(self.rank.name(), source).interpolater(move |_: &Profile, keys: &[&str]| {
            let key = join(keys);
            spelled.get(&key).cloned().unwrap_or(key)
        })
    }

    fn data(&self) -> figment::Result<Map<Profile, Dict>> {
        Ok(Profile::Default.collect(self.dict.clone()))
    }
}

/// The lowest layer: the default values of the table, and the name.
pub(super) fn defaults(name: &str) -> Layer {
    let mut layer = Layer::new(Rank::Default, "");
    for key in KEYS {
        if let Fallback::Value(text) = key.default {
            insert(&mut layer.dict, &[key.name], Value::from(text));
        }
    }
    insert(&mut layer.dict, &["name"], Value::from(name));
    layer
}

/// The layer of the attribute.
pub(super) fn attribute(spec: &Spec, problems: &mut Vec<Problem>) -> Layer {
    let mut layer = Layer::new(Rank::Attribute, spec.location);
    for (path, literal) in spec.keys {
        // No other layer can set these: they are read from the `Spec`.
        if matches!(path, [name] if attribute_key(name).is_some())
            || matches!(path, ["listen", _, LISTENER_VARIABLE])
        {
            continue;
        }
        let value = match *literal {
            Literal::Str(text) => Value::from(text),
            Literal::Int(number) => Value::from(number),
            Literal::Bool(flag) => Value::from(flag),
            Literal::List(items) => Value::from(items.to_vec()),
        };
        problems.extend(layer.put(path, &join(path), value).err());
    }
    layer
}

/// The layer of a configuration file.
pub(super) fn file(path: &Path, text: &str, problems: &mut Vec<Problem>) -> Result<Layer, Problem> {
    let place = path.display().to_string();
    let dict = document::parse(text).map_err(|document::TomlSyntaxError { line, message }| {
        Problem::NotToml { path: place.clone(), line, message }
    })?;
    let mut layer = Layer::new(Rank::File, place);
    let mut put = |path: &[&str], value| problems.extend(layer.put(path, &join(path), value).err());
    for (key, value) in dict {
        match value {
            Value::Dict(_, listeners) if key == "listen" => {
                for (name, value) in listeners {
                    match value {
                        Value::Dict(_, fields) if !fields.is_empty() => {
                            for (field, value) in fields {
                                put(&["listen", &name, &field], value);
                            }
                        }
                        value => put(&["listen", &name], value),
                    }
                }
            }
            Value::Dict(_, limits) if key == "limits" => {
                for (name, value) in limits {
                    put(&["limits", &name], value);
                }
            }
            value => put(&[&key], value),
        }
    }
    Ok(layer)
}

/// The layer of the program's own sources. The last value of a key wins.
pub(super) fn program(values: &[Override], problems: &mut Vec<Problem>) -> Layer {
    let mut layer = Layer::new(Rank::Program, "");
    for Override { key, value } in values {
        let path: Vec<&str> = key.split('.').collect();
        problems.extend(layer.put(&path, key, Value::from(value.as_str())).err());
    }
    layer
}

/// The layer of the command line: the `key=value` of each `--set`. The last one of a key wins.
pub(super) fn command_line(overrides: &[String], problems: &mut Vec<Problem>) -> Layer {
    let mut layer = Layer::new(Rank::CommandLine, "");
    for text in overrides {
        let Some((key, value)) = text.split_once('=') else {
            problems.push(Problem::OptionWithoutValue(text.clone()));
            continue;
        };
        let path: Vec<&str> = key.trim().split('.').collect();
        if path.len() > DEPTH || path.iter().any(|part| part.is_empty()) {
            problems.push(Problem::OptionWithoutKey(text.clone()));
        } else if path == ["app"] {
            problems.push(Problem::OptionOfApp);
        } else {
            let spelled = format!("--set {}", key.trim());
            problems.extend(layer.put(&path, &spelled, Value::from(value)).err());
        }
    }
    layer
}

/// All layers merged; a later one wins.
pub(super) fn merge(layers: impl IntoIterator<Item = Layer>) -> Figment {
    layers.into_iter().fold(Figment::new(), |figment, layer| figment.merge(layer))
}

/// How deep keys may nest in a layer whose format has no bound of its own.
pub(super) const DEPTH: usize = 32;

/// A listener's plain value is its address.
fn full<'a>(path: &[&'a str]) -> Vec<&'a str> {
    match path {
        ["listen", name] => vec!["listen", name, "addr"],
        path => path.to_vec(),
    }
}

fn insert(dict: &mut Dict, path: &[&str], value: Value) {
    let Some((key, rest)) = path.split_first() else { return };
    if rest.is_empty() {
        dict.insert((*key).to_owned(), value);
        return;
    }
    let below = dict.entry((*key).to_owned()).or_insert_with(|| Value::from(Dict::new()));
    if !matches!(below, Value::Dict(..)) {
        *below = Value::from(Dict::new());
    }
    if let Value::Dict(_, below) = below {
        insert(below, rest, value);
    }
}
