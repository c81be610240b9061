//! Listeners: an address, and the fields that go with it.

use figment::value::Value;
use unbroken_schema::{self as schema, Fallback, Input, LISTENER_FIELDS, Needs};

use super::{Listeners, Reader};
use crate::config::origin::Origin;
use crate::config::problem::{Problem, Subject};
use crate::config::{HttpSettings, ListenSettings, addresses, keys};

/// A listener whose address is known, which decides what fields it has.
struct Addressed<'a> {
    name: &'a str,
    origin: &'a Origin,
    has_unix: bool,
    has_ipv6: bool,
    has_tcp: bool,
}

impl Addressed<'_> {
    fn has(&self, needs: Needs) -> bool {
        match needs {
            Needs::UnixSocket => self.has_unix,
            Needs::Ipv6 => self.has_ipv6,
            Needs::Tcp => self.has_tcp,
            Needs::Nothing | Needs::Supervisor | Needs::Async => true,
        }
    }
}

impl Reader<'_> {
    pub(super) fn listeners(&mut self) -> Listeners {
        let names = self.root.get("listen").and_then(Value::as_dict);
        let names: Vec<String> = names.into_iter().flat_map(|dict| dict.keys().cloned()).collect();
        names.into_iter().filter_map(|name| self.listener(&name).map(|l| (name, l))).collect()
    }

    fn listener(&mut self, name: &str) -> Option<(ListenSettings, Origin)> {
        let key = keys::join(&["listen", name]);
        let Some((_, origin)) = self.find(&["listen", name, "addr"]) else {
            let set = LISTENER_FIELDS.iter().find_map(|field| {
                let (_, origin) = self.find(&["listen", name, field.name])?;
                Some(Subject::new(keys::child(&key, field.name), origin))
            });
            let problem = set.map(|of| Problem::ListenerWithoutAddress { of, listener: key });
            self.problems.extend(problem);
            return None;
        };
        let kind = schema::listener_field("addr")?.kind;
        let listed = self.value(&["listen", name, "addr"], &key, kind)?;
        let (addr, further) = addresses::together(listed.try_into().ok()?)?;
        let addrs = || [&addr].into_iter().chain(further.all());
        let listener = Addressed {
            name,
            origin: &origin,
            has_unix: addrs().any(|addr| addr.is_unix()),
            has_ipv6: further.has_halves() || addrs().any(|addr| addr.is_ipv6()),
            has_tcp: addrs().any(|addr| !addr.is_unix()),
        };
        let settings = ListenSettings {
            backlog: self.some_field(&listener, "backlog"),
            mode: self.field(&listener, "mode"),
            user: self.field(&listener, "user"),
            group: self.field(&listener, "group"),
            v6only: self.field(&listener, "v6only").unwrap_or(true),
            http: HttpSettings {
                header_timeout: self.some_field(&listener, "header_timeout"),
                idle_timeout: self.some_field(&listener, "idle_timeout"),
                tcp_keepalive: self.some_field(&listener, "tcp_keepalive"),
                max_connections: self.field(&listener, "max_connections"),
                max_header_bytes: self.some_field(&listener, "max_header_bytes"),
                max_connection_age: self.some_field(&listener, "max_connection_age"),
                http2_max_streams: self.some_field(&listener, "http2_max_streams"),
                http2_keepalive: self.some_field(&listener, "http2_keepalive"),
            },
            addr,
            further,
        };
        if settings.further.has_halves()
            && !settings.v6only
            && let Some((_, origin)) = self.find(&["listen", name, "v6only"])
        {
            let of = Subject::new(keys::child(&key, "v6only"), origin);
            self.problems.push(Problem::BothFamilies(of));
        }
        Some((settings, origin))
    }

    /// A field of a listener, or its default in the table.
    ///
    /// It is a mistake to set one that does not go with the address, unless a later layer moved the
    /// listener: a field of the old address has no effect then.
    fn field<T: TryFrom<schema::Value>>(
        &mut self,
        listener: &Addressed<'_>,
        field: &str,
    ) -> Option<T> {
        let field = schema::listener_field(field)?;
        let path = ["listen", listener.name, field.name];
        let key = keys::join(&path);
        if !listener.has(field.needs) {
            self.sources.insert(key.clone(), "default".to_owned());
            if let Some((_, origin)) = self.find(&path)
                && origin.rank >= listener.origin.rank
            {
                let of = Subject::new(key, origin);
                self.problems.push(Problem::NotApplicable { of, needs: field.needs });
            }
            return None;
        }
        let value = self.value(&path, &key, field.kind).or_else(|| match field.default {
            Fallback::Value(text) => field.kind.parse(&Input::Untyped(text)).ok(),
            Fallback::Computed(_) | Fallback::Absent(_) => None,
        });
        value?.try_into().ok()
    }

    fn some_field<T: TryFrom<schema::Value> + Default>(
        &mut self,
        listener: &Addressed<'_>,
        field: &str,
    ) -> T {
        self.field(listener, field).unwrap_or_default()
    }
}
