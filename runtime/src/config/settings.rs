//! The effective settings of all layers, typed, with the defaults filled in.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use unbroken_schema::{Address, Limit};

use super::addresses::Further;
use super::env::{EnvFile, Prefix};
pub(crate) use unbroken_core::policy::RestartPolicy;

use crate::json::{self, FromJson, ToJson};
use unbroken_core::sorted::SortedMap;

/// The effective settings of one generation.
///
/// They travel from a worker's *hello* to its supervisor and back in *welcome*, between releases that
/// may differ: unknown fields are ignored, and a field added later needs a default.
#[derive(Debug, Clone, PartialEq, ToJson, FromJson)]
pub(crate) struct Settings {
    /// Names runtime files and logs. Default: the binary's name.
    pub(crate) name: String,
    /// Absolute. Default: `<runtime_dir>/<name>.pid`.
    pub(crate) pidfile: PathBuf,
    /// Absolute. Default: see the configuration reference.
    pub(crate) runtime_dir: PathBuf,
    /// A plain invocation detaches. Default: `false`.
    pub(crate) detach: bool,
    /// Run under a supervisor. Decided by the attribute alone.
    pub(crate) graceful_restart: bool,
    /// The prefix of the configuration's variables. Decided by the attribute alone.
    /// Default: `DAEMON`.
    #[json(default = env_prefix)]
    pub(crate) env_prefix: String,
    /// The listeners, by name.
    pub(crate) listen: SortedMap<String, ListenSettings>,
    /// How a worker becomes ready. Default: `auto`.
    pub(crate) ready: Ready,
    /// Default: 60 s.
    #[json(with = duration_text)]
    pub(crate) ready_timeout: Duration,
    /// Default: 30 s.
    #[json(with = duration_text)]
    pub(crate) drain_timeout: Duration,
    /// Default: 5 s.
    #[json(with = duration_text)]
    pub(crate) kill_timeout: Duration,
    /// Keeps accepting for this long after a stop request, while it is not ready. Default: zero.
    #[json(default, with = duration_text)]
    pub(crate) lame_duck: Duration,
    /// Default: 2 s.
    #[json(with = duration_text)]
    pub(crate) confirm_window: Duration,
    /// The old worker exits before the new one's `main` begins. Default: false.
    #[json(default)]
    pub(crate) exclusive: bool,
    /// A worker whose runtime does not answer for this long is replaced. Default: zero, which is never.
    #[json(default, with = duration_text)]
    pub(crate) watchdog: Duration,
    /// A worker keeps serving for this long after its supervisor was killed. Default: zero, it drains at once.
    #[json(default, with = duration_text)]
    pub(crate) orphan_grace: Duration,
    /// At a restart idle HTTP connections go to the new worker. Default: `true`.
    #[json(default = yes)]
    pub(crate) handoff: bool,
    /// Whether an exit of a worker is followed by a respawn. Default: `on-failure`.
    pub(crate) restart: RestartPolicy,
    /// Default: 100 ms.
    #[json(with = duration_text)]
    pub(crate) backoff_min: Duration,
    /// Default: 30 s.
    #[json(with = duration_text)]
    pub(crate) backoff_max: Duration,
    /// Default: 5.
    pub(crate) start_limit_burst: u32,
    /// Default: 60 s.
    #[json(with = duration_text)]
    pub(crate) start_limit_interval: Duration,
    /// Default: inherited.
    pub(crate) umask: Option<u32>,
    /// Default: `/` when detached, else the starting directory.
    pub(crate) workdir: Option<PathBuf>,
    /// The worker's user: a name or a number. Default: the daemon's own.
    #[json(default)]
    pub(crate) user: Option<String>,
    /// Default: the user's group.
    #[json(default)]
    pub(crate) group: Option<String>,
    /// The worker's supplementary groups. Default: those of the user.
    #[json(default)]
    pub(crate) groups: Option<Vec<String>>,
    /// The worker's root directory. Default: that of the daemon.
    #[json(default)]
    pub(crate) chroot: Option<PathBuf>,
    /// Programs that the worker executes gain no privileges. Default: `true` with `user`.
    #[json(default)]
    pub(crate) no_new_privileges: Option<bool>,
    /// The capabilities that the worker keeps. Default: none with `user`, else all.
    #[json(default)]
    pub(crate) capabilities: Option<Vec<String>>,
    /// The worker's resource limits. Default: inherited.
    #[json(default)]
    pub(crate) limits: SortedMap<String, Limit>,
    /// Default: inherited.
    #[json(default)]
    pub(crate) oom_score_adj: Option<i32>,
    /// Default: inherited.
    #[json(default)]
    pub(crate) nice: Option<i32>,
    /// Where stdout and stderr go. Default: stderr in the foreground, a file when detached.
    pub(crate) log: Option<PathBuf>,
    /// Permissions of a log file that is made. Default: `0640`.
    #[json(default = log_mode)]
    pub(crate) log_mode: u32,
    /// How events are written. Default: `none`, which leaves it to the program.
    #[json(default)]
    pub(crate) log_format: LogFormat,
    /// Events below this level are not written. Default: `info`.
    #[json(default)]
    pub(crate) log_level: LogLevel,
    /// Where they go when detached: `log`, or the default, which needs an environment to be found.
    #[json(default)]
    pub(crate) detached_log: PathBuf,
    /// The files of variables that were read.
    #[json(default)]
    pub(crate) env_file: Option<Vec<EnvFile>>,
    /// The configuration file that was read, if any.
    pub(crate) config: Option<PathBuf>,
    /// The image of the next generation. Default: the path the program was started by.
    pub(crate) exe: Option<PathBuf>,
    /// Where probes are answered by HTTP. Default: nowhere.
    #[json(default)]
    pub(crate) probe: Option<SocketAddr>,
}

