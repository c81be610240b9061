//! The part of `check` that examines this host: what would make a start fail, and advice.
//!
//! It uses the permissions and limits of this process, and so has to be run by the user who starts the
//! daemon.

use std::fs::{self, Metadata};
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD};
use rustix::thread::CapabilitySet;

use crate::config::{Address, Configuration, Settings};
use crate::image::Image;
use crate::privileges::accounts::{self, Unresolved};
use crate::sys::privileges::Account;
use crate::sys::{capabilities, limits, process};

/// The results, in one sentence each.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    /// Problems that make a start fail.
    pub(crate) errors: Vec<String>,
    /// Problems that do not.
    pub(crate) advice: Vec<String>,
}

/// Examines the host with the permissions of this process.
pub(crate) fn examine(configuration: &Configuration) -> Findings {
    let settings = &configuration.settings;
    let mut host = Host {
        configuration,
        own: Account::own().ok(),
        effective: capabilities::effective().unwrap_or(CapabilitySet::empty()),
        findings: Findings::default(),
    };
    let worker = host.account();
    host.paths(worker.as_ref());
    host.application(worker.as_ref());
    host.limits();
    host.capabilities();
    host.listeners();
    host.files();
    if settings.graceful_restart {
        host.image(worker.as_ref());
    } else if worker.as_ref() != host.own.as_ref() && worker.is_some() {
        let user = settings.user.as_deref().unwrap_or("another");
        host.advice(format!(
            "without graceful_restart the whole daemon runs as `user` {user}; let it write to the \
             log's directory so that it can reopen the log"
        ));
    }
    host.findings
}

/// The examination in progress.
struct Host<'a> {
    configuration: &'a Configuration,
    /// The user and groups of this process.
    own: Option<Account>,
    /// The effective capabilities of this process.
    effective: CapabilitySet,
    findings: Findings,
}

