//! The application's section as a type of the application, with errors that name key and source.
//!
//! Text from variables and the command line is parsed as the type asks, which no format's own
//! deserializer does.

mod access;
mod fault;
mod scalar;
mod search;

use std::fmt;

use serde::de::{self, DeserializeOwned, Deserializer, Visitor};
use serde_json::{Map, Value as Json};

use super::secrets::{Content, SUFFIX, Secrets};
use super::{Configuration, env, keys};
use access::{Items, TableAccess, Variant};
use fault::Fault;
use search::Choices;
use unbroken_core::sorted::{SortedMap, SortedSet};

/// The application's section as a `T`.
pub(super) fn read<T: DeserializeOwned>(
    configuration: &Configuration,
) -> Result<T, InvalidSection> {
    let Configuration { app, secrets, sources, settings, .. } = configuration;
    let section = match app {
        Json::Null => Json::Object(Map::new()),
        section => section.clone(),
    };
    let prefix = settings.prefix();
    let (sources, untyped) = with_values_of_files(sources, &configuration.untyped, secrets);
    let attempt = |choices: &Choices| {
        let scope = Scope { sources: &sources, untyped: &untyped, secrets, choices };
        let root = Node {
            value: section.clone(),
            path: "app".into(),
            text: false,
            is_key: false,
            scope: &scope,
        };
        T::deserialize(root)
    };
    search::read(&section, attempt).map_err(|fault| {
        let file = settings.config.as_deref();
        let sentence = fault.sentence(&sources, file, prefix, |key| secrets.hides(key));
        InvalidSection(match secrets.are_in(&sentence, app) {
            true => fault.without_value(&sources),
            false => sentence,
        })
    })
}

/// Why the section is not a `T`: one sentence, without secrets.
#[derive(Debug)]
pub(super) struct InvalidSection(String);

impl fmt::Display for InvalidSection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Sources and untyped keys, with those of values that are in a file: they are those of the file's name.
fn with_values_of_files(
    sources: &SortedMap<String, String>,
    untyped: &SortedSet<String>,
    secrets: &Secrets,
) -> (SortedMap<String, String>, SortedSet<String>) {
    let (mut sources, mut untyped) = (sources.clone(), untyped.clone());
    for key in secrets.files.keys() {
        if let (Some(of), Some(source)) = (key.strip_suffix(SUFFIX), sources.get(key).cloned())
            && !untyped.contains(of)
        {
            sources.insert(of.to_owned(), source);
            untyped.insert(of.to_owned());
        }
    }
    (sources, untyped)
}

/// Whether this is the type in which serde buffers a value whose type it does not know yet. If serde ever
/// renames it, text that could be a number stays text, which is no mistake.
fn is_buffer<T>() -> bool {
    let name = std::any::type_name::<T>();
    name.starts_with("serde") && name.contains("private") && name.contains("::Content")
}

#[derive(Clone, Copy)]
struct Scope<'a> {
    sources: &'a SortedMap<String, String>,
    /// The keys whose values are text, which the type parses.
    untyped: &'a SortedSet<String>,
    secrets: &'a Secrets,
    /// The reading of text if the type does not ask for a type of value.
    choices: &'a Choices,
}

/// A value in the section.
struct Node<'a> {
    value: Json,
    path: String,
    /// Whether it is text to be parsed as the type asks.
    text: bool,
    /// Whether it is the key of a value.
    is_key: bool,
    scope: &'a Scope<'a>,
}

