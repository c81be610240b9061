//! The tables of keys: what may be configured, what holds by default, and what it means.

use crate::kind::Kind;

/// A configuration key.
#[derive(Debug)]
pub struct Key {
    /// The name in the attribute, the file and `--set`.
    pub name: &'static str,
    /// What its value is.
    pub kind: Kind,
    /// What holds when no layer sets it.
    pub default: Fallback,
    /// Without what it has no effect.
    pub needs: Needs,
    /// Its meaning, in one line.
    pub meaning: &'static str,
}

/// What holds when no layer sets a key.
#[derive(Debug, Clone, Copy)]
pub enum Fallback {
    /// This value, in the text form of the key's kind.
    Value(&'static str),
    /// A value found at start.
    Computed(&'static str),
    /// No value; this is what happens then.
    Absent(&'static str),
}

/// Without what a key has no effect, which makes it a mistake to set it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// It always has an effect.
    Nothing,
    /// A supervisor: `graceful_restart`.
    Supervisor,
    /// An async `main`.
    Async,
    /// A listener on a unix socket.
    UnixSocket,
    /// A listener on an IPv6 address.
    Ipv6,
    /// A listener on TCP.
    Tcp,
}

use Fallback::{Absent, Computed, Value};

/// The largest backlog: listen(2) takes an `int`, which the kernel caps at `net.core.somaxconn`.
const BACKLOG_MAX: u32 = i32::MAX as u32;

/// The keys outside of `listen`, `limits` and `app`, in the order of `check`.
pub const KEYS: &[Key] = &[
    key_of("name", Kind::Name, Computed("the binary's name"), "names runtime files and logs"),
    key_of("config", Kind::Path, Absent("none"), "the configuration file"),
    key_of("env_file", Kind::Paths, Absent("none"), "variables, read by each generation"),
    key_of(
        "runtime_dir",
        Kind::Path,
        Computed("found at start"),
        "holds pidfile and control socket",
    ),
    key_of(
        "pidfile",
        Kind::Path,
        Computed("<runtime_dir>/<name>.pid"),
        "locked as long as it runs",
    ),
    key_of("detach", Kind::Flag, Value("false"), "a plain invocation detaches"),
    key_of("ready", Kind::Choice(&["auto", "manual"]), Value("auto"), "how a worker becomes ready"),
    key_of(
        "ready_timeout",
        Kind::PositiveDuration,
        Value("60s"),
        "a worker not ready by then has failed",
    ),
    key_of("drain_timeout", Kind::Duration, Value("30s"), "time to finish what is in flight"),
    key_of("kill_timeout", Kind::Duration, Value("5s"), "time between SIGTERM and SIGKILL"),
    key_of("lame_duck", Kind::Duration, Value("0s"), "keep accepting for this long after SIGTERM"),
    supervised(
        "confirm_window",
        Kind::Duration,
        Value("2s"),
        "how long a restart can still be aborted",
    ),
    supervised(
        "exclusive",
        Kind::Flag,
        Value("false"),
        "the old worker exits before the new one begins",
    ),
    supervised(
        "watchdog",
        Kind::Duration,
        Absent("off"),
        "a worker that does not answer for this long is replaced",
    ),
    supervised(
        "orphan_grace",
        Kind::Duration,
        Value("0s"),
        "how long workers serve after their supervisor was killed",
    ),
    supervised("handoff", Kind::Flag, Value("true"), "idle connections go to the new worker"),
    supervised(
        "restart",
        Kind::Choice(&["no", "on-failure", "always"]),
        Value("on-failure"),
        "what the exit of a worker leads to",
    ),
    supervised("backoff_min", Kind::Duration, Value("100ms"), "first delay before a respawn"),
    supervised("backoff_max", Kind::Duration, Value("30s"), "longest delay before a respawn"),
    supervised(
        "start_limit_burst",
        Kind::Count(u32::MAX),
        Value("5"),
        "give up after this many respawns within start_limit_interval",
    ),
    supervised(
        "start_limit_interval",
        Kind::Duration,
        Value("60s"),
        "the interval of start_limit_burst",
    ),
    key_of("umask", Kind::Mode, Absent("inherited"), "the worker's umask"),
    key_of(
        "workdir",
        Kind::Path,
        Absent("/ when detached, else the starting directory"),
        "the worker's directory",
    ),
    key_of("user", Kind::Account, Absent("the daemon's own"), "the user of the worker"),
    key_of("group", Kind::Account, Absent("that of the user"), "the group of the worker"),
    key_of("groups", Kind::Accounts, Absent("those of the user"), "its supplementary groups"),
    key_of("chroot", Kind::Path, Absent("none"), "the worker's root directory"),
    key_of(
        "no_new_privileges",
        Kind::Flag,
        Absent("true with a user, else false"),
        "programs that the worker executes gain no privileges",
    ),
    key_of(
        "capabilities",
        Kind::Capabilities,
        Absent("none with a user, else all"),
        "capabilities that the worker keeps",
    ),
    key_of(
        "oom_score_adj",
        Kind::Integer(-1000, 1000),
        Absent("inherited"),
        "which process the kernel kills first when memory runs out",
    ),
    key_of(
        "nice",
        Kind::Integer(-20, 19),
        Absent("inherited"),
        "the worker's share of the processors",
    ),
    key_of(
        "log",
        Kind::Path,
        Absent("stderr; when detached <name>.log"),
        "where stdout and stderr go",
    ),
    key_of("log_mode", Kind::Mode, Value("0640"), "permissions of a new log file"),
    key_of(
        "log_format",
        Kind::Choice(&["none", "text", "json", "journald", "auto"]),
        Value("none"),
        "how events are written",
    ),
    key_of(
        "log_level",
        Kind::Choice(&["error", "warn", "info", "debug", "trace"]),
        Value("info"),
        "events below are not written",
    ),
    supervised("exe", Kind::Path, Absent("the path of start"), "the image of the next generation"),
    key_of("probe", Kind::Socket, Absent("none"), "answers /livez, /readyz and /startupz"),
];

/// The keys that shape the program itself, which only the attribute can set.
pub const ATTRIBUTE_KEYS: &[Key] = &[
    key_of("graceful_restart", Kind::Flag, Value("false"), "run under a supervisor"),
    key_of(
        "env_prefix",
        Kind::Prefix,
        Value(crate::name::DEFAULT_PREFIX),
        "what the configuration's variables begin with",
    ),
    Key {
        needs: Needs::Async,
        ..key_of(
            "flavor",
            Kind::Choice(&["current_thread", "multi_thread"]),
            Value("multi_thread"),
            "the kind of Tokio runtime",
        )
    },
    Key {
        needs: Needs::Async,
        ..key_of(
            "worker_threads",
            Kind::Count(u16::MAX as u32),
            Absent("as Tokio decides"),
            "threads of a multi-thread runtime",
        )
    },
    key_of(
        "configure",
        Kind::Function,
        Absent("none"),
        "a function that sets keys from the program's own sources",
    ),
    key_of(
        "oneshot",
        Kind::Function,
        Absent("none"),
        "a function that runs commands without the daemon",
    ),
    key_of("crate", Kind::Crate, Value("::unbroken"), "the path of the unbroken crate"),
];

/// The field of a listener with the name of a variable, which only the attribute can set.
pub const LISTENER_VARIABLE: &str = "env";

/// The fields of a listener that only the attribute can set.
pub const LISTENER_ATTRIBUTE_FIELDS: &[Key] = &[key_of(
    LISTENER_VARIABLE,
    Kind::Variable,
    Absent("none"),
    "a variable with another address, or another port",
)];

/// The tables of keys in the attribute and the file: of listeners, and of resource limits.
pub const SECTIONS: [&str; 2] = ["listen", "limits"];

/// The resource limits, by their names in getrlimit(2).
pub const LIMITS: &[&str] = &[
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
    key_of("<name>", Kind::Limit, Absent("inherited"), "a resource limit of the worker");

/// The fields of a listener. A plain value is its `addr`.
pub const LISTENER_FIELDS: &[Key] = &[
    key_of("addr", Kind::Addresses, Computed("required"), "where it listens"),
    key_of("backlog", Kind::Count(BACKLOG_MAX), Value("4096"), "connections the kernel queues"),
    field(
        "mode",
        Kind::Mode,
        Absent("as the umask says"),
        Needs::UnixSocket,
        "permissions of a unix socket",
    ),
    field(
        "user",
        Kind::Account,
        Absent("the daemon's own"),
        Needs::UnixSocket,
        "owner of a unix socket",
    ),
    field(
        "group",
        Kind::Account,
        Absent("the daemon's own"),
        Needs::UnixSocket,
        "group of a unix socket",
    ),
    field("v6only", Kind::Flag, Value("true"), Needs::Ipv6, "whether [::] refuses IPv4"),
    key_of("header_timeout", Kind::Duration, Value("30s"), "time for the head of an HTTP request"),
    key_of(
        "idle_timeout",
        Kind::Duration,
        Value("75s"),
        "an HTTP connection idle for this long is closed",
    ),
    field(
        "tcp_keepalive",
        Kind::Duration,
        Value("60s"),
        Needs::Tcp,
        "silence after which TCP probes a client",
    ),
    key_of(
        "max_connections",
        Kind::Count(u32::MAX),
        Absent("no limit"),
        "open HTTP connections above which accepting waits",
    ),
    key_of(
        "max_header_bytes",
        Kind::Count(u32::MAX),
        Value("65536"),
        "size of the head of an HTTP request",
    ),
    key_of(
        "max_connection_age",
        Kind::Duration,
        Absent("no limit"),
        "an older HTTP connection ends with its next response",
    ),
    key_of(
        "http2_max_streams",
        Kind::Count(u32::MAX),
        Value("200"),
        "concurrent requests on one HTTP/2 connection",
    ),
    key_of("http2_keepalive", Kind::Duration, Absent("off"), "how often HTTP/2 clients are pinged"),
];

/// The fields that only `Daemon::serve` heeds.
pub const HTTP_FIELDS: &[&str] = &[
    "header_timeout",
    "idle_timeout",
    "tcp_keepalive",
    "max_connections",
    "max_header_bytes",
    "max_connection_age",
    "http2_max_streams",
    "http2_keepalive",
];

/// The names of capabilities(7), in small letters and without `CAP_`.
pub const CAPABILITIES: &[&str] = &[
    "audit_control",
    "audit_read",
    "audit_write",
    "block_suspend",
    "bpf",
    "checkpoint_restore",
    "chown",
    "dac_override",
    "dac_read_search",
    "fowner",
    "fsetid",
    "ipc_lock",
    "ipc_owner",
    "kill",
    "lease",
    "linux_immutable",
    "mac_admin",
    "mac_override",
    "mknod",
    "net_admin",
    "net_bind_service",
    "net_broadcast",
    "net_raw",
    "perfmon",
    "setfcap",
    "setgid",
    "setpcap",
    "setuid",
    "sys_admin",
    "sys_boot",
    "sys_chroot",
    "sys_module",
    "sys_nice",
    "sys_pacct",
    "sys_ptrace",
    "sys_rawio",
    "sys_resource",
    "sys_time",
    "sys_tty_config",
    "syslog",
    "wake_alarm",
];

const fn key_of(name: &'static str, kind: Kind, default: Fallback, meaning: &'static str) -> Key {
    Key { name, kind, default, needs: Needs::Nothing, meaning }
}

const fn supervised(
    name: &'static str,
    kind: Kind,
    default: Fallback,
    meaning: &'static str,
) -> Key {
    Key { name, kind, default, needs: Needs::Supervisor, meaning }
}

const fn field(
    name: &'static str,
    kind: Kind,
    default: Fallback,
    needs: Needs,
    meaning: &'static str,
) -> Key {
    Key { name, kind, default, needs, meaning }
}

/// The key of this name, among [`KEYS`].
pub fn key(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// The key of this name, among [`ATTRIBUTE_KEYS`].
pub fn attribute_key(name: &str) -> Option<&'static Key> {
    ATTRIBUTE_KEYS.iter().find(|key| key.name == name)
}

/// The field of a listener of this name, among [`LISTENER_ATTRIBUTE_FIELDS`].
pub fn listener_attribute_field(name: &str) -> Option<&'static Key> {
    LISTENER_ATTRIBUTE_FIELDS.iter().find(|key| key.name == name)
}

/// The field of a listener of this name.
pub fn listener_field(name: &str) -> Option<&'static Key> {
    LISTENER_FIELDS.iter().find(|key| key.name == name)
}

/// The keys for people: name, meaning, kind and default, one per line.
pub fn reference() -> String {
    let limits = [("limits.<name>".to_owned(), &LIMIT)];
    let fields = LISTENER_FIELDS.iter().map(|key| (format!("listen.<name>.{}", key.name), key));
    let all = KEYS.iter().map(|key| (key.name.to_owned(), key)).chain(limits).chain(fields);
    all.map(|(name, key)| {
        let Key { kind, meaning, .. } = key;
        let (Value(default) | Computed(default) | Absent(default)) = key.default;
        let note = match key.needs {
            Needs::Supervisor => " (with graceful_restart)",
            _ => "",
        };
        format!("{name:<22} {meaning}: {}; default: {default}{note}\n", kind.words())
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::Input;

    #[test]
    fn keys_are_unique_and_can_be_variables() {
        let keys: Vec<&Key> = KEYS.iter().chain(ATTRIBUTE_KEYS).collect();
        for (i, key) in keys.iter().enumerate() {
            assert!(key.name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{}", key.name);
            assert!(keys[..i].iter().all(|other| other.name != key.name), "{}", key.name);
            assert!(!key.name.starts_with("listen") && !key.name.starts_with("app"));
            assert!(!key.name.starts_with("limits"));
            assert!(!key.name.starts_with("port") && !key.name.starts_with("service"));
            assert!(!key.meaning.is_empty());
        }
        for name in HTTP_FIELDS {
            assert!(listener_field(name).is_some(), "{name}");
        }
    }

    #[test]
    fn default_values_are_of_their_kind() {
        for key in KEYS.iter().chain(LISTENER_FIELDS).chain(ATTRIBUTE_KEYS) {
            if let Value(text) = key.default {
                assert!(key.kind.parse(&Input::Untyped(text)).is_ok(), "{}", key.name);
            }
        }
    }

    #[test]
    fn the_reference_has_a_line_for_each_key() {
        let text = reference();
        assert_eq!(text.lines().count(), KEYS.len() + 1 + LISTENER_FIELDS.len());
        let line = "drain_timeout          time to finish what is in flight: a duration such as \"30s\"; default: 30s";
        assert!(text.lines().any(|l| l == line), "{text}");
    }
}