impl Host<'_> {
    fn settings(&self) -> &Settings {
        &self.configuration.settings
    }

    /// Appends the source of a key's value to a sentence about it.
    fn sourced(&self, sentence: String, key: &str) -> String {
        match self.configuration.sources.get(key).map(String::as_str) {
            None | Some("default") => sentence,
            Some(source) => format!("{sentence} ({source})"),
        }
    }

    fn error(&mut self, key: &str, sentence: String) {
        let sentence = self.sourced(sentence, key);
        self.findings.errors.push(sentence);
    }

    fn advice(&mut self, sentence: String) {
        self.findings.advice.push(sentence);
    }

    fn may(&self, capability: CapabilitySet) -> bool {
        self.effective.contains(capability)
    }

    /// Resolves the user and groups of the worker, and checks that this process may change to them.
    fn account(&mut self) -> Option<Account> {
        let wanted = match accounts::resolve(self.settings()) {
            Ok(wanted) => wanted?,
            Err(Unresolved { key, error }) => {
                self.error(key, error.to_string());
                return None;
            }
        };
        let own = self.own.clone()?;
        let key = ["user", "group", "groups"].into_iter().find(|key| {
            self.configuration.sources.get(*key).is_some_and(|source| source != "default")
        });
        let key = key.unwrap_or("user");
        if wanted.uid != own.uid && !self.may(CapabilitySet::SETUID) {
            let user = self.settings().user.clone().unwrap_or_default();
            self.error(
                key,
                format!(
                    "cannot become `user` {user}: this is user {}; start it as root or remove the key",
                    own.uid
                ),
            );
        } else if (wanted.gid, &wanted.groups) != (own.gid, &own.groups)
            && !self.may(CapabilitySet::SETGID)
        {
            self.error(
                key,
                format!(
                    "cannot change to group {} and groups {:?}: this is user {}; start it as root",
                    wanted.gid, wanted.groups, own.uid
                ),
            );
        }
        Some(wanted)
    }

    /// Checks `chroot` and `workdir`.
    fn paths(&mut self, worker: Option<&Account>) {
        let settings = self.settings().clone();
        if let Some(root) = &settings.chroot {
            if !root.is_dir() {
                let root = root.display();
                self.error("chroot", format!("`chroot` {root} is not a directory; create it"));
            } else if !self.may(CapabilitySet::SYS_CHROOT) {
                self.error("chroot", "`chroot` needs root; start it as root or remove it".into());
            }
        }
        let Some(dir) = &settings.workdir else { return };
        let within = match (&settings.chroot, dir.strip_prefix("/")) {
            (Some(root), Ok(below)) => root.join(below),
            _ => dir.clone(),
        };
        match fs::metadata(&within) {
            Ok(meta) if meta.is_dir() => {
                if let Some(worker) = worker.filter(|it| !allows(&meta, it, 0o1)) {
                    let (dir, uid) = (within.display(), worker.uid);
                    self.advice(format!(
                        "the worker's user {uid} may not enter `workdir` {dir}; \
                         `chmod` or `chown` it"
                    ));
                }
            }
            _ => {
                let dir = within.display();
                self.error("workdir", format!("`workdir` {dir} is not a directory; create it"));
            }
        }
    }

    /// Checks files that are named in the program's section `[app]`, such as the file of a TLS key: the
    /// worker of each generation opens them after it has dropped its privileges.
    fn application(&mut self, worker: Option<&Account>) {
        let reads_all = CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH;
        let kept = self.settings().capabilities.iter().flatten();
        let kept = kept.filter_map(|name| capabilities::named(name));
        let reads_all = kept.into_iter().any(|capability| reads_all.contains(capability));
        let Some(worker) = worker.filter(|_| !reads_all) else { return };
        let configuration = self.configuration;
        let mut texts = Vec::new();
        collect("app", &configuration.app, &mut texts);
        // Secrets and files whose content the configuration includes are read before the worker drops its
        // privileges.
        let ours = |key: &str| configuration.hides(key) || configuration.has_content(key);
        for (key, text) in texts.into_iter().filter(|(key, _)| !ours(key)) {
            let Some(below) = text.strip_prefix('/') else { continue };
            let root = self.settings().chroot.as_deref().unwrap_or(Path::new("/"));
            let Ok(meta) = fs::metadata(root.join(below)) else { continue };
            if meta.is_file() && !allows(&meta, worker, 0o4) {
                let advice = format!(
                    "the worker's user {} may not read {text}, named by `{key}`; \
                     `chgrp` it to one of the worker's groups",
                    worker.uid
                );
                let advice = self.sourced(advice, &key);
                self.advice(advice);
            }
        }
    }

    fn limits(&mut self) {
        let settings = self.settings().clone();
        for (name, limit) in &settings.limits {
            let key = format!("limits.{name}");
            let above = |hard: u64| limit.hard.is_none_or(|wanted| wanted > hard);
            let hard = limits::hard(name).flatten();
            if let Some(hard) = hard.filter(|hard| above(*hard))
                && !self.may(CapabilitySet::SYS_RESOURCE)
            {
                let text = format!(
                    "`{key}` {limit} is above the hard limit, {hard}; start it as root or lower the value"
                );
                self.error(&key, text);
            }
            let most = fs::read_to_string("/proc/sys/fs/nr_open").ok();
            let most = most.and_then(|text| text.trim().parse().ok()).filter(|_| name == "nofile");
            if let Some(most) = most.filter(|most| above(*most)) {
                self.error(&key, format!("`{key}` {limit} is above fs.nr_open, {most}; lower it"));
            }
        }
        let nice = rustix::process::getpriority_process(None).unwrap_or(0);
        if settings.nice.is_some_and(|it| it < nice) && !self.may(CapabilitySet::SYS_NICE) {
            self.error("nice", format!("only root can set `nice` below {nice}"));
        }
        let score = fs::read_to_string("/proc/self/oom_score_adj").unwrap_or_default();
        let score: i32 = score.trim().parse().unwrap_or(0);
        if settings.oom_score_adj.is_some_and(|it| it < score)
            && !self.may(CapabilitySet::SYS_RESOURCE)
        {
            let text = format!("only root can set `oom_score_adj` below {score}");
            self.error("oom_score_adj", text);
        }
    }

    fn capabilities(&mut self) {
        let names = self.settings().capabilities.clone().unwrap_or_default();
        let permitted = capabilities::permitted().unwrap_or(CapabilitySet::empty());
        let missing = |name: &String| {
            capabilities::named(name).is_some_and(|capability| !permitted.contains(capability))
        };
        let missing: Vec<String> = names.into_iter().filter(missing).collect();
        if !missing.is_empty() {
            let text = format!(
                "this process does not have the `capabilities` {}; start it as root",
                missing.join(", ")
            );
            self.error("capabilities", text);
        }
    }

    fn listeners(&mut self) {
        let listeners = self.settings().listen.clone();
        for (name, listener) in listeners {
            let key = format!("listen.{name}");
            if let Some(foreign) = self.configuration.foreign(&name) {
                let (source, unknown) = (foreign.source, "which the attribute does not declare");
                match foreign.meant {
                    Some(meant) => self.findings.errors.push(format!(
                        "listener `{name}`, {unknown}, is declared by {source} only: did you mean \
                         `{meant}`?"
                    )),
                    None => self.findings.advice.push(format!(
                        "listener `{name}`, {unknown}, is declared by {source} only: the program \
                         is not ready until it accepts on it"
                    )),
                }
            }
            for binding in listener.each() {
                let addr = match binding.settings.addr {
                    Address::Tcp(addr) => addr,
                    Address::Unix(path) => {
                        self.writable(&key, &format!("listener `{name}`"), &path);
                        continue;
                    }
                };
                // The second half of `localhost` is optional: a host without IPv6 lacks it.
                if binding.half_of.is_none() && !is_here(addr.ip()) {
                    let text = format!(
                        "listener `{name}` has {}, which no interface of this host has; assign it or \
                         correct the key",
                        addr.ip()
                    );
                    self.error(&key, text);
                }
                if addr.port() != 0
                    && addr.port() < first_free_port()
                    && !self.may(CapabilitySet::NET_BIND_SERVICE)
                {
                    let text = format!(
                        "listener `{name}` has port {}, which only root may bind; start it as root, \
                         with the capability net_bind_service, or take a port from {}",
                        addr.port(),
                        first_free_port()
                    );
                    self.error(&key, text);
                    break;
                }
            }
        }
    }

    /// Checks the daemon's own files, which belong to the supervisor if there is one.
    fn files(&mut self) {
        let settings = self.settings().clone();
        self.writable("runtime_dir", "`runtime_dir`", &settings.runtime_dir.join("any"));
        self.writable("pidfile", "`pidfile`", &settings.pidfile);
        if let Some(log) = &settings.log {
            self.writable("log", "`log`", log);
        }
    }

    /// Checks that a file can be created, with its directory if that is missing.
    fn writable(&mut self, key: &str, what: &str, path: &Path) {
        let existing = path.ancestors().skip(1).find(|dir| dir.exists());
        let Some(dir) = existing.map(Path::to_owned) else { return };
        let denied =
            rustix::fs::accessat(CWD, &dir, Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS);
        if let Err(error) = denied {
            let uid = self.own.as_ref().map_or(0, |own| own.uid);
            let text = format!(
                "{what} needs {}, which user {uid} cannot write to: {}",
                dir.display(),
                io::Error::from(error)
            );
            self.error(key, text);
        }
    }

    /// Checks that the supervisor would execute the image for this worker.
    fn image(&mut self, worker: Option<&Account>) {
        let path: PathBuf = self.settings().exe.clone().unwrap_or_else(process::initial_exe_path);
        let workers: Vec<Account> = worker.into_iter().cloned().collect();
        if let Err(error) = Image::open(&path, &workers) {
            self.error("exe", error.to_string());
        }
    }
}

