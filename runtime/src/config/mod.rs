//! Configuration: attribute, file, environment and command line become [`Settings`].

mod addresses;
mod app;
mod defaults;
mod document;
mod env;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod keys;
mod layers;
mod origin;
mod problem;
mod relocate;
mod report;
mod resolve;
mod secrets;
mod settings;
mod slips;
mod typed;
mod values;

#[cfg(test)]
pub(crate) mod tests;

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;

use figment::value::{Dict, Value};
use unbroken_schema::Kind;

use crate::error::{Error, Result};
use crate::json::{FromJson, ToJson};
use crate::spec::Spec;
use unbroken_core::sorted::{SortedMap, SortedSet};

pub(crate) use addresses::{Binding, Further};
pub(crate) use env::Prefix;
pub(crate) use settings::*;
pub(crate) use unbroken_schema::{Address, Limit};

use layers::Layer;
use origin::{Origin, Rank};
use problem::{Problem, ReadError};
use secrets::{Content, Secrets};

/// The keys by which a running daemon is found.
pub(crate) const LOCATION: [&str; 3] = ["name", "pidfile", "runtime_dir"];

/// Everything outside the program that the configuration depends on.
#[derive(Debug, Clone)]
pub(crate) struct Surroundings {
    /// The starting directory, absolute.
    pub(crate) start_dir: PathBuf,
    /// The environment.
    pub(crate) vars: Vec<(OsString, OsString)>,
    /// The user that runs the program.
    pub(crate) uid: u32,
    /// The `key=value` of each `--set`.
    pub(crate) overrides: Vec<String>,
    /// The path of start. Names the daemon if Cargo did not compile the program.
    pub(crate) exe: PathBuf,
}

/// The effective settings, where each came from, and the application's own section.
///
/// It travels from a worker's *hello* to its supervisor and back in *welcome*: unknown fields are
/// ignored, and nothing is read again.
#[derive(Debug, Clone, PartialEq, ToJson, FromJson)]
pub(crate) struct Configuration {
    /// Typed, with the defaults filled in.
    pub(crate) settings: Settings,
    /// Key path to source: `DAEMON_LISTEN_HTTP`, `/etc/hello.toml: drain_timeout`, `default`.
    #[json(default)]
    pub(crate) sources: SortedMap<String, String>,
    /// The listeners of the attribute, and of each whether a later layer has given it another address.
    #[json(default)]
    pub(crate) of_attribute: SortedMap<String, bool>,
    /// The merged `[app]` section.
    #[json(default)]
    pub(crate) app: serde_json::Value,
    /// The keys of `app` whose values are text that the application's type parses.
    #[json(default)]
    pub(crate) untyped: SortedSet<String>,
    /// The secrets in it.
    #[json(default)]
    pub(crate) secrets: Secrets,
    /// The program's own variables that its `env_file` sets.
    #[json(default)]
    pub(crate) environment: Vec<(String, String)>,
}

impl Configuration {
    /// Reads all layers. The error has one line for each mistake.
    pub(crate) fn load(spec: &Spec, around: &Surroundings) -> Result<Configuration> {
        let mut problems = Vec::new();
        let Read { layers, readable, hidden, contents, environment } =
            read(spec, around, &mut problems);
        if !readable {
            return Err(mistakes(&problems));
        }
        let merged = layers::merge(layers);
        let mut configuration = resolve::resolve(spec, around, &merged, problems)?;
        for (key, source) in &configuration.sources {
            if hidden.contains(source) {
                configuration.secrets.hidden.insert(key.clone());
            }
            if let Some(content) = contents.get(source) {
                configuration.secrets.files.insert(key.clone(), content.clone());
            }
        }
        configuration.environment = environment;
        Ok(configuration)
    }

    /// Reads only `keys`, such as [`LOCATION`]: a running daemon is found, and can be stopped, even if the
    /// rest of the configuration is wrong.
    pub(crate) fn locate(spec: &Spec, around: &Surroundings, keys: &[&str]) -> Result<Settings> {
        let Read { mut layers, .. } = read(spec, around, &mut Vec::new());
        // The lowest are the defaults.
        for layer in &mut layers[1..] {
            layer.keep(keys);
        }
        let found = resolve::resolve(spec, around, &layers::merge(layers), Vec::new())?;
        Ok(found.settings)
    }
}

/// The layers, and what was read with them.
struct Read {
    /// The lowest first.
    layers: [Layer; 5],
    /// Whether the file could be read.
    readable: bool,
    /// Sources of values that are secrets.
    hidden: SortedSet<String>,
    /// Contents of files, by the source of their names.
    contents: SortedMap<String, Content>,
    /// Variables for the program itself, from files.
    environment: Vec<(String, String)>,
}

