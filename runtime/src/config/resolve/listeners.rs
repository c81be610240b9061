//! Listeners: an address, and what may be said of it.

use figment::value::Value;

use super::{Listeners, Reader};
use crate::config::origin::Origin;
use crate::config::{ListenSettings, keys, values};

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
        let addr = self.read(&["listen", name, "addr"], &key, values::address)?;

        let (unix, ipv6) = (addr.is_unix(), addr.is_ipv6());
        let at = |f| ["listen", name, f];
        let backlog =
            self.read(&at("backlog"), &field("backlog"), |raw| values::count(raw, i32::MAX as u32));
        let mut of_unix = |f: &str| self.applies(name, f, &origin, unix, "a unix socket");
        let (mode, user, group) = (of_unix("mode"), of_unix("user"), of_unix("group"));
        let v6only = self.applies(name, "v6only", &origin, ipv6, "an IPv6 address");
        let listener = ListenSettings {
            addr,
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
        Some((listener, origin))
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
