use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::daemon::{TestDaemon, expect};
use crate::dir::TestDir;
use crate::error::{Error, Result};
use crate::process::MARK;
use crate::verb::Output;

/// Variables by which a service manager, or this library, starts a daemon. Those of the test's own process
/// are not meant for the program under test.
const NOT_INHERITED: [&str; 20] = [
    "CACHE_DIRECTORY",
    "CONFIGURATION_DIRECTORY",
    "CREDENTIALS_DIRECTORY",
    "FDSTORE",
    "INVOCATION_ID",
    "JOURNAL_STREAM",
    "LISTEN_FDNAMES",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_PIDFDID",
    "LOGS_DIRECTORY",
    "MAINPID",
    "MANAGERPID",
    "NOTIFY_SOCKET",
    "RUNTIME_DIRECTORY",
    "STATE_DIRECTORY",
    "SYSTEMD_EXEC_PID",
    "UNBROKEN_ROLE",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
];

/// Creates a builder for a daemon of the program at `path`, usually `env!("CARGO_BIN_EXE_<name>")`.
///
/// See [`Program`].
pub fn program(path: impl AsRef<Path>) -> Program {
    Program {
        path: path.as_ref().to_owned(),
        args: Vec::new(),
        env: Vec::new(),
        prefix: "DAEMON".into(),
        sets: Vec::new(),
        config: None,
        timeout: Duration::from_secs(90),
    }
}

/// A program under test and the settings of its daemon.
///
/// [`start`](Program::start) runs the verb `start` with a temporary directory as its `runtime_dir` and working
/// directory, in which are also its pidfile and its log. Each listener that the program declares gets a
/// free port of 127.0.0.1, or, where the program declares a unix socket, a path in that directory; so does
/// `probe`. Therefore tests run beside each other. Everything else is as the program declares it.
///
/// The daemon inherits the environment of the test, except for `DAEMON_*` and the variables of a service
/// manager.
///
/// # Examples
///
/// ```no_run
/// # let path = "";
/// // let path = env!("CARGO_BIN_EXE_hello");
/// let hello = unbroken_test::program(path)
///     .args(["--greeting", "hi"])
///     .env("DATABASE_URL", "sqlite::memory:")
///     .set("drain_timeout", "5s")
///     .config("[app]\nworkers = 2")
///     .start();
/// println!("{}", hello.url("http"));
/// ```
#[derive(Debug, Clone)]
#[must_use = "a program does nothing until it is started"]
pub struct Program {
    path: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, Option<OsString>)>,
    prefix: String,
    sets: Vec<(String, String)>,
    config: Option<String>,
    timeout: Duration,
}

impl Program {
    /// Adds an argument of the program itself.
    pub fn arg(self, arg: impl AsRef<OsStr>) -> Self {
        self.args([arg])
    }