impl Settings {
    /// The prefix of the configuration's variables.
    pub(crate) fn prefix(&self) -> Prefix<'_> {
        Prefix::new(&self.env_prefix)
    }

    /// As they are recorded, to look a value up by its key.
    pub(crate) fn json(&self) -> Value {
        json::to_value(self).unwrap_or_default()
    }

    /// The file that stdout and stderr go to; `None` where they stay.
    pub(crate) fn log_path(&self, detached: bool) -> Option<&Path> {
        match &self.log {
            Some(log) => Some(log),
            None => detached.then_some(&self.detached_log),
        }
    }
}

/// One declared listener.
#[derive(Debug, Clone, PartialEq, Eq, ToJson, FromJson)]
pub(crate) struct ListenSettings {
    /// Where it listens.
    pub(crate) addr: Address,
    /// Its further addresses.
    #[json(default)]
    pub(crate) further: Further,
    /// Connections the kernel queues (capped by `net.core.somaxconn`). Default: 4096.
    pub(crate) backlog: u32,
    /// Permissions of a unix socket. Default: as the umask says.
    pub(crate) mode: Option<u32>,
    /// Owner of a unix socket: a name or a number.
    pub(crate) user: Option<String>,
    /// Group of a unix socket: a name or a number.
    pub(crate) group: Option<String>,
    /// Whether `[::]` refuses IPv4. Default: `true` (`IPV6_V6ONLY`, ipv6(7)).
    pub(crate) v6only: bool,
    /// The limits of an HTTP server on it.
    #[json(default)]
    pub(crate) http: HttpSettings,
}

/// The limits of an HTTP server on a listener. A duration of zero is none.
#[derive(Debug, Clone, PartialEq, Eq, ToJson, FromJson)]
#[json(default)]
pub(crate) struct HttpSettings {
    /// Time for the head of a request. Default: 30 s.
    #[json(with = duration_text)]
    pub(crate) header_timeout: Duration,
    /// A connection without a request for this long is closed. Default: 75 s.
    #[json(with = duration_text)]
    pub(crate) idle_timeout: Duration,
    /// Silence after which TCP asks whether the client is there. Default: 60 s.
    #[json(with = duration_text)]
    pub(crate) tcp_keepalive: Duration,
    /// Open connections of a worker, above which accepting waits. Default: no limit.
    pub(crate) max_connections: Option<u32>,
    /// Size of the head of a request. Default: 64 KiB.
    pub(crate) max_header_bytes: u32,
    /// An older connection ends with its next response. Default: zero.
    #[json(with = duration_text)]
    pub(crate) max_connection_age: Duration,
    /// Streams that a client of HTTP/2 may have open at once. Default: 200.
    pub(crate) http2_max_streams: u32,
    /// How often a client of HTTP/2 is pinged. Default: zero.
    #[json(with = duration_text)]
    pub(crate) http2_keepalive: Duration,
}

impl Default for HttpSettings {
    fn default() -> HttpSettings {
        HttpSettings {
            header_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(75),
            tcp_keepalive: Duration::from_secs(60),
            max_connections: None,
            max_header_bytes: 64 * 1024,
            max_connection_age: Duration::ZERO,
            http2_max_streams: 200,
            http2_keepalive: Duration::ZERO,
        }
    }
}

/// How a worker becomes ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ToJson, FromJson)]
#[json(rename_all = "kebab-case")]
pub(crate) enum Ready {
    /// When every declared listener has been polled for accept; at once if none is declared.
    Auto,
    /// When the program calls `Daemon::ready`.
    Manual,
}

/// Permissions of a log file, by default.
pub(crate) const LOG_MODE: u32 = 0o640;

/// How events are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ToJson, FromJson)]
#[json(rename_all = "kebab-case")]
pub(crate) enum LogFormat {
    /// The program's only by a subscriber that it installs; the daemon's own as plain lines.
    #[default]
    None,
    /// Lines for people.
    Text,
    /// An object a line.
    Json,
    /// To the journal, field by field.
    Journald,
    /// To the journal where stderr is connected to it, else text on a terminal, else JSON.
    Auto,
}

/// How grave an event is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, ToJson, FromJson)]
#[json(rename_all = "kebab-case")]
pub(crate) enum LogLevel {
    Error,
    Warn,
    #[default]
    Info,
    Debug,
    Trace,
}

fn log_mode() -> u32 {
    LOG_MODE
}

fn env_prefix() -> String {
    unbroken_schema::DEFAULT_PREFIX.to_owned()
}

fn yes() -> bool {
    true
}

/// Durations as people write them: `30s`, `1m 30s`.
mod duration_text {
    use std::time::Duration;

    use serde_json::Value;
    use unbroken_schema::duration;

    use crate::json::{FromJson, Mistake, Writer};

    pub(super) fn write(duration: &Duration, out: &mut Writer) {
        out.text(&duration::format(*duration));
    }

    pub(super) fn read(value: Value) -> Result<Duration, Mistake> {
        let text = String::read(value)?;
        let duration = duration::parse(&text).map_err(|error| Mistake::new(error.to_string()))?;
        // From another process: a deadline that overflows would take this one down.
        if duration > duration::LONGEST {
            return Err(Mistake::new(format!("{text} is longer than 365days")));
        }
        Ok(duration)
    }
}
