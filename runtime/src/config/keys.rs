//! The table of keys: what may be configured, what holds without, and what it means.

use std::net::{IpAddr, SocketAddr};

/// A configuration key, outside of `listen` and `app`.
#[derive(Debug)]
pub(crate) struct Key {
    /// As the attribute, the file and `--set` write it.
    pub(crate) name: &'static str,
    /// What its value is.
    pub(crate) kind: Kind,
    /// What holds when no layer says anything.
    pub(crate) fallback: Fallback,
    /// One line for people.
    pub(crate) meaning: &'static str,
    /// Whether it means nothing in a solo daemon.
    pub(crate) supervised: bool,
}

/// What the value of a key is. One parser each, and the words for what is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The daemon's name.
    Name,
    /// `true` or `false`.
    Bool,
    /// `30s`, `1m 30s`.
    Duration,
    /// A whole number that is not negative.
    Count,
    /// Permission bits, in octal.
    Mode,
    /// A path, relative to the file that names it or to the starting directory.
    Path,
    /// `auto` or `manual`.
    Ready,
    /// `no`, `on-failure` or `always`.
    Restart,
    /// A literal address.
    Address,
    /// An address and a port.
    Socket,
    /// A user or group: a name or a number.
    Account,
    /// Several of them.
    Accounts,
    /// Files of variables; with `-` before one that may be missing.
    EnvFiles,
    /// Names of capabilities.
    Capabilities,
    /// A resource limit.
    Limit,
    /// A whole number that may be negative.
    Integer,
    /// `none`, `text`, `json`, `journald` or `auto`.
    LogFormat,
    /// `error`, `warn`, `info`, `debug` or `trace`.
    LogLevel,
}