fn read(spec: &Spec, around: &Surroundings, problems: &mut Vec<Problem>) -> Read {
    let attribute = layers::attribute(spec, problems);
    let line = layers::command_line(&around.overrides, problems);
    let file = file(&attribute, &line, Prefix::of(spec), around, problems);
    let lower = file.as_ref().unwrap_or(&attribute);
    let below = [attribute.dict(), lower.dict(), line.dict()];
    let prefix = Prefix::of(spec);
    let files = env_files(prefix, around, &[&line, lower, &attribute]);
    let vars = env::variables(&around.vars, &files, problems);
    let mut environment = env::environment(prefix, &vars, &below, &around.start_dir, problems);
    env::add_credentials(&mut environment, &vars, problems);
    let readable = file.is_some();
    let file = file.unwrap_or_else(|| Layer::new(Rank::File, ""));
    let defaults = layers::defaults(&defaults::name(spec, &around.exe));
    Read {
        layers: [defaults, attribute, file, environment.layer, line],
        readable,
        hidden: environment.hidden,
        contents: environment.contents,
        environment: env::of_program(prefix, &vars),
    }
}

/// The files of variables, as the highest layer names them: the command line, a variable, the file or the
/// attribute. Problems with their names are reported later.
fn env_files(prefix: Prefix<'_>, around: &Surroundings, layers: &[&Layer; 3]) -> Vec<env::EnvFile> {
    let [line, file, attribute] = layers;
    let start_dir = &around.start_dir;
    let files = |value: &Value, origin: &Origin| {
        let paths = values::Raw { value, origin, start_dir }.parse(Kind::Paths).ok()?;
        let paths: Vec<String> = paths.try_into().ok()?;
        Some(paths.into_iter().map(env::EnvFile::from).collect())
    };
    let of = |layer: &Layer| files(layer.dict().get("env_file")?, &layer.origin("env_file"));
    let variable = || {
        let text = env::var(&around.vars, &prefix.variable(&["env_file"]))?;
        files(&Value::from(text), &Layer::new(Rank::Environment, "").origin(""))
    };
    of(line).or_else(variable).or_else(|| of(file)).or_else(|| of(attribute)).unwrap_or_default()
}

/// The layer of the file, empty if no layer names one; `None` if it cannot be read.
fn file(
    attribute: &Layer,
    line: &Layer,
    prefix: Prefix<'_>,
    around: &Surroundings,
    problems: &mut Vec<Problem>,
) -> Option<Layer> {
    let text = |dict: &Dict| dict.get("config")?.as_str().map(str::to_owned);
    let variable = prefix.variable(&["config"]);
    let named = text(line.dict())
        .map(|text| (text, line.origin("--set config")))
        .or_else(|| {
            let text = env::var(&around.vars, &variable).filter(|text| !text.is_empty())?;
            let text = text.to_owned();
            let (rank, place) = (Rank::Environment, String::new());
            Some((text, Origin { rank, place, spelled: variable.clone() }))
        })
        .or_else(|| text(attribute.dict()).map(|text| (text, attribute.origin("config"))));
    let Some((text, origin)) = named.filter(|(text, _)| !text.is_empty() && !text.contains('\0'))
    else {
        return Some(Layer::new(Rank::File, "")); // An empty name is reported later.
    };
    let path = values::absolute(&around.start_dir, text.as_ref());
    let (name, named_by) = (path.display().to_string(), origin.source());
    let unreadable =
        |error| Problem::Unreadable { path: name.clone(), named_by: Some(named_by.clone()), error };
    let read = match path.to_str() {
        Some(_) => fs::read(&path).map_err(|error| unreadable(ReadError::Io(error))),
        None => Err(Problem::PathNotUtf8 { path: name.clone(), named_by: named_by.clone() }),
    };
    let layer = read.and_then(|bytes| match String::from_utf8(bytes) {
        Ok(text) => layers::file(&path, &text, problems),
        Err(_) => Err(Problem::NotUtf8(path.clone())),
    });
    layer.map_err(|problem| problems.push(problem)).ok()
}

/// All mistakes, one per line.
fn mistakes(problems: &[Problem]) -> Error {
    let mut lines: Vec<String> = Vec::new();
    for line in problems.iter().map(ToString::to_string) {
        if !lines.contains(&line) {
            lines.push(line);
        }
    }
    Error::config(lines.join("\n"))
}
