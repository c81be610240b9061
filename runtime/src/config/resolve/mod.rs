//! The merged layers to settings: types, defaults, and what does not go together.

mod listeners;

use std::path::{Path, PathBuf};

use figment::value::{Dict, Value};
use figment::{Figment, Profile, Provider};

use super::origin::{Origin, Rank};
use super::values::{Raw, shown};
use super::{
    Address, Configuration, LOG_MODE, Limit, ListenSettings, Prefix, Ready, RestartPolicy,
    Settings, Surroundings, app, defaults, keys, mistakes, values,
};
use crate::error::{Error, Result};
use crate::spec::Spec;
use unbroken_core::sorted::SortedMap;

/// The configuration that the merged layers amount to. `problems`: what is already known to be wrong.
pub(super) fn resolve(
    spec: &Spec,
    around: &Surroundings,
    figment: &Figment,
    problems: Vec<String>,
) -> Result<Configuration> {
    let mut layers = figment.data().map_err(|e| Error::config(e.to_string()))?;
    let root = layers.remove(&Profile::Default).unwrap_or_default();
    let start_dir = around.start_dir.as_path();
    let mut reader = Reader { figment, root, start_dir, problems, sources: SortedMap::new() };

    let settings = reader.settings(spec, around);
    let listeners = reader.listeners();
    reader.refuse_what_cannot_apply(spec);
    if reader.problems.is_empty() {
        reader.combinations(&settings, &listeners);
    }
    let app = match reader.root.get("app").cloned() {
        Some(section) => app::section(figment, &section, &mut reader.sources, &mut reader.problems),
        None => serde_json::json!({}),
    };
    match reader.problems.is_empty() {
        true => {
            let of_attribute = spec.keys.iter().filter_map(|(key, _)| {
                let name = key.strip_prefix("listen.")?.split('.').next()?;
                let (_, origin) = listeners.get(name)?;
                Some((name.to_owned(), origin.rank > Rank::Attribute))
            });
            let of_attribute = of_attribute.collect();
            let listen = listeners.into_iter().map(|(name, (listener, _))| (name, listener));
            let settings = Settings { listen: listen.collect(), ..settings };
            Ok(Configuration {
                settings,
                sources: reader.sources,
                of_attribute,
                app,
                secrets: Default::default(),
                environment: Vec::new(),
            })
        }
        false => Err(mistakes(reader.problems)),
    }
}