/// What holds when no layer sets a key.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fallback {
    /// This value, in the text form of the key's kind.
    Value(&'static str),
    /// A value found at start.
    Computed(&'static str),
    /// No value; this is what happens then.
    Absent(&'static str),
}

use Fallback::{Absent, Computed, Value};

/// Every key outside of `listen` and `app`, in the order of `check`.
pub(crate) const KEYS: &[Key] = &[
    solo("name", Kind::Name, Computed("the binary's name"), "names runtime files and logs"),
    solo("config", Kind::Path, Absent("none"), "the configuration file"),
    solo("env_file", Kind::EnvFiles, Absent("none"), "variables, read by each generation"),
    solo("runtime_dir", Kind::Path, Computed("found at start"), "holds pidfile and control socket"),
    solo("pidfile", Kind::Path, Computed("<runtime_dir>/<name>.pid"), "locked as long as it runs"),
    solo("detach", Kind::Bool, Value("false"), "a plain invocation detaches"),
    solo("ready", Kind::Ready, Value("auto"), "how a worker becomes ready"),
    solo("ready_timeout", Kind::Duration, Value("60s"), "a worker not ready by then has failed"),
    solo("drain_timeout", Kind::Duration, Value("30s"), "time to finish what is in flight"),
    solo("kill_timeout", Kind::Duration, Value("5s"), "time between SIGTERM and SIGKILL"),
    solo("lame_duck", Kind::Duration, Value("0s"), "how long it accepts on when told to stop"),
    supervised("confirm_window", Kind::Duration, "2s", "how long a new generation can be undone"),
    supervised("exclusive", Kind::Bool, "false", "the old worker is gone before the new begins"),
    Key {
        name: "watchdog",
        kind: Kind::Duration,
        fallback: Absent("off"),
        meaning: "a worker that does not answer for so long is replaced",
        supervised: true,
    },
    supervised(
        "orphan_grace",
        Kind::Duration,
        "0s",
        "how long workers serve on after their supervisor was killed",
    ),
    supervised("pass_connections", Kind::Bool, "true", "idle connections go to the new worker"),
    supervised("restart", Kind::Restart, "on-failure", "what the exit of a worker leads to"),
    supervised("backoff_min", Kind::Duration, "100ms", "first pause before a respawn"),
    supervised("backoff_max", Kind::Duration, "30s", "longest pause before a respawn"),
    supervised(
        "start_limit_burst",
        Kind::Count,
        "5",
        "respawns within the interval, past which it gives up",
    ),
    supervised("start_limit_interval", Kind::Duration, "60s", "the interval of start_limit_burst"),
    solo("umask", Kind::Mode, Absent("inherited"), "the worker's umask"),
    solo(
        "workdir",
        Kind::Path,
        Absent("/ when detached, else the starting directory"),
        "the worker's directory",
    ),
    solo("user", Kind::Account, Absent("the daemon's own"), "whom the worker runs as"),
    solo("group", Kind::Account, Absent("that of the user"), "the worker's group"),
    solo("groups", Kind::Accounts, Absent("those of the user"), "its supplementary groups"),
    solo("chroot", Kind::Path, Absent("none"), "the worker's root directory"),
    solo(
        "no_new_privileges",
        Kind::Bool,
        Absent("true with a user, else false"),
        "no program that it executes gains privileges",
    ),
    solo(
        "capabilities",
        Kind::Capabilities,
        Absent("none with a user, else all"),
        "what it keeps of root's privileges",
    ),
    solo("oom_score_adj", Kind::Integer, Absent("inherited"), "who is killed when memory is short"),
    solo("nice", Kind::Integer, Absent("inherited"), "the worker's share of the processors"),
    solo(
        "log",
        Kind::Path,
        Absent("stderr; when detached <name>.log"),
        "where stdout and stderr go",
    ),
    solo("log_mode", Kind::Mode, Value("0640"), "permissions of a log file that is made"),
    solo("log_format", Kind::LogFormat, Value("none"), "how events are written"),
    solo("log_level", Kind::LogLevel, Value("info"), "events below are not written"),
    Key {
        name: "exe",
        kind: Kind::Path,
        fallback: Absent("the path of start"),
        meaning: "the image of the next generation",
        supervised: true,
    },
    solo("probe", Kind::Socket, Absent("none"), "answers /livez, /readyz and /startupz"),
];

/// The resource limits that `limits.<name>` knows, by their names in getrlimit(2).
pub(crate) const LIMITS: &[&str] = &[
    "as",
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// What each of them is.
const LIMIT: Key =
    solo("<name>", Kind::Limit, Absent("inherited"), "a resource limit of the worker");

/// The fields of a listener. A plain string is its `addr`.
pub(crate) const LISTEN_FIELDS: &[Key] = &[
    solo("addr", Kind::Address, Computed("required"), "where it listens"),
    solo("backlog", Kind::Count, Value("4096"), "connections the kernel queues"),
    solo("mode", Kind::Mode, Absent("as the umask says"), "permissions of a unix socket"),
    solo("user", Kind::Account, Absent("the daemon's own"), "owner of a unix socket"),
    solo("group", Kind::Account, Absent("the daemon's own"), "group of a unix socket"),
    solo("v6only", Kind::Bool, Value("true"), "whether [::] refuses IPv4"),
    solo("header_timeout", Kind::Duration, Value("30s"), "time for the head of an HTTP request"),
    solo("idle_timeout", Kind::Duration, Value("75s"), "an HTTP connection idle for so long ends"),
    solo("tcp_keepalive", Kind::Duration, Value("60s"), "silence after which TCP probes a client"),
    solo("max_connections", Kind::Count, Absent("no limit"), "above it accepting HTTP waits"),
    solo("max_header_bytes", Kind::Count, Value("65536"), "size of the head of an HTTP request"),
    solo(
        "max_connection_age",
        Kind::Duration,
        Absent("no limit"),
        "an older HTTP connection ends with its next response",
    ),
    solo("http2_max_streams", Kind::Count, Value("200"), "requests at once on one connection"),
    solo("http2_keepalive", Kind::Duration, Absent("off"), "how often HTTP/2 clients are pinged"),
];

/// Those of them that an HTTP server heeds.
pub(crate) const HTTP_FIELDS: &[&str] = &[
    "header_timeout",
    "idle_timeout",
    "tcp_keepalive",
    "max_connections",
    "max_header_bytes",
    "max_connection_age",
    "http2_max_streams",
    "http2_keepalive",
];

/// Keys that shape the program itself, and so are the attribute's alone.
pub(crate) const ATTRIBUTE_ONLY: &[&str] =
    &["graceful_restart", "env_prefix", "flavor", "worker_threads", "crate"];

/// The keys for people: name, default, kind and meaning, one per line.
pub(crate) fn reference() -> String {
    let default = |key: &Key| match key.fallback {
        Value(text) | Computed(text) | Absent(text) => text.to_owned(),
    };
    let listen = LISTEN_FIELDS.iter().map(|key| (format!("listen.<name>.{}", key.name), key));
    let limit = [("limits.<name>".to_owned(), &LIMIT)];
    let all = KEYS.iter().map(|key| (key.name.to_owned(), key)).chain(limit).chain(listen);
    all.map(|(name, key)| {
        let note = if key.supervised { " (with graceful_restart)" } else { "" };
        format!(
            "{name:<22} {}: {}; default: {}{note}\n",
            key.meaning,
            key.kind.words(),
            default(key)
        )
    })
    .collect()
}

impl Kind {
    fn words(self) -> &'static str {
        match self {
            Kind::Name => "text",
            Kind::Bool => "true or false",
            Kind::Duration => "a duration such as \"30s\"",
            Kind::Count => "a whole number",
            Kind::Mode => "an octal mode",
            Kind::Path => "a path",
            Kind::Ready => "auto or manual",
            Kind::Restart => "no, on-failure or always",
            Kind::Address => "a literal address",
            Kind::Socket => "an address and a port",
            Kind::Account => "a name or a number",
            Kind::Accounts => "names or numbers",
            Kind::EnvFiles => "paths",
            Kind::Capabilities => "names of capabilities",
            Kind::Limit => "a limit such as \"1024:4096\"",
            Kind::Integer => "a number, also below 0",
            Kind::LogFormat => "none, text, json, journald or auto",
            Kind::LogLevel => "error, warn, info, debug or trace",
        }
    }
}

const fn solo(name: &'static str, kind: Kind, fallback: Fallback, meaning: &'static str) -> Key {
    Key { name, kind, fallback, meaning, supervised: false }
}

const fn supervised(
    name: &'static str,
    kind: Kind,
    value: &'static str,
    meaning: &'static str,
) -> Key {
    Key { name, kind, fallback: Value(value), meaning, supervised: true }
}

/// The key of this name.
pub(crate) fn key(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|k| k.name == name)
}

/// The listener's field of this name.
pub(crate) fn listen_field(name: &str) -> Option<&'static Key> {
    LISTEN_FIELDS.iter().find(|k| k.name == name)
}

