//! The configuration's parsers for [`crate::fuzz`].

#![allow(clippy::expect_used, reason = "a property that does not hold is a panic")]

use std::path::Path;

use figment::value::Value;
use unbroken_schema::{self as schema, Kind, Listen, duration as texts};

use super::origin::{Origin, Rank};
use super::problem::Problem;
use super::values::Raw;
use super::{Address, Configuration, Surroundings};
use super::{defaults, env, layers, mistakes, resolve};
use crate::error::{Error, Result};
use crate::json;
use crate::spec::{Flavor, Spec};

const SPEC: Spec = Spec {
    bin: Some("hello"),
    version: None,
    location: "src/main.rs:3",
    keys: &[],
    graceful_restart: true,
    takes_daemon: true,
    flavor: Flavor::MultiThread,
    worker_threads: None,
};

/// Any text, read as configuration: either taken, and whole when it arrives elsewhere, or answered.
pub(crate) fn configuration(text: &str) {
    match read_all(text) {
        Ok(configuration) => {
            let sent = json::to_vec(&configuration).expect("settings are written as JSON");
            let received: Configuration = json::from_slice(&sent).expect("what was sent");
            assert_eq!(received, configuration, "changed on its way to the supervisor");
            let _ = configuration.app::<serde_json::Value>();
            let _ = configuration.app::<std::collections::BTreeMap<String, u16>>();
        }
        Err(error) => assert!(!error.to_string().trim().is_empty(), "a mistake without a message"),
    }
}

/// The configuration that a good text amounts to.
#[cfg(test)]
pub(crate) fn example(text: &str) -> Configuration {
    read_all(text).expect("a good text")
}

/// Lines that begin with `$` are variables, with `--set ` options, and the rest is a file.
fn read_all(text: &str) -> Result<Configuration> {
    let mut around = Surroundings {
        start_dir: "/srv".into(),
        vars: Vec::new(),
        uid: 1000,
        overrides: Vec::new(),
        exe: "/usr/bin/hello".into(),
    };
    let mut file = String::new();
    for line in text.split_inclusive('\n') {
        let plain = line.trim_end_matches('\n');
        if let Some((name, value)) = plain.strip_prefix('$').and_then(|line| line.split_once('=')) {
            around.vars.push((name.into(), value.into()));
        } else if let Some(option) = plain.strip_prefix("--set ") {
            around.overrides.push(option.to_owned());
        } else {
            file.push_str(line);
        }
    }
    load(&around, &file)
}

fn load(around: &Surroundings, text: &str) -> Result<Configuration> {
    let mut problems = Vec::new();
    let unread = |problem: Problem| -> Error { mistakes(&[problem]) };
    let attribute = layers::attribute(&SPEC, &mut problems);
    let line = layers::command_line(&around.overrides, &mut problems);
    let file = layers::file(Path::new("/etc/hello.toml"), text, &mut problems).map_err(unread)?;
    let below = [attribute.dict(), file.dict(), line.dict()];
    let prefix = env::Prefix::of(&SPEC);
    let vars = env::variables(&around.vars, &[], &mut problems);
    let start_dir = Path::new("/srv");
    let environment = env::environment(prefix, &vars, &below, start_dir, &mut problems).layer;
    let defaults = layers::defaults(&defaults::name(&SPEC, &around.exe));
    let merged = layers::merge([defaults, attribute, file, environment, line]);
    resolve::resolve(&SPEC, around, &merged, problems)
}

/// An address that is taken is the same when it is read again.
pub(crate) fn address(text: &str) {
    let Some(listed) = read::<Vec<Listen>>(text, Kind::Addresses) else { return };
    for address in listed.iter().flat_map(Listen::addresses) {
        assert_eq!(address.to_string().parse::<Address>().as_ref(), Ok(&address));
    }
}

/// A duration that is taken is the same when it is sent, and clocks can be advanced by it.
pub(crate) fn duration(text: &str) {
    if let Some(duration) = read(text, Kind::Duration) {
        let sent = texts::format(duration);
        assert_eq!(texts::parse(&sent), Ok(duration), "{sent}");
        let _ = std::time::Instant::now() + duration;
    }
}

fn read<T: TryFrom<schema::Value>>(text: &str, kind: Kind) -> Option<T> {
    let value = Value::from(text);
    let of = |rank| Origin { rank, place: String::new(), spelled: "--set key".into() };
    let start_dir = Path::new("/srv");
    // What kind of layer it is from decides what text may be.
    let _ = Raw { value: &value, origin: &of(Rank::File), start_dir }.parse(kind);
    let raw = Raw { value: &value, origin: &of(Rank::CommandLine), start_dir };
    raw.parse(kind).ok()?.try_into().ok()
}
