//! Turns the merged layers into settings: types, defaults and conflicts.

mod listeners;

use std::path::{Path, PathBuf};

use figment::value::{Dict, Value};
use figment::{Figment, Profile, Provider};
use unbroken_schema::{self as schema, KEYS, Kind, LIMITS, LISTENER_FIELDS, Needs};

use super::env::EnvFile;
use super::origin::{Origin, Rank};
use super::problem::{Problem, Subject, ValueError};
use super::values::{Raw, shown};
use super::{
    Address, Configuration, LOG_MODE, Limit, ListenSettings, Prefix, Ready, RestartPolicy,
    Settings, Surroundings, app, defaults, keys, mistakes,
};
use crate::error::{Error, Result};
use crate::json::FromJson;
use crate::spec::Spec;
use unbroken_core::sorted::{SortedMap, SortedSet, sort_few};

/// The configuration of the merged layers. `problems` are those found while the layers were read.
pub(super) fn resolve(
    spec: &Spec,
    around: &Surroundings,
    figment: &Figment,
    problems: Vec<Problem>,
) -> Result<Configuration> {
    let mut layers = figment.data().map_err(|e| Error::config(e.to_string()))?;
    let root = layers.remove(&Profile::Default).unwrap_or_default();
    let start_dir = around.start_dir.as_path();
    let mut reader = Reader { figment, root, start_dir, problems, sources: SortedMap::new() };

    let settings = reader.settings(spec, around);
    let listeners = reader.listeners();
    reader.reject_inapplicable(spec);
    if reader.problems.is_empty() {
        reader.check_conflicts(&settings, &listeners);
    }
    let (app, untyped) = match reader.root.get("app").cloned() {
        Some(section) => app::section(figment, &section, &mut reader.sources, &mut reader.problems),
        None => (serde_json::json!({}), SortedSet::new()),
    };
    match reader.problems.is_empty() {
        true => {
            let of_attribute = spec.keys.iter().filter_map(|(path, _)| {
                let ["listen", name, ..] = path else { return None };
                let (_, origin) = listeners.get(*name)?;
                Some(((*name).to_owned(), origin.rank > Rank::Attribute))
            });
            let of_attribute = of_attribute.collect();
            let listen = listeners.into_iter().map(|(name, (listener, _))| (name, listener));
            let settings = Settings { listen: listen.collect(), ..settings };
            Ok(Configuration {
                settings,
                sources: reader.sources,
                of_attribute,
                app,
                untyped,
                secrets: Default::default(),
                environment: Vec::new(),
            })
        }
        false => Err(mistakes(&reader.problems)),
    }
}

/// Reads values one by one, and collects their sources and problems.
struct Reader<'a> {
    figment: &'a Figment,
    root: Dict,
    start_dir: &'a Path,
    problems: Vec<Problem>,
    sources: SortedMap<String, String>,
}

type Listeners = SortedMap<String, (ListenSettings, Origin)>;

