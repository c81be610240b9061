//! A place to load configurations in, for tests.

use std::fs;
use std::path::PathBuf;

use tempfile::TempDir;

use crate::config::{Configuration, Surroundings};
use crate::program::NotConfiguring;
use crate::spec::{Flavor, Literal, Spec};

/// Keys as `listen.http.addr`.
pub(crate) type Keys = &'static [(&'static str, Literal)];

/// The same by their paths, as an attribute has them: for as long as the program lives.
fn paths(keys: Keys) -> &'static [(&'static [&'static str], Literal)] {
    let path =
        |key: &'static str| -> &'static [&'static str] { Vec::leak(key.split('.').collect()) };
    Vec::leak(keys.iter().map(|(key, literal)| (path(key), *literal)).collect())
}

/// A supervised program with a `Daemon`.
const SPEC: Spec = Spec {
    bin: Some("hello"),
    version: Some("1.2.3"),
    location: "src/main.rs:3",
    keys: &[],
    graceful_restart: true,
    takes_daemon: true,
    flavor: Flavor::MultiThread,
    worker_threads: None,
};

/// A place to load configurations in.
pub(crate) struct Place {
    pub(crate) dir: TempDir,
    pub(crate) spec: Spec,
    pub(crate) around: Surroundings,
}

impl Place {
    pub(crate) fn new(keys: Keys) -> Place {
        let dir = tempfile::tempdir().unwrap();
        let around = Surroundings {
            start_dir: dir.path().to_owned(),
            vars: vec![],
            uid: 1000,
            overrides: vec![],
            exe: "/usr/bin/hello".into(),
        };
        Place { dir, spec: Spec { keys: paths(keys), ..SPEC }, around }
    }

    pub(crate) fn solo(keys: Keys) -> Place {
        let mut place = Place::new(keys);
        place.spec.graceful_restart = false;
        place
    }

    pub(crate) fn var(mut self, name: &str, value: &str) -> Place {
        self.around.vars.push((name.into(), value.into()));
        self
    }

    pub(crate) fn set(mut self, text: &str) -> Place {
        self.around.overrides.push(text.into());
        self
    }

    /// A configuration file in `conf/`, named by `--set`.
    pub(crate) fn file(self, text: &str) -> Place {
        fs::create_dir_all(self.dir.path().join("conf")).unwrap();
        fs::write(self.path(), text).unwrap();
        self.set("config=conf/hello.toml")
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("conf/hello.toml")
    }

    pub(crate) fn load(&self) -> Configuration {
        Configuration::load(&self.spec, &self.around, &NotConfiguring).unwrap()
    }

    /// The error, with the file's path shortened to `FILE`.
    pub(crate) fn error(&self) -> String {
        let error = Configuration::load(&self.spec, &self.around, &NotConfiguring).unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::Config);
        self.short(&error.to_string())
    }

    pub(crate) fn short(&self, text: &str) -> String {
        text.replace(self.path().to_str().unwrap(), "FILE")
    }
}
