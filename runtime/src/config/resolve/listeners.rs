//! Listeners: an address, and what may be said of it.

use std::time::Duration;

use figment::value::Value;

use super::{Listeners, Reader};
use crate::config::origin::Origin;
use crate::config::{Address, HttpSettings, ListenSettings, keys, values};

impl Reader<'_> {
    pub(super) fn listeners(&mut self) -> Listeners {
        let names = self.root.get("listen").and_then(Value::as_dict);
        let names: Vec<String> = names.into_iter().flat_map(|dict| dict.keys().cloned()).collect();
        names.into_iter().filter_map(|name| self.listener(&name).map(|l| (name, l))).collect()
    }

    fn listener(&mut self, name: &str) -> Option<(ListenSettings, Origin)> {
        let key = keys::join(&["listen", name]);
        let field = |field: &str| keys::child(&key, field);
        let Some((_, origin)) = self.find(&["listen", name, "addr"]) else {
            let fields = keys::LISTEN_FIELDS.iter();
            let mut set = fields.filter_map(|f| {
                let (_, origin) = self.find(&["listen", name, f.name])?;
                Some(origin.of(&field(f.name)))
            });
            let set = set.next().unwrap_or_else(|| format!("`{key}`"));
            self.problems.push(format!("{set} is of a listener without address: set `{key}`"));
            return None;
        };
        // The address decides what else may be said.
        let (addr, further) = self.read(&["listen", name, "addr"], &key, values::addresses)?;

        let addrs: Vec<&Address> = [&addr].into_iter().chain(further.all()).collect();
        let unix = addrs.iter().any(|addr| addr.is_unix());
        let ipv6 = further.has_halves() || addrs.iter().any(|addr| addr.is_ipv6());
        let at = |f| ["listen", name, f];
        let backlog =
            self.read(&at("backlog"), &field("backlog"), |raw| values::count(raw, i32::MAX as u32));
        let mut of_unix = |f: &str| self.applies(name, f, &origin, unix, "a unix socket");
        let (mode, user, group) = (of_unix("mode"), of_unix("user"), of_unix("group"));
        let v6only = self.applies(name, "v6only", &origin, ipv6, "an IPv6 address");
        let tcp = addrs.iter().any(|addr| !addr.is_unix());
        let http = self.http(name, &origin, tcp);
        let listener = ListenSettings {
            addr,
            further,
            http,
            backlog: backlog.unwrap_or(4096),
            mode: mode.then(|| self.read(&at("mode"), &field("mode"), values::mode)).flatten(),
            user: user.then(|| self.read(&at("user"), &field("user"), values::account)).flatten(),
            group: group
                .then(|| self.read(&at("group"), &field("group"), values::account))
                .flatten(),
            v6only: v6only
                .then(|| self.read(&at("v6only"), &field("v6only"), values::flag))
                .flatten()
                .unwrap_or(true),
        };
        if listener.further.has_halves() && !listener.v6only {
            let key = field("v6only");
            if let Some((_, its)) = self.find(&at("v6only")) {
                let (of, removal) = (its.of(&key), its.removal());
                self.problems.push(format!(
                    "{of} is false, and the address is both families already: {removal}"
                ));
            }
        }
        Some((listener, origin))
    }

    /// What an HTTP server on it heeds.
    fn http(&mut self, name: &str, addr: &Origin, tcp: bool) -> HttpSettings {
        let default = HttpSettings::default();
        let keepalive = self.applies(name, "tcp_keepalive", addr, tcp, "TCP");
        let key = keys::join(&["listen", name]);
        let mut duration = |field: &str, default: Duration| {
            self.read(&["listen", name, field], &keys::child(&key, field), values::duration)
                .unwrap_or(default)
        };
        let header_timeout = duration("header_timeout", default.header_timeout);
        let idle_timeout = duration("idle_timeout", default.idle_timeout);
        let max_connection_age = duration("max_connection_age", default.max_connection_age);
        let http2_keepalive = duration("http2_keepalive", default.http2_keepalive);
        let tcp_keepalive = match keepalive {
            true => duration("tcp_keepalive", default.tcp_keepalive),
            false => Duration::ZERO,
        };
        let mut count = |field: &str| {
            let most = |raw: &values::Raw<'_>| values::count(raw, u32::MAX);
            self.read(&["listen", name, field], &keys::child(&key, field), most)
        };
        HttpSettings {
            header_timeout,
            idle_timeout,
            tcp_keepalive,
            max_connections: count("max_connections"),
            max_header_bytes: count("max_header_bytes").unwrap_or(default.max_header_bytes),
            max_connection_age,
            http2_max_streams: count("http2_max_streams").unwrap_or(default.http2_max_streams),
            http2_keepalive,
        }
    }

    /// Whether a listener's field is to be read. One that does not fit the address is a mistake, unless
    /// a later layer moved the listener elsewhere: then what was said of the old address is void.
    fn applies(&mut self, name: &str, field: &str, addr: &Origin, fits: bool, what: &str) -> bool {
        let path = ["listen", name, field];
        let key = keys::join(&path);
        if let Some((_, origin)) = self.find(&path).filter(|_| !fits) {
            self.sources.insert(key.clone(), "default".to_owned());
            if origin.rank >= addr.rank {
                let (of, removal) = (origin.of(&key), origin.removal());
                self.problems.push(format!("{of} is only for {what}: {removal}"));
            }
            return false;
        }
        if !fits {
            self.sources.insert(key, "default".to_owned());
        }
        fits
    }
}