impl Reader<'_> {
    fn find(&self, path: &[&str]) -> Option<(&Value, Origin)> {
        let (first, rest) = path.split_first()?;
        let value = rest
            .iter()
            .try_fold(self.root.get(*first)?, |value, part| value.as_dict()?.get(*part))?;
        Some((value, Origin::new(self.figment.get_metadata(value.tag()), path)))
    }

    /// Parses the value at `path`, and records its source or its problem under `key`.
    fn value(&mut self, path: &[&str], key: &str, kind: Kind) -> Option<schema::Value> {
        let Some((value, origin)) = self.find(path) else {
            self.sources.insert(key.to_owned(), "default".to_owned());
            return None;
        };
        let parsed = Raw { value, origin: &origin, start_dir: self.start_dir }.parse(kind);
        let (shown, source) = (shown(value), origin.source());
        let of = Subject::new(key, origin);
        let problem = match parsed {
            Ok(schema::Value::Choice(word)) if !is_built_in(key, word) => {
                Problem::Value { of, shown, error: ValueError::NoLogFeature }
            }
            Ok(value) => {
                self.sources.insert(key.to_owned(), source);
                return Some(value);
            }
            Err(ValueError::Schema(schema::Error::Empty)) => Problem::Empty(of),
            Err(error) => Problem::Value { of, shown, error },
        };
        self.problems.push(problem);
        None
    }

    fn get<T: TryFrom<schema::Value>>(&mut self, key: &str) -> Option<T> {
        let kind = schema::key(key)?.kind;
        self.value(&[key], key, kind)?.try_into().ok()
    }

    /// As `get`, for keys with a default in the table, which have a value unless there is a problem.
    fn some<T: TryFrom<schema::Value> + Default>(&mut self, key: &str) -> T {
        self.get(key).unwrap_or_default()
    }

    fn choice<T: FromJson>(&mut self, key: &str) -> Option<T> {
        let word: &'static str = self.get(key)?;
        T::read(word.into()).ok()
    }

    fn settings(&mut self, spec: &Spec, around: &Surroundings) -> Settings {
        let name = self.some::<String>("name");
        let dir = defaults::runtime_dir(around, &name);
        let runtime_dir = self.path_or("runtime_dir", dir);
        let pidfile = (runtime_dir.join(format!("{name}.pid")), "default".to_owned());
        let pidfile = self.path_or("pidfile", pidfile);
        let log: Option<PathBuf> = self.get("log");
        let detached_log =
            log.clone().unwrap_or_else(|| defaults::detached_log(around, &name, &runtime_dir));
        let source = match spec.graceful_restart {
            true => format!("attribute at {}", spec.location),
            false => "default".to_owned(),
        };
        self.sources.insert("graceful_restart".to_owned(), source);
        Settings {
            pidfile,
            runtime_dir,
            detach: self.some("detach"),
            graceful_restart: spec.graceful_restart,
            env_prefix: Prefix::of(spec).word().to_owned(),
            listen: SortedMap::new(),
            ready: self.choice("ready").unwrap_or(Ready::Auto),
            ready_timeout: self.some("ready_timeout"),
            drain_timeout: self.some("drain_timeout"),
            kill_timeout: self.some("kill_timeout"),
            lame_duck: self.some("lame_duck"),
            confirm_window: self.some("confirm_window"),
            exclusive: self.some("exclusive"),
            watchdog: self.get("watchdog").unwrap_or_default(),
            orphan_grace: self.some("orphan_grace"),
            handoff: self.some("handoff"),
            restart: self.choice("restart").unwrap_or(RestartPolicy::OnFailure),
            backoff_min: self.some("backoff_min"),
            backoff_max: self.some("backoff_max"),
            start_limit_burst: self.some("start_limit_burst"),
            start_limit_interval: self.some("start_limit_interval"),
            umask: self.get("umask"),
            workdir: self.get("workdir"),
            user: self.get("user"),
            group: self.get("group"),
            groups: self.get("groups"),
            chroot: self.get("chroot"),
            no_new_privileges: self.get("no_new_privileges"),
            capabilities: self.capabilities(),
            limits: self.limits(),
            oom_score_adj: self.get("oom_score_adj"),
            nice: self.get("nice"),
            log,
            log_mode: self.get("log_mode").unwrap_or(LOG_MODE),
            log_format: self.choice("log_format").unwrap_or_default(),
            log_level: self.choice("log_level").unwrap_or_default(),
            detached_log,
            env_file: self.env_files(),
            config: self.get("config"),
            exe: self.get("exe"),
            probe: self.get("probe"),
            name,
        }
    }

    fn limits(&mut self) -> SortedMap<String, Limit> {
        let mut limits = SortedMap::new();
        for name in LIMITS {
            let path = ["limits", name];
            if self.find(&path).is_some() {
                let limit = self.value(&path, &keys::join(&path), Kind::Limit);
                let limit = limit.and_then(|limit| limit.try_into().ok());
                limits.extend(limit.map(|limit| ((*name).to_owned(), limit)));
            }
        }
        limits
    }

    /// The capabilities, sorted.
    fn capabilities(&mut self) -> Option<Vec<String>> {
        let mut names: Vec<String> = self.get("capabilities")?;
        sort_few(&mut names, |a, b| a < b);
        names.dedup();
        Some(names)
    }

    fn env_files(&mut self) -> Option<Vec<EnvFile>> {
        let paths: Vec<String> = self.get("env_file")?;
        (!paths.is_empty()).then(|| paths.into_iter().map(EnvFile::from).collect())
    }

    fn path_or(&mut self, key: &str, (default, source): defaults::FoundDefault) -> PathBuf {
        match self.get(key) {
            Some(path) => path,
            None => {
                // Also if the value is wrong, when these settings are not used.
                self.sources.insert(key.to_owned(), source);
                default
            }
        }
    }

    /// Rejects keys that have no effect in this program.
    fn reject_inapplicable(&mut self, spec: &Spec) {
        let mut refused = Vec::new();
        let needs_supervisor = |key: &&schema::Key| key.needs == Needs::Supervisor;
        for key in KEYS.iter().filter(needs_supervisor).filter(|_| !spec.graceful_restart) {
            if let Some((_, origin)) =
                self.find(&[key.name]).filter(|(_, o)| o.rank > Rank::Default)
            {
                let of = Subject::new(key.name, origin);
                refused.push(Problem::NeedsSupervisor { of, location: spec.location });
            }
        }
        let listeners = self.root.get("listen").and_then(Value::as_dict);
        for name in listeners.into_iter().flat_map(|l| l.keys()).filter(|_| !spec.takes_daemon) {
            let mut set =
                LISTENER_FIELDS.iter().filter_map(|f| self.find(&["listen", name, f.name]));
            if let Some((_, origin)) = set.next() {
                let of = Subject::new(keys::join(&["listen", name]), origin);
                refused.push(Problem::NoDaemonArgument(of));
            }
        }
        self.problems.extend(refused);
    }

    /// Rejects values that contradict each other.
    fn check_conflicts(&mut self, settings: &Settings, listeners: &Listeners) {
        let source = |key: &str| self.sources.get(key).cloned().unwrap_or("default".to_owned());
        let of = |name: &str, origin: &Origin| {
            Subject::new(keys::join(&["listen", name]), origin.clone())
        };
        let mut found = Vec::new();
        if settings.backoff_min > settings.backoff_max {
            let min = (settings.backoff_min, source("backoff_min"));
            let max = (settings.backoff_max, source("backoff_max"));
            found.push(Problem::Backoff { min, max });
        }
        for (i, (name, (listener, origin))) in listeners.iter().enumerate() {
            for (other, (earlier, other_origin)) in listeners.iter().take(i) {
                if let Some(address) = listener.collides(earlier) {
                    let (one, other) = (of(other, other_origin), of(name, origin));
                    found.push(Problem::SameAddress { one, other, address });
                }
            }
            let probe = settings.probe.map(Address::Tcp);
            let addrs = listener.addrs();
            if let Some(address) = probe.filter(|probe| addrs.iter().any(|it| it.collides(probe))) {
                let (of, probe) = (of(name, origin), source("probe"));
                found.push(Problem::SameAddressAsProbe { of, probe, address });
            }
            if addrs.contains(&Address::Unix(settings.pidfile.clone())) {
                found.push(Problem::ListenerOnPidfile(settings.pidfile.clone()));
            }
        }
        self.problems.extend(found);
    }
}

/// Whether the program was built with what a word asks for.
fn is_built_in(key: &str, word: &str) -> bool {
    key != "log_format" || word == "none" || cfg!(feature = "log")
}
