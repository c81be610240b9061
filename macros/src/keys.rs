//! The keys of the attribute and what each of them takes.

pub(crate) struct Key {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    /// Means nothing without `graceful_restart`.
    pub(crate) supervised: bool,
}

/// What a key takes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Text that is one component of a path.
    Name,
    /// A path, or other text that is not empty.
    Text,
    /// `true` or `false`; a key standing alone is `true`.
    Switch,
    /// A duration as people write it: `1m 30s`.
    Duration,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A whole number from 1 to this.
    Count(u32),
    /// Permission bits in octal.
    Mode,
    /// A listen address.
    Address,
    /// An address and a port.
    Socket,
    /// The listeners.
    Listen,
    /// Names, in an array or in one text with commas.
    Names,
    /// Paths, in an array or in one text with commas.
    Paths,
    /// Some of these words, in an array or in one text with commas.
    Words(&'static [&'static str]),
    /// A whole number between these.
    Within(i32, i32),
    /// A resource limit: `4096` or `"soft:hard"`.
    Limit,
    /// Resource limits by name.
    Limits,
    /// The word before the first `_` of variables.
    Prefix,
    /// The path of the `unbroken` crate.
    Crate,
}

pub(crate) const KEYS: &[Key] = &[
    key("name", Kind::Name),
    key("pidfile", Kind::Text),
    key("runtime_dir", Kind::Text),
    key("detach", Kind::Switch),
    key("graceful_restart", Kind::Switch),
    key("listen", Kind::Listen),
    key("ready", Kind::Choice(&["auto", "manual"])),
    key("ready_timeout", Kind::Duration),
    key("drain_timeout", Kind::Duration),
    key("kill_timeout", Kind::Duration),
    key("lame_duck", Kind::Duration),
    supervised("confirm_window", Kind::Duration),
    supervised("exclusive", Kind::Switch),
    supervised("watchdog", Kind::Duration),
    supervised("orphan_grace", Kind::Duration),
    supervised("pass_connections", Kind::Switch),
    supervised("restart", Kind::Choice(&["no", "on-failure", "always"])),
    supervised("backoff_min", Kind::Duration),
    supervised("backoff_max", Kind::Duration),
    supervised("start_limit_burst", Kind::Count(u32::MAX)),
    supervised("start_limit_interval", Kind::Duration),
    key("umask", Kind::Mode),
    key("workdir", Kind::Text),
    key("user", Kind::Text),
    key("group", Kind::Text),
    key("groups", Kind::Names),
    key("chroot", Kind::Text),
    key("no_new_privileges", Kind::Switch),
    key("capabilities", Kind::Words(CAPABILITIES)),
    key("oom_score_adj", Kind::Within(-1000, 1000)),
    key("nice", Kind::Within(-20, 19)),
    key("limits", Kind::Limits),
    key("log", Kind::Text),
    key("log_mode", Kind::Mode),
    key("log_format", Kind::Choice(&["none", "text", "json", "journald", "auto"])),
    key("log_level", Kind::Choice(&["error", "warn", "info", "debug", "trace"])),
    key("config", Kind::Text),
    key("env_file", Kind::Paths),
    supervised("exe", Kind::Text),
    key("probe", Kind::Socket),
    key("env_prefix", Kind::Prefix),
    key("flavor", Kind::Choice(&["current_thread", "multi_thread"])),
    key("worker_threads", Kind::Count(u16::MAX as u32)),
    key("crate", Kind::Crate),
];

/// The names of capabilities(7).
const CAPABILITIES: &[&str] = &[
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

/// The names of resource limits, as in getrlimit(2).
pub(crate) const LIMITS: &[Key] = &[
    key("as", Kind::Limit),
    key("core", Kind::Limit),
    key("cpu", Kind::Limit),
    key("data", Kind::Limit),
    key("fsize", Kind::Limit),
    key("locks", Kind::Limit),
    key("memlock", Kind::Limit),
    key("msgqueue", Kind::Limit),
    key("nice", Kind::Limit),
    key("nofile", Kind::Limit),
    key("nproc", Kind::Limit),
    key("rss", Kind::Limit),
    key("rtprio", Kind::Limit),
    key("rttime", Kind::Limit),
    key("sigpending", Kind::Limit),
    key("stack", Kind::Limit),
];

/// The fields of a listener's table.
pub(crate) const FIELDS: &[Key] = &[
    key("addr", Kind::Address),
    key("backlog", Kind::Count(u16::MAX as u32)),
    key("mode", Kind::Mode),
    key("user", Kind::Text),
    key("group", Kind::Text),
    key("v6only", Kind::Switch),
    key("header_timeout", Kind::Duration),
    key("idle_timeout", Kind::Duration),
    key("tcp_keepalive", Kind::Duration),
    key("max_connections", Kind::Count(u32::MAX)),
    key("max_header_bytes", Kind::Count(u32::MAX)),
    key("max_connection_age", Kind::Duration),
    key("http2_max_streams", Kind::Count(u32::MAX)),
    key("http2_keepalive", Kind::Duration),
];

const fn key(name: &'static str, kind: Kind) -> Key {
    Key { name, kind, supervised: false }
}

const fn supervised(name: &'static str, kind: Kind) -> Key {
    Key { name, kind, supervised: true }
}

/// Finds a key by its name, or says what may have been meant.
pub(crate) fn find(table: &'static [Key], what: &str, name: &str) -> Result<&'static Key, String> {
    if let Some(key) = table.iter().find(|key| key.name == name) {
        return Ok(key);
    }
    let names = || table.iter().map(|key| key.name);
    Err(match nearest(name, names()) {
        Some(near) => format!("unknown {what} `{name}`: did you mean `{near}`?"),
        None => format!("unknown {what} `{name}`: use one of {}", list(names(), "`")),
    })
}

/// The word that differs least, when it differs in no more than a third of its letters.
pub(crate) fn nearest<'a>(word: &str, all: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase().replace('-', "_");
    all.map(|one| (strsim::damerau_levenshtein(&word, &one.replace('-', "_")), one))
        .filter(|(distance, one)| distance * 3 <= one.len().max(3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, one)| one)
}

/// `a`, `b` and so on, each in quotes.
pub(crate) fn list<'a>(words: impl Iterator<Item = &'a str>, quote: &str) -> String {
    let words: Vec<String> = words.map(|word| format!("{quote}{word}{quote}")).collect();
    match words.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => words.concat(),
    }
}