    /// Adds arguments of the program itself.
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.as_ref().to_owned(), Some(value.as_ref().to_owned())));
        self
    }

    /// Removes an environment variable that the program would inherit from the test.
    pub fn env_remove(mut self, name: impl AsRef<OsStr>) -> Self {
        self.env.push((name.as_ref().to_owned(), None));
        self
    }

    /// Names the `env_prefix` of the program's attribute: the test's own variables with this prefix are not
    /// inherited, instead of those with `DAEMON_`.
    pub fn env_prefix(self, prefix: impl Into<String>) -> Self {
        Program { prefix: prefix.into(), ..self }
    }

    /// Sets a configuration key, as `--set key=value` does: `.set("drain_timeout", "5s")`.
    ///
    /// Also overrides what this crate sets: `.set("listen.http", "[::1]:0")`.
    pub fn set(mut self, key: impl Into<String>, value: impl ToString) -> Self {
        self.sets.push((key.into(), value.to_string()));
        self
    }

    /// Sets the content of the configuration file, instead of a file that the attribute names.
    pub fn config(self, toml: impl Into<String>) -> Self {
        Program { config: Some(toml.into()), ..self }
    }

    /// Sets the working directory, instead of the daemon's temporary directory.
    #[track_caller]
    pub fn current_dir(self, dir: impl AsRef<Path>) -> Self {
        let dir = dir.as_ref();
        match dir.to_str() {
            Some(text) => self.set("workdir", text),
            None => panic!("{} is not UTF-8", dir.display()),
        }
    }

    /// Sets the time that a verb, such as `restart`, may take. A verb that takes longer fails. Default: 90 s.
    pub fn timeout(self, timeout: Duration) -> Self {
        Program { timeout, ..self }
    }

    /// Starts the daemon; returns when it serves.
    ///
    /// # Panics
    ///
    /// If the start fails.
    #[track_caller]
    pub fn start(&self) -> TestDaemon {
        expect(self.try_start())
    }

    /// Starts the daemon; returns when it serves.
    ///
    /// # Errors
    ///
    /// What the program reports, if the start fails.
    pub fn try_start(&self) -> Result<TestDaemon> {
        let dir = TestDir::new()
            .map_err(|source| Error::io("cannot create a temporary directory", source))?;
        let mut place = Place { dir, options: Vec::new() };
        place.set("runtime_dir", &place.path("run"));
        place.set("pidfile", &place.path("run/daemon.pid"));
        let location = place.options.clone();
        place.set("log", &place.log());
        if !self.has_set("workdir") {
            place.options.extend(set("workdir", place.dir.path()));
        }
        if let Some(config) = &self.config {
            place.write_config(config)?;
            place.set("config", &place.config());
        }
        let own = self.sets.iter().map(|(key, value)| set(key, value));
        place.options.extend(own.flatten());
        let check: Vec<OsString> =
            ["--json".into()].into_iter().chain(place.options.clone()).collect();
        let declared = self.verb("check", &check, &place)?;
        for (key, value) in listeners(&declared, place.dir.path())? {
            if !self.has_set(&key) && !self.has_set(&format!("{key}.addr")) {
                place.options.extend(set(&key, &value));
            }
        }
        let daemon = TestDaemon::new(self.clone(), place, location);
        daemon.try_start()?;
        Ok(daemon)
    }

    /// Runs the verb `start`, with all options and the program's arguments.
    pub(crate) fn run_start(&self, place: &Place) -> Result<Output> {
        let mut options = place.options.clone();
        options.push("--".into());
        options.extend(self.args.iter().cloned());
        self.verb("start", &options, place)
    }

    /// Runs a verb.
    pub(crate) fn verb(&self, verb: &str, options: &[OsString], place: &Place) -> Result<Output> {
        let mut command = Command::new(&self.path);
        command.arg(verb).args(options).current_dir(place.dir.path());
        let prefix = format!("{}_", self.prefix);
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with(&prefix) || NOT_INHERITED.contains(&&*text) {
                command.env_remove(&name);
            }
        }
        for (name, value) in &self.env {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.env(MARK, place.dir.path());
        Output::of(&mut command, place.dir.path(), self.timeout)
    }

    pub(crate) fn has_config(&self) -> bool {
        self.config.is_some()
    }

    pub(crate) fn verb_timeout(&self) -> Duration {
        self.timeout
    }

    fn has_set(&self, key: &str) -> bool {
        self.sets.iter().any(|(own, _)| own == key)
    }
}

/// The directory of a daemon, and the options with which it is started.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) dir: TestDir,
    options: Vec<OsString>,
}

impl Place {
    pub(crate) fn log(&self) -> PathBuf {
        self.path("daemon.log")
    }

    pub(crate) fn write_config(&self, toml: &str) -> Result<()> {
        let path = self.config();
        fs::write(&path, toml)
            .map_err(|source| Error::io(format!("cannot write {}", path.display()), source))
    }

    fn config(&self) -> PathBuf {
        self.path("config.toml")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn set(&mut self, key: &str, value: &Path) {
        self.options.extend(set(key, value));
    }
}

fn set(key: &str, value: impl AsRef<OsStr>) -> [OsString; 2] {
    let mut option = OsString::from(format!("{key}="));
    option.push(value);
    ["--set".into(), option]
}

/// Returns the keys of the listeners that `check` shows, and of `probe`, each with an address for this test.
fn listeners(check: &Output, dir: &Path) -> Result<Vec<(String, String)>> {
    let Ok(Value::Object(keys)) = serde_json::from_str(&check.stdout) else {
        return Err(Error {
            command: check.command.clone(),
            code: Some(check.code),
            reason: check.stderr.trim().to_owned(),
            output: Vec::new(),
            source: None,
        });
    };
    let mut addresses = Vec::new();
    for (key, entry) in keys {
        let name = match key.strip_prefix("listen.") {
            Some(name) if !name.contains('.') => name,
            _ if key == "probe" && !entry["value"].is_null() => "probe",
            _ => continue,
        };
        let declared = match &entry["value"] {
            Value::Array(several) => several.iter().filter_map(Value::as_str).collect(),
            one => Vec::from_iter(one.as_str()),
        };
        let is_unix = |address: &&str| address.starts_with("unix:");
        let unix = format!("unix:{}", dir.join(format!("{name}.sock")).display());
        let mut own = Vec::new();
        if !declared.iter().all(is_unix) {
            own.push("127.0.0.1:0");
        }
        if declared.iter().any(is_unix) {
            own.push(&unix);
        }
        if !own.is_empty() {
            addresses.push((key, own.join(",")));
        }
    }
    Ok(addresses)
}
