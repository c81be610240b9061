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
use crate::program::{Configure, Overrides};
use crate::spec::Spec;
use unbroken_core::sorted::{SortedMap, SortedSet};

pub(crate) use addresses::{Binding, Further};
pub(crate) use env::{EnvFile, Prefix};
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
    pub(crate) fn load(
        spec: &Spec,
        around: &Surroundings,
        program: &dyn Configure,
    ) -> Result<Configuration> {
        let mut problems = Vec::new();
        let Read { layers, readable, hidden, contents, environment } =
            read(spec, around, program, &mut problems);
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
    pub(crate) fn locate(
        spec: &Spec,
        around: &Surroundings,
        program: &dyn Configure,
        keys: &[&str],
    ) -> Result<Settings> {
        let Read { mut layers, .. } = read(spec, around, program, &mut Vec::new());
        // The lowest are the defaults.
        for layer in &mut layers[1..] {
            layer.keep(keys);
        }
        let found = resolve::resolve(spec, around, &layers::merge(layers), Vec::new())?;
        Ok(found.settings)
    }
}

/// The environment of a service: its variables, overridden by its files of variables.
pub(crate) struct Variables(Vec<env::Variable>);

impl Variables {
    /// Reads the environment of the service, with the files that the command line, a variable or the
    /// attribute names. Problems are reported when the configuration is loaded.
    pub(crate) fn of_service(spec: &Spec, around: &Surroundings) -> Variables {
        let (attribute, line) = attribute_and_line(spec, around, &mut Vec::new());
        Variables::read(Prefix::of(spec), around, &[&line, &attribute])
    }

    fn read(prefix: Prefix<'_>, around: &Surroundings, layers: &[&Layer]) -> Variables {
        let files = env_files(prefix, around, layers);
        Variables(env::variables(&around.vars, &files, &mut Vec::new()))
    }

    /// Returns the value of a variable, if it is UTF-8.
    pub(crate) fn find(&self, name: &str) -> Option<String> {
        self.0.iter().find_map(|variable| variable.value_of(name)).map(str::to_owned)
    }
}

/// Returns the names of the variables that the program asks for while it sets keys.
pub(crate) fn variables_of_program(
    spec: &Spec,
    around: &Surroundings,
    program: &dyn Configure,
) -> Vec<String> {
    let variables = Variables::of_service(spec, around);
    let find = |name: &str| variables.find(name);
    let mut overrides = Overrides::new(&find);
    // A failure is reported when the configuration is loaded.
    let _ = program.configure(&mut overrides);
    overrides.into_asked()
}

/// Reads files of variables that the option or key `named_by` names.
pub(crate) fn read_env_files(files: &[EnvFile], named_by: &str) -> Result<Vec<(String, String)>> {
    let mut problems = Vec::new();
    let mut variables = Vec::new();
    for file in files {
        match file.read(named_by) {
            Ok(read) => variables.extend(read),
            Err(problem) => problems.push(problem),
        }
    }
    if problems.is_empty() { Ok(variables) } else { Err(mistakes(&problems)) }
}

/// Whether a variable with this name can be configuration: by its prefix, or as the variable of a listener.
pub(crate) fn is_variable_of(spec: &Spec, name: &str) -> bool {
    Prefix::of(spec).strip(name).is_some() || env::of_listeners(spec).any(|(_, it)| it == name)
}

/// The layers, and what was read with them.
struct Read {
    /// The lowest first.
    layers: [Layer; 6],
    /// Whether the file could be read.
    readable: bool,
    /// Sources of values that are secrets.
    hidden: SortedSet<String>,
    /// Contents of files, by the source of their names.
    contents: SortedMap<String, Content>,
    /// Variables for the program itself, from files.
    environment: Vec<(String, String)>,
}

fn read(
    spec: &Spec,
    around: &Surroundings,
    program: &dyn Configure,
    problems: &mut Vec<Problem>,
) -> Read {
    let prefix = Prefix::of(spec);
    let (attribute, line) = attribute_and_line(spec, around, problems);
    let program = program_layer(prefix, around, program, &[&line, &attribute], problems);
    let file = file(&[&line, &program, &attribute], prefix, around, problems);
    let readable = file.is_some();
    let file = file.unwrap_or_else(|| Layer::new(Rank::File, ""));
    let below = [attribute.dict(), file.dict(), program.dict(), line.dict()];
    let files = env_files(prefix, around, &[&line, &program, &file, &attribute]);
    let vars = env::variables(&around.vars, &files, problems);
    let mut environment = env::environment(prefix, &vars, &below, &around.start_dir, problems);
    env::add_listener_variables(spec, &mut environment, &vars, problems);
    env::add_credentials(&mut environment, &vars, problems);
    let defaults = layers::defaults(&defaults::name(spec, &around.exe));
    Read {
        layers: [defaults, attribute, file, program, environment.layer, line],
        readable,
        hidden: environment.hidden,
        contents: environment.contents,
        environment: env::of_program(prefix, &vars),
    }
}

fn attribute_and_line(
    spec: &Spec,
    around: &Surroundings,
    problems: &mut Vec<Problem>,
) -> (Layer, Layer) {
    let attribute = layers::attribute(spec, problems);
    (attribute, layers::command_line(&around.overrides, problems))
}

/// Calls the program's function and makes a layer of the keys that it sets. `layers` may name files of
/// variables, which the function can read.
fn program_layer(
    prefix: Prefix<'_>,
    around: &Surroundings,
    program: &dyn Configure,
    layers: &[&Layer],
    problems: &mut Vec<Problem>,
) -> Layer {
    if !program.is_source() {
        return Layer::new(Rank::Program, "");
    }
    let variables = Variables::read(prefix, around, layers);
    let find = |name: &str| variables.find(name);
    let mut overrides = Overrides::new(&find);
    if let Err(error) = program.configure(&mut overrides) {
        problems.push(Problem::Program(error));
    }
    layers::program(&overrides.into_values(), problems)
}

/// The files of variables, as the highest layer names them: the command line, the first of `layers`; a
/// variable; or the first of the others that names some. Problems with their names are reported later.
fn env_files(prefix: Prefix<'_>, around: &Surroundings, layers: &[&Layer]) -> Vec<env::EnvFile> {
    let Some((line, below)) = layers.split_first() else { return Vec::new() };
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
    let below = || below.iter().find_map(|layer| of(layer));
    of(line).or_else(variable).or_else(below).unwrap_or_default()
}

/// The layer of the file, empty if no layer names one; `None` if it cannot be read.
fn file(
    [line, program, attribute]: &[&Layer; 3],
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
        .or_else(|| text(program.dict()).map(|text| (text, program.origin("config"))))
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
