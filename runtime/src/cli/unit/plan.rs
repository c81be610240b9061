//! Derives from the settings what a unit has to provide for: directories, capabilities, the network.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use crate::config::{Address, EnvFile, ListenSettings, Settings};
use unbroken_core::sorted::{SortedMap, SortedSet};

/// Everything that the units depend on.
#[derive(Debug, Clone)]
pub(crate) struct UnitPlan {
    pub(crate) settings: Settings,
    /// The absolute path of the program, with symbolic links unresolved.
    pub(crate) image: PathBuf,
    /// The environment variables that are configuration.
    pub(crate) variables: Vec<(String, String)>,
    /// The files of variables that systemd reads.
    pub(crate) environment_files: Vec<EnvFile>,
    /// The `key=value` of each `--set`.
    pub(crate) overrides: Vec<String>,
    /// The program's own arguments, without its name.
    pub(crate) arguments: Vec<String>,
    /// Whether systemd binds the listeners.
    pub(crate) sockets: bool,
    /// Whether systemd reloads by signal (`Type=notify-reload`).
    pub(crate) notify_reload: bool,
}

/// The places that the service has to reach from within its sandbox.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ServicePlaces {
    /// The runtime directory relative to `/run`, if systemd can create it (`RuntimeDirectory=`).
    pub(super) runtime: Option<String>,
    /// The log's directory relative to `/var/log`, if systemd can create it (`LogsDirectory=`).
    pub(super) logs: Option<String>,
    /// Other directories that it writes to, which the administrator has to create.
    pub(super) writes: SortedSet<PathBuf>,
    /// Whether one of the paths is in a home directory.
    pub(super) in_home: bool,
    /// Whether one of the paths is in a directory for temporary files.
    pub(super) in_tmp: bool,
}

/// The directories that `ProtectHome=` hides.
const HOMES: [&str; 3] = ["/home", "/root", "/run/user"];

/// The directories that `PrivateTmp=` replaces.
const TEMPORARY: [&str; 2] = ["/tmp", "/var/tmp"];

impl UnitPlan {
    /// The listeners that the program binds itself.
    pub(super) fn own(&self) -> impl Iterator<Item = &ListenSettings> {
        self.settings.listen.values().filter(|_| !self.sockets)
    }

    /// The addresses of these listeners.
    fn own_addrs(&self) -> impl Iterator<Item = Address> {
        self.own().flat_map(ListenSettings::addrs)
    }

    /// Finds the places that the service has to reach.
    pub(super) fn places(&self) -> ServicePlaces {
        let settings = &self.settings;
        let mut places = ServicePlaces {
            runtime: below("/run", &settings.runtime_dir),
            ..ServicePlaces::default()
        };
        let mut writes = SortedSet::new();
        if places.runtime.is_none() {
            writes.insert(settings.runtime_dir.clone());
        }
        let parent = |path: &Path| path.parent().map(Path::to_owned);
        if let Some(dir) = settings.log.as_deref().and_then(parent) {
            places.logs = below("/var/log", &dir);
            writes.extend(Some(dir).filter(|_| places.logs.is_none()));
        }
        writes.extend(parent(&settings.pidfile));
        writes.extend(self.own_addrs().filter_map(|addr| match &addr {
            Address::Unix(path) => parent(path),
            Address::Tcp(_) => None,
        }));
        writes.retain(|dir| places.runtime.is_none() || !dir.starts_with(&settings.runtime_dir));
        let read = [Some(&self.image), settings.config.as_ref(), settings.workdir.as_ref()];
        let env_files = settings.env_file.iter().flatten().map(|file| &file.path);
        let read = read.into_iter().flatten().chain(env_files);
        let all: Vec<&Path> = read.chain(&writes).map(PathBuf::as_path).collect();
        let any =
            |dirs: &[&str]| all.iter().any(|path| dirs.iter().any(|dir| path.starts_with(dir)));
        (places.in_home, places.in_tmp) = (any(&HOMES), any(&TEMPORARY));
        places.writes = writes;
        places
    }

    /// Returns whether the program drops privileges itself, and so has to be started as root.
    pub(super) fn drops(&self) -> bool {
        let settings = &self.settings;
        settings.user.is_some()
            || settings.group.is_some()
            || settings.groups.is_some()
            || settings.chroot.is_some()
    }

    /// The capabilities that the service needs, each with the reason.
    pub(super) fn capabilities(&self) -> SortedMap<String, &'static str> {
        let settings = &self.settings;
        let mut needed: SortedMap<&str, &str> = SortedMap::new();
        if self.drops() {
            let change = ["CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP", "CAP_KILL"];
            needed.extend(change.map(|name| (name, "workers of another user")));
            let changes = [
                ("CAP_SYS_CHROOT", settings.chroot.is_some(), "`chroot`"),
                ("CAP_SYS_RESOURCE", !settings.limits.is_empty(), "`limits`"),
                ("CAP_SYS_RESOURCE", settings.oom_score_adj.is_some(), "`oom_score_adj`"),
                ("CAP_SYS_NICE", settings.nice.is_some(), "`nice`"),
            ];
            let changes = changes.into_iter().filter(|(_, needs, _)| *needs);
            needed.extend(changes.map(|(name, _, what)| (name, what)));
        }
        for listener in self.own() {
            for addr in listener.addrs() {
                match addr {
                    Address::Tcp(addr) if (1..1024).contains(&addr.port()) => {
                        needed.insert("CAP_NET_BIND_SERVICE", "ports below 1024");
                    }
                    Address::Unix(_) if listener.user.is_some() || listener.group.is_some() => {
                        needed.insert("CAP_CHOWN", "the owner of a unix socket");
                    }
                    _ => {}
                }
            }
        }
        let kept = settings.capabilities.iter().flatten();
        let kept =
            kept.map(|name| (format!("CAP_{}", name.to_ascii_uppercase()), "`capabilities`"));
        needed.into_iter().map(|(name, what)| (name.to_owned(), what)).chain(kept).collect()
    }

    /// Returns whether it binds an address that exists only when the network is configured.
    pub(super) fn needs_network(&self) -> bool {
        let own = |ip: IpAddr| !ip.is_unspecified() && !ip.is_loopback();
        self.own_addrs().any(|addr| matches!(addr, Address::Tcp(addr) if own(addr.ip())))
    }

    /// Returns whether files in the runtime directory have to outlive the main process.
    pub(super) fn keeps_runtime(&self) -> bool {
        let inside = |path: &Path| path.starts_with(&self.settings.runtime_dir);
        !self.settings.orphan_grace.is_zero()
            || self.own_addrs().any(|addr| matches!(&addr, Address::Unix(path) if inside(path)))
    }
}

/// The path of a directory relative to `base`, if systemd can create it there.
fn below(base: &str, dir: &Path) -> Option<String> {
    let relative = dir.strip_prefix(base).ok()?;
    let text = relative.to_str().filter(|text| !text.is_empty())?;
    let normal = relative.components().all(|c| matches!(c, std::path::Component::Normal(_)));
    // Not below /run/user, which belongs to the users' managers.
    (normal && !HOMES.iter().any(|home| dir.starts_with(home))).then(|| text.to_owned())
}