/// What an address might be looked for under, which is a listener's.
const ADDRESS_WORDS: [&str; 8] =
    ["addr", "address", "bind", "host", "hostname", "listen_addr", "listen_address", "port"];

/// Whether a key that there is not was probably meant to say where to listen.
pub(super) fn is_address_word(key: &str) -> bool {
    ADDRESS_WORDS.contains(&key)
}

/// The address that stands for what was written under such a key.
pub(super) fn suggested_address(written: &str) -> String {
    let written = written.trim();
    let port = written.strip_prefix(':').unwrap_or(written).parse::<u16>();
    match (port, written.parse::<IpAddr>(), written.parse::<SocketAddr>()) {
        (Ok(port), ..) => format!("0.0.0.0:{port}"),
        (_, Ok(ip), _) => SocketAddr::new(ip, 8080).to_string(),
        (.., Ok(address)) => address.to_string(),
        _ => "0.0.0.0:8080".into(),
    }
}

/// What stands for a listener's name: `[a-z0-9][a-z0-9_-]*`, short enough for a file name.
pub(super) fn is_listener_name(name: &str) -> bool {
    let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    name.len() <= 64
        && name.bytes().next().is_some_and(word)
        && name.bytes().all(|b| word(b) || b == b'_' || b == b'-')
}

/// The candidate that `word` was probably meant to be: a slip away, or what it is the beginning of.
pub(crate) fn nearest<S: AsRef<str>>(
    word: &str,
    candidates: impl IntoIterator<Item = S>,
) -> Option<S> {
    let measured = candidates.into_iter().filter_map(|candidate| {
        let text = candidate.as_ref();
        let distance = strsim::damerau_levenshtein(word, text);
        let slip = distance <= (text.chars().count() / 3).max(1);
        let begins = word.len() >= 3 && text.starts_with(word);
        (slip || begins).then_some(((!slip, distance), candidate))
    });
    measured.min_by_key(|(rank, _)| *rank).map(|(_, candidate)| candidate)
}

/// A key path as TOML writes it: dots between, quotes around what is not a bare key.
pub(super) fn join<S: AsRef<str>>(path: &[S]) -> String {
    path.iter().fold(String::new(), |joined, part| child(&joined, part.as_ref()))
}

/// The path of `part` under `parent`.
pub(super) fn child(parent: &str, part: &str) -> String {
    let bare = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    let part = match !part.is_empty() && part.bytes().all(bare) {
        true => part.to_owned(),
        false => format!("{part:?}"),
    };
    if parent.is_empty() { part } else { format!("{parent}.{part}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_unique_and_can_be_variables() {
        for (i, key) in KEYS.iter().enumerate() {
            assert!(key.name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{}", key.name);
            assert!(KEYS[..i].iter().all(|other| other.name != key.name), "{}", key.name);
            assert!(!key.name.starts_with("listen") && !key.name.starts_with("app"));
            assert!(!key.name.starts_with("limits"));
            assert!(!key.name.starts_with("port") && !key.name.starts_with("service"));
            assert!(!key.meaning.is_empty());
        }
    }

    #[test]
    fn the_reference_has_a_line_for_each_key() {
        let text = reference();
        assert_eq!(text.lines().count(), KEYS.len() + 1 + LISTEN_FIELDS.len());
        let line = "drain_timeout          time to finish what is in flight: a duration such as \"30s\"; default: 30s";
        assert!(text.lines().any(|l| l == line), "{text}");
    }

    #[test]
    fn listener_names() {
        for name in ["http", "my-api", "a_b", "0"] {
            assert!(is_listener_name(name), "{name}");
        }
        for name in ["", "-a", "_a", "Http", "a b", "a.b", "ä", &"a".repeat(65)] {
            assert!(!is_listener_name(name), "{name}");
        }
    }

    #[test]
    fn nearest_is_near_or_a_beginning() {
        let names = || KEYS.iter().map(|k| k.name);
        assert_eq!(nearest("drain_timout", names()), Some("drain_timeout"));
        assert_eq!(nearest("backof_min", names()), Some("backoff_min"));
        assert_eq!(nearest("xyzzy", names()), None);
        assert_eq!(nearest("", names()), None);
        assert_eq!(nearest("start_limit_b", names()), Some("start_limit_burst"));
    }

    #[test]
    fn paths_are_quoted_as_in_toml() {
        assert_eq!(join(&["app", "db", "pool"]), "app.db.pool");
        assert_eq!(join(&["app", "a.b", ""]), r#"app."a.b"."""#);
    }
}