/// Returns whether an interface of this host has the address. Tries to bind it, to any port.
fn is_here(ip: IpAddr) -> bool {
    match TcpListener::bind(SocketAddr::new(ip, 0)) {
        Err(error) => error.kind() != io::ErrorKind::AddrNotAvailable,
        Ok(_) => true,
    }
}

/// The lowest port that can be bound without a capability (ip(7)).
fn first_free_port() -> u16 {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    text.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(1024)
}

/// Collects all strings below a key, with their keys.
fn collect<'a>(key: &str, value: &'a serde_json::Value, texts: &mut Vec<(String, &'a str)>) {
    match value {
        serde_json::Value::String(text) => texts.push((key.to_owned(), text)),
        serde_json::Value::Object(fields) => {
            for (name, value) in fields {
                collect(&format!("{key}.{name}"), value, texts);
            }
        }
        serde_json::Value::Array(values) => {
            values.iter().for_each(|value| collect(key, value, texts));
        }
        _ => {}
    }
}

/// Returns whether the permissions of a file grant a user the bits `bits` of `rwx`.
fn allows(meta: &Metadata, who: &Account, bits: u32) -> bool {
    let shift = match () {
        () if who.uid == 0 => return true,
        () if meta.uid() == who.uid => 6,
        () if meta.gid() == who.gid || who.groups.contains(&meta.gid()) => 3,
        () => 0,
    };
    meta.mode() >> shift & bits == bits
}