impl<'a> Node<'a> {
    fn child(&self, part: &str, value: Json) -> Node<'a> {
        let path = keys::child(&self.path, part);
        let text = match self.scope.sources.contains_key(&path) {
            true => self.scope.untyped.contains(&path),
            false => self.text,
        };
        Node { value, path, text, is_key: false, scope: self.scope }
    }

    fn item(&self, index: usize, value: Json) -> Node<'a> {
        let path = format!("{}[{index}]", self.path);
        Node { value, path, text: self.text, is_key: false, scope: self.scope }
    }

    /// The key of a child, to be read as text even by a number.
    fn key(child: &Node<'a>, key: String) -> Node<'a> {
        Node {
            value: Json::String(key),
            path: child.path.clone(),
            text: true,
            is_key: true,
            scope: child.scope,
        }
    }

    /// The text to parse, if the value is text to be parsed.
    fn as_text(&self) -> Option<&str> {
        self.value.as_str().filter(|_| self.text)
    }

    /// Runs `visit`, whose errors get this place unless they have one.
    fn at<T>(self, visit: impl FnOnce(Self) -> Result<T, Fault>) -> Result<T, Fault> {
        let (path, value) = (self.path.clone(), self.value.clone());
        visit(self).map_err(|fault| fault.at(path, &value))
    }

    /// Array or table written as text, in JSON or TOML.
    fn structured(text: &str) -> Option<Json> {
        serde_json::from_slice(text.as_bytes()).ok().or_else(|| scalar::toml(text))
    }

    fn items(&self) -> Option<Vec<Json>> {
        match (&self.value, self.as_text()) {
            (_, Some(text)) if text.trim_start().starts_with('[') => {
                match Self::structured(text)? {
                    Json::Array(items) => Some(items),
                    _ => None,
                }
            }
            (_, Some(text)) if text.trim().is_empty() => Some(Vec::new()),
            (_, Some(text)) => Some(text.split(',').map(|item| item.trim().into()).collect()),
            (Json::Array(items), None) => Some(items.clone()),
            _ => None,
        }
    }

    fn table(&self) -> Option<Map<String, Json>> {
        match (&self.value, self.as_text()) {
            (_, Some(text)) => match Self::structured(text)? {
                Json::Object(table) => Some(table),
                _ => None,
            },
            (Json::Object(table), None) => Some(table.clone()),
            _ => None,
        }
    }

    /// A table whose keys came from variables, which cannot tell `max-conn` from `max_conn`.
    fn fields(&self, fields: &[&str]) -> Result<Option<Vec<(String, Node<'a>)>>, Fault> {
        let Some(mut table) = self.table() else { return Ok(None) };
        self.read_files(fields, &mut table)?;
        let exact = |key: &str| fields.contains(&key);
        let meant = |key: &str| {
            let mut fields =
                fields.iter().filter(|f| env::same(f, key) && !table.contains_key(**f));
            fields.next().map(|f| (*f).to_owned())
        };
        let nodes = table.iter().filter_map(|(key, value)| {
            let node = self.child(key, value.clone());
            if self.scope.choices.is_removed(&node.path) {
                return None;
            }
            Some(match (node.text || value.is_object()) && !exact(key) {
                true => (meant(key).unwrap_or_else(|| key.clone()), node),
                false => (key.clone(), node),
            })
        });
        Ok(Some(nodes.collect()))
    }

    /// Replaces the name of a file by its content, if the type has a field for the latter only.
    fn read_files(&self, fields: &[&str], table: &mut Map<String, Json>) -> Result<(), Fault> {
        let named = |key: &str| fields.iter().find(|field| env::same(field, key));
        let wanted: Vec<(String, String)> = table
            .keys()
            .filter(|key| named(key).is_none())
            .filter_map(|key| Some((key.clone(), (*named(key.strip_suffix(SUFFIX)?)?).to_owned())))
            .collect();
        for (key, field) in wanted {
            let path = keys::child(&self.path, &key);
            let Some(content) = self.scope.secrets.files.get(&path) else { continue };
            let at = keys::child(&self.path, &field);
            let own = self.scope.sources.get(&path);
            let is_set = table.keys().any(|key| env::same(key, &field));
            let its = self.scope.sources.get(&at).filter(|its| is_set && Some(*its) != own);
            if let Some(its) = its {
                let both = format!("{its} sets the same key: unset one of them");
                return Err(<Fault as de::Error>::custom(both).at(path, &Json::Object(Map::new())));
            }
            table.remove(&key);
            match content {
                Content::Text(text) => _ = table.insert(field, Json::from(text.as_str())),
                Content::Missing(why) => {
                    let fault = <Fault as de::Error>::custom(why);
                    return Err(fault.at(path, &Json::Object(Map::new())));
                }
            }
        }
        Ok(())
    }

    fn visit_json<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.value {
            Json::Null => visitor.visit_unit(),
            Json::Bool(flag) => visitor.visit_bool(*flag),
            Json::Number(n) => match (n.as_u64(), n.as_i64(), n.as_f64()) {
                (Some(n), ..) => visitor.visit_u64(n),
                (_, Some(n), _) => visitor.visit_i64(n),
                (.., n) => visitor.visit_f64(n.unwrap_or_default()),
            },
            Json::String(text) => visitor.visit_str(text),
            Json::Array(items) => self.visit_items(items.clone(), visitor),
            Json::Object(_) => {
                let fields = self.fields(&[])?.unwrap_or_default();
                visitor.visit_map(TableAccess { rest: fields.into_iter(), next: None })
            }
        }
    }

    fn visit_items<'de, V: Visitor<'de>>(
        &self,
        items: Vec<Json>,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let length = items.len();
        let nodes = items.into_iter().enumerate().map(|(i, item)| self.item(i, item));
        let mut items = Items { rest: nodes.collect::<Vec<_>>().into_iter() };
        let value = visitor.visit_seq(&mut items)?;
        match items.rest.len() {
            0 => Ok(value),
            left => Err(de::Error::invalid_length(length, &&*format!("{} items", length - left))),
        }
    }
}