/// Reads values one by one, and keeps their sources and what is wrong with them.
struct Reader<'a> {
    figment: &'a Figment,
    root: Dict,
    start_dir: &'a Path,
    problems: Vec<String>,
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

    /// The value at `path`, known as `key`, read by `parse`.
    fn read<T>(
        &mut self,
        path: &[&str],
        key: &str,
        parse: impl Fn(&Raw<'_>) -> Result<T, String>,
    ) -> Option<T> {
        let mut parsed = None;
        self.read_by(path, key, &mut |raw| {
            parsed = Some(parse(raw)?);
            Ok(())
        });
        parsed
    }

    /// As `read`, for any type.
    fn read_by(
        &mut self,
        path: &[&str],
        key: &str,
        parse: &mut dyn FnMut(&Raw<'_>) -> Result<(), String>,
    ) {
        let read = self.find(path).map(|(value, origin)| {
            let (of, removal) = (origin.of(key), origin.removal());
            if value.as_str() == Some("") {
                return Err(format!("{of} is empty: {removal}, or give it a value"));
            }
            parse(&Raw { value, origin: &origin, start_dir: self.start_dir })
                .map(|()| origin.source())
                .map_err(|expected| format!("{of} is {}: {expected}", shown(value)))
        });
        match read.unwrap_or_else(|| Ok("default".to_owned())) {
            Ok(source) => {
                self.sources.insert(key.to_owned(), source);
            }
            Err(problem) => self.problems.push(problem),
        }
    }

    fn get<T>(&mut self, key: &str, parse: impl Fn(&Raw<'_>) -> Result<T, String>) -> Option<T> {
        self.read(&[key], key, parse)
    }

    /// As `get`, for keys that the table gives a default: without a value there is a problem.
    fn some<T: Default>(&mut self, key: &str, parse: impl Fn(&Raw<'_>) -> Result<T, String>) -> T {
        self.get(key, parse).unwrap_or_default()
    }

    fn settings(&mut self, spec: &Spec, around: &Surroundings) -> Settings {
        let name = self.some("name", values::name);
        let dir = defaults::runtime_dir(around, &name);
        let runtime_dir = self.path_or("runtime_dir", dir);
        let pidfile = (runtime_dir.join(format!("{name}.pid")), "default".to_owned());
        let pidfile = self.path_or("pidfile", pidfile);
        let log = self.get("log", values::path);
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
            detach: self.some("detach", values::flag),
            graceful_restart: spec.graceful_restart,
            env_prefix: Prefix::of(spec).word().to_owned(),
            listen: SortedMap::new(),
            ready: self.get("ready", values::ready).unwrap_or(Ready::Auto),
            ready_timeout: self.some("ready_timeout", values::positive_duration),
            drain_timeout: self.some("drain_timeout", values::duration),
            kill_timeout: self.some("kill_timeout", values::duration),
            lame_duck: self.some("lame_duck", values::duration),
            confirm_window: self.some("confirm_window", values::duration),
            exclusive: self.some("exclusive", values::flag),
            watchdog: self.get("watchdog", values::duration).unwrap_or_default(),
            orphan_grace: self.some("orphan_grace", values::duration),
            pass_connections: self.some("pass_connections", values::flag),
            restart: self.get("restart", values::restart).unwrap_or(RestartPolicy::OnFailure),
            backoff_min: self.some("backoff_min", values::duration),
            backoff_max: self.some("backoff_max", values::duration),
            start_limit_burst: self.some("start_limit_burst", |raw| values::count(raw, u32::MAX)),
            start_limit_interval: self.some("start_limit_interval", values::duration),
            umask: self.get("umask", values::mode),
            workdir: self.get("workdir", values::path),
            user: self.get("user", values::account),
            group: self.get("group", values::account),
            groups: self.get("groups", values::accounts),
            chroot: self.get("chroot", values::path),
            no_new_privileges: self.get("no_new_privileges", values::flag),
            capabilities: self.get("capabilities", values::capabilities),
            limits: self.limits(),
            oom_score_adj: self.get("oom_score_adj", |raw| values::within(raw, -1000, 1000)),
            nice: self.get("nice", |raw| values::within(raw, -20, 19)),
            log,
            log_mode: self.get("log_mode", values::mode).unwrap_or(LOG_MODE),
            log_format: self.some("log_format", values::log_format),
            log_level: self.some("log_level", values::log_level),
            detached_log,
            env_file: self.get("env_file", values::env_files).filter(|files| !files.is_empty()),
            config: self.get("config", values::path),
            exe: self.get("exe", values::path),
            probe: self.get("probe", values::socket),
            name,
        }
    }

    fn limits(&mut self) -> SortedMap<String, Limit> {
        let mut limits = SortedMap::new();
        for name in keys::LIMITS {
            let path = ["limits", name];
            if self.find(&path).is_some() {
                let limit = self.read(&path, &keys::join(&path), values::limit);
                limits.extend(limit.map(|limit| ((*name).to_owned(), limit)));
            }
        }
        limits
    }

    fn path_or(&mut self, key: &str, (default, source): defaults::Found) -> PathBuf {
        match self.get(key, values::path) {
            Some(path) => path,
            None => {
                // Also when the value is wrong: then nothing of this is used.
                self.sources.insert(key.to_owned(), source);
                default
            }
        }
    }

    /// Keys that this program has no use for.
    fn refuse_what_cannot_apply(&mut self, spec: &Spec) {
        let mut refused = Vec::new();
        for key in keys::KEYS.iter().filter(|k| k.supervised && !spec.graceful_restart) {
            if let Some((_, origin)) =
                self.find(&[key.name]).filter(|(_, o)| o.rank > Rank::Default)
            {
                refused.push(format!(
                    "{} needs a supervisor: {}, or add graceful_restart to the attribute at {}",
                    origin.of(key.name),
                    origin.removal(),
                    spec.location
                ));
            }
        }
        let listeners = self.root.get("listen").and_then(Value::as_dict);
        for name in listeners.into_iter().flat_map(|l| l.keys()).filter(|_| !spec.takes_daemon) {
            let key = keys::join(&["listen", name]);
            let fields = keys::LISTEN_FIELDS.iter();
            let set = fields.filter_map(|f| self.find(&["listen", name, f.name])).next();
            let (of, removal) = match set {
                Some((_, origin)) => (origin.of(&key), origin.removal()),
                None => (format!("`{key}`"), "remove it"),
            };
            refused.push(format!(
                "{of}: this program has no listeners, as its main takes no `Daemon`: {removal}"
            ));
        }
        self.problems.extend(refused);
    }

    /// Values that are well by themselves and wrong together.
    fn combinations(&mut self, settings: &Settings, listeners: &Listeners) {
        if settings.backoff_min > settings.backoff_max {
            let source = |key: &str| self.sources.get(key).map_or("default", String::as_str);
            self.problems.push(format!(
                "`backoff_min` ({}, {}) is longer than `backoff_max` ({}, {}): \
                it is where the pauses begin",
                humantime::format_duration(settings.backoff_min),
                source("backoff_min"),
                humantime::format_duration(settings.backoff_max),
                source("backoff_max"),
            ));
        }
        for (i, (name, (listener, origin))) in listeners.iter().enumerate() {
            for (other, (earlier, other_origin)) in listeners.iter().take(i) {
                if let Some(addr) = listener.collides(earlier) {
                    self.problems.push(format!(
                        "{} and {} have one address, {}: change one",
                        other_origin.of(&keys::join(&["listen", other])),
                        origin.of(&keys::join(&["listen", name])),
                        addr
                    ));
                }
            }
        }
        if let Some(probe) = settings.probe {
            for (name, (listener, origin)) in listeners {
                if listener.addrs().iter().any(|addr| addr.collides(&Address::Tcp(probe))) {
                    let of = origin.of(&keys::join(&["listen", name]));
                    let source = self.sources.get("probe").map_or("default", String::as_str);
                    self.problems.push(format!(
                        "{of} and `probe` ({source}) have one address, {probe}: change one"
                    ));
                }
            }
        }
        let taken = |path: &Path| {
            let mut addrs = listeners.values().flat_map(|(listener, _)| listener.addrs());
            addrs.any(|addr| matches!(addr, Address::Unix(at) if at == path))
        };
        if taken(&settings.pidfile) {
            let pidfile = settings.pidfile.display();
            self.problems
                .push(format!("a listener has the path of the pidfile, {pidfile}: change one"));
        }
    }
}