/// Parses text as the type asks; visits any other value as it is.
macro_rules! parsed {
    ($($method:ident => $visit:ident),* $(,)?) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
            self.at(|node| match node.as_text().and_then(|text| text.trim().parse().ok()) {
                Some(number) => visitor.$visit(number),
                None => node.visit_json(visitor),
            })
        }
    )*};
}

/// Visits a value as it is: text stays text.
macro_rules! as_it_is {
    ($($method:ident),* $(,)?) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
            self.at(|node| node.visit_json(visitor))
        }
    )*};
}

impl<'de> Deserializer<'de> for Node<'_> {
    type Error = Fault;

    parsed! {
        deserialize_i8 => visit_i64, deserialize_i16 => visit_i64, deserialize_i32 => visit_i64,
        deserialize_i64 => visit_i64, deserialize_i128 => visit_i128,
        deserialize_u8 => visit_u64, deserialize_u16 => visit_u64, deserialize_u32 => visit_u64,
        deserialize_u64 => visit_u64, deserialize_u128 => visit_u128,
        deserialize_f32 => visit_f64, deserialize_f64 => visit_f64,
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.at(|node| {
            if node.is_key {
                return node.visit_json(visitor);
            }
            let choices = node.scope.choices;
            let buffers = is_buffer::<V::Value>();
            let read = node.as_text().map(|text| choices.read(&node.path, text, buffers));
            if read.is_none() && !node.value.is_object() {
                choices.note(&node.path);
            }
            match read {
                // Its items are parsed already.
                Some(value) => Node { value, text: false, ..node }.visit_json(visitor),
                None => node.visit_json(visitor),
            }
        })
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.at(|node| match node.as_text().and_then(unbroken_schema::flag_text) {
            Some(flag) => visitor.visit_bool(flag),
            None => node.visit_json(visitor),
        })
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.value {
            Json::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.at(|node| visitor.visit_newtype_struct(node))
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.at(|node| match node.items() {
            Some(items) => node.visit_items(items, visitor),
            None => node.visit_json(visitor),
        })
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_struct("", &[], visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.at(|node| match node.fields(fields)? {
            Some(fields) => visitor.visit_map(TableAccess { rest: fields.into_iter(), next: None }),
            None => node.visit_json(visitor),
        })
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.at(|node| {
            let brace = node.as_text().is_none_or(|text| text.trim_start().starts_with('{'));
            let table = node.table().filter(|table| brace && table.len() == 1);
            match (table.and_then(|table| table.into_iter().next()), &node.value) {
                (Some((variant, value)), _) => {
                    let content = node.child(&variant, value);
                    visitor.visit_enum(Variant { variant, content: Some(content) })
                }
                (None, Json::String(variant)) => {
                    visitor.visit_enum(Variant { variant: variant.clone(), content: None })
                }
                _ => node.visit_json(visitor),
            }
        })
    }

    as_it_is! {
        deserialize_char, deserialize_str, deserialize_string, deserialize_bytes,
        deserialize_byte_buf, deserialize_unit, deserialize_identifier, deserialize_ignored_any,
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.deserialize_unit(visitor)
    }
}
