//! The rules of the attribute. All mistakes are reported at once.

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, quote_spanned};
use syn::spanned::Spanned;
use syn::{Error, Lit, Path};
use unbroken_schema::{
    self as schema, ATTRIBUTE_KEYS, Address, KEYS, Key, Kind, LIMITS, LISTENER_ATTRIBUTE_FIELDS,
    LISTENER_FIELDS, LISTENER_NAME_RULE, Listen, Needs, SECTIONS, is_address_word,
    is_listener_name, nearest, one_of, suggested_address,
};

use crate::args::{Entry, Value};
use crate::signature::Main;
use crate::values::{self, Setting};

/// The content of the attribute.
pub(crate) struct Daemon {
    /// The path of the `unbroken` crate, if it was given.
    pub(crate) krate: Option<Path>,
    /// The keys of the configuration by their paths, as they were written.
    pub(crate) keys: Vec<(Vec<String>, Setting)>,
    pub(crate) graceful_restart: bool,
    pub(crate) current_thread: bool,
    pub(crate) worker_threads: Option<u32>,
    /// The function that sets keys from the program's own sources.
    pub(crate) configure: Option<Path>,
    /// The function that runs commands without the daemon.
    pub(crate) one_shot: Option<Path>,
}

impl Daemon {
    /// The module of the runtime that the expansion uses.
    pub(crate) fn private(&self, at: Span) -> TokenStream {
        match &self.krate {
            Some(path) => quote_spanned!(at=> #path::__private),
            None => quote_spanned!(at=> ::unbroken::__private),
        }
    }
}

pub(crate) fn check(entries: &[Entry], main: Option<&Main>, mistakes: &mut Vec<Error>) -> Daemon {
    let mut checker = Checker {
        daemon: Daemon {
            krate: None,
            keys: Vec::new(),
            graceful_restart: false,
            current_thread: false,
            worker_threads: None,
            configure: None,
            one_shot: None,
        },
        addresses: Vec::new(),
        mistakes,
    };
    duplicates(entries, "key", checker.mistakes);
    for entry in entries {
        checker.entry(entry);
    }
    checker.backoff(entries);
    checker.supervised(entries);
    checker.runtime(entries, main);
    if let Some(main) = main {
        checker.listeners_taken(entries, main);
    }
    checker.daemon
}

struct Checker<'a> {
    daemon: Daemon,
    /// The addresses so far, each with the name of its listener.
    addresses: Vec<(Address, String)>,
    mistakes: &'a mut Vec<Error>,
}

impl Checker<'_> {
    fn mistake(&mut self, at: impl ToTokens, message: impl Into<String>) {
        self.mistakes.push(Error::new_spanned(at, message.into()));
    }

    fn unknown<'k>(&mut self, entry: &Entry, what: &str, known: impl Iterator<Item = &'k str>) {
        let (name, known): (_, Vec<&str>) = (&entry.key, known.collect());
        let message = match nearest(name, known.iter().copied()) {
            Some(near) => format!("unknown {what} `{name}`: did you mean `{near}`?"),
            None => format!("unknown {what} `{name}`: use one of {}", one_of(&known)),
        };
        self.mistake(&entry.tokens, message);
    }

    /// Reads a value, or notes what is wrong with it.
    fn read(&mut self, entry: &Entry, kind: Kind) -> Option<(Setting, schema::Value)> {
        if matches!(entry.value, Value::Broken) {
            return None;
        }
        values::read(entry, kind).map_err(|error| self.mistakes.push(error)).ok()
    }

    fn entry(&mut self, entry: &Entry) {
        let name = entry.key.as_str();
        match (name, schema::key(name).or_else(|| schema::attribute_key(name))) {
            ("listen", _) => self.listen(entry),
            ("limits", _) => self.limits(entry),
            ("crate", _) => self.krate(entry),
            ("configure" | "oneshot", _) => self.function(entry),
            (_, Some(key)) => self.key(key, entry),
            (_, None) if is_address_word(name) => {
                let written = match &entry.value {
                    Value::Literal(Lit::Str(text)) => text.value(),
                    Value::Literal(Lit::Int(number)) => number.base10_digits().to_owned(),
                    _ => String::new(),
                };
                let address = suggested_address(&written);
                let message = format!(
                    "unknown key `{name}`: the address is that of a listener, write \
                     `listen(http = \"{address}\")`"
                );
                self.mistake(&entry.tokens, message);
            }
            (_, None) => {
                let keys = KEYS.iter().chain(ATTRIBUTE_KEYS).map(|key| key.name);
                self.unknown(entry, "key", keys.chain(SECTIONS));
            }
        }
    }

    fn key(&mut self, key: &Key, entry: &Entry) {
        let Some((setting, value)) = self.read(entry, key.kind) else { return };
        let daemon = &mut self.daemon;
        match (key.name, value) {
            ("graceful_restart", schema::Value::Flag(wanted)) => daemon.graceful_restart = wanted,
            ("flavor", schema::Value::Choice(flavor)) => {
                daemon.current_thread = flavor == "current_thread";
            }
            ("worker_threads", schema::Value::Count(count)) => daemon.worker_threads = Some(count),
            ("env_prefix", schema::Value::Text(word)) => {
                let span = entry.value_or_key().span();
                daemon.keys.push((vec![key.name.to_owned()], Setting::Str(word, span)));
            }
            _ => daemon.keys.push((vec![key.name.to_owned()], setting)),
        }
    }

    fn krate(&mut self, entry: &Entry) {
        let path = match &entry.value {
            Value::Broken => return,
            Value::Path(path) => syn::parse2(path.clone()).ok(),
            Value::Literal(Lit::Str(text)) => text.parse().ok(),
            _ => None,
        };
        match path {
            Some(path) => self.daemon.krate = Some(path),
            None => self.mistake(
                entry.value_or_key(),
                "`crate` is the path of the unbroken crate: write `crate = ::unbroken`",
            ),
        }
    }

    fn function(&mut self, entry: &Entry) {
        let path = match &entry.value {
            Value::Broken => return,
            Value::Path(path) => syn::parse2(path.clone()).ok(),
            _ => None,
        };
        match (path, entry.key.as_str()) {
            (Some(path), "configure") => self.daemon.configure = Some(path),
            (Some(path), _) => self.daemon.one_shot = Some(path),
            (None, key) => {
                let message = format!(
                    "`{key}` is the path of a function, without quotes: write `{key} = my_function`"
                );
                self.mistake(entry.value_or_key(), message);
            }
        }
    }

    fn listen(&mut self, entry: &Entry) {
        const EXAMPLE: &str = "write `listen(http = \"0.0.0.0:8080\")`";
        let listeners = match &entry.value {
            Value::Broken => return,
            Value::List(listeners, _) => listeners,
            _ => {
                let message = format!("`listen` takes listeners by name: {EXAMPLE}");
                return self.mistake(entry.value_or_key(), message);
            }
        };
        if listeners.is_empty() {
            let message = format!("`listen` names no listener: {EXAMPLE}");
            self.mistake(entry.value_or_key(), message);
        }
        duplicates(listeners, "listener", self.mistakes);
        for listener in listeners {
            self.listener_name(listener);
            self.listener(listener);
        }
    }

    fn limits(&mut self, entry: &Entry) {
        const EXAMPLE: &str = "write `limits(nofile = \"65536\")`";
        let limits = match &entry.value {
            Value::Broken => return,
            Value::List(limits, _) => limits,
            _ => {
                let message = format!("`limits` takes limits by name: {EXAMPLE}");
                return self.mistake(entry.value_or_key(), message);
            }
        };
        if limits.is_empty() {
            self.mistake(entry.value_or_key(), format!("`limits` names no limit: {EXAMPLE}"));
        }
        duplicates(limits, "limit", self.mistakes);
        for limit in limits {
            if !LIMITS.contains(&limit.key.as_str()) {
                self.unknown(limit, "limit", LIMITS.iter().copied());
            } else if let Some((setting, _)) = self.read(limit, Kind::Limit) {
                self.daemon.keys.push((vec!["limits".to_owned(), limit.key.clone()], setting));
            }
        }
    }

    fn listener_name(&mut self, listener: &Entry) {
        let name = &listener.key;
        if name.contains('-') {
            let message = format!("`{name}` is no identifier: write `{}`", name.replace('-', "_"));
            self.mistake(&listener.tokens, message);
        } else if !is_listener_name(name) {
            let message = format!("`{name}` cannot name a listener: {LISTENER_NAME_RULE}");
            self.mistake(&listener.tokens, message);
        }
    }

    fn listener(&mut self, listener: &Entry) {
        let name = &listener.key;
        match &listener.value {
            Value::Broken => {}
            Value::None => self.mistake(
                &listener.tokens,
                format!("the listener `{name}` has no address: write `{name} = \"0.0.0.0:8080\"`"),
            ),
            Value::List(fields, _) => {
                duplicates(fields, "field", self.mistakes);
                if !fields.iter().any(|field| field.key == "addr") {
                    let message = format!(
                        "the listener `{name}` has no address: write \
                         `{name}(addr = \"0.0.0.0:8080\")`"
                    );
                    self.mistake(&listener.tokens, message);
                }
                for field in fields {
                    self.field(name, field);
                }
            }
            _ => self.address(vec!["listen".to_owned(), name.clone()], name, listener),
        }
    }

    fn field(&mut self, listener: &str, entry: &Entry) {
        let known = schema::listener_field(&entry.key)
            .or_else(|| schema::listener_attribute_field(&entry.key));
        let Some(field) = known else {
            let fields = LISTENER_FIELDS.iter().chain(LISTENER_ATTRIBUTE_FIELDS);
            return self.unknown(entry, "field", fields.map(|field| field.name));
        };
        let path = ["listen", listener, field.name].map(str::to_owned).to_vec();
        if field.kind == Kind::Addresses {
            self.address(path, listener, entry);
        } else if let Some((setting, _)) = self.read(entry, field.kind) {
            self.daemon.keys.push((path, setting));
        }
    }

    fn address(&mut self, path: Vec<String>, name: &str, entry: &Entry) {
        let Some((setting, value)) = self.read(entry, Kind::Addresses) else { return };
        let listed: Vec<Listen> = value.try_into().unwrap_or_default();
        let addresses: Vec<Address> = listed.iter().flat_map(Listen::addresses).collect();
        let is_taken = |taken: &Address| addresses.iter().any(|address| address.collides(taken));
        let other = self.addresses.iter().find(|(taken, its)| is_taken(taken) && its != name);
        if let Some((_, other)) = other {
            let message =
                format!("the listener `{other}` has this address already: give `{name}` another");
            self.mistake(entry.value_or_key(), message);
        }
        self.addresses.extend(addresses.into_iter().map(|address| (address, name.to_owned())));
        self.daemon.keys.push((path, setting));
    }

    fn backoff(&mut self, entries: &[Entry]) {
        let read = |name: &str| {
            let entry = entries.iter().find(|entry| entry.key == name)?;
            let (_, value) = values::read(entry, schema::key(name)?.kind).ok()?;
            let schema::Value::Duration(duration) = value else { return None };
            Some((entry, duration))
        };
        if let (Some((low, min)), Some((_, max))) = (read("backoff_min"), read("backoff_max"))
            && min > max
        {
            let max = schema::duration::format(max);
            let message = format!("`backoff_min` is longer than `backoff_max` ({max}): shorten it");
            self.mistake(low.value_or_key(), message);
        }
    }

    /// A daemon without `graceful_restart` runs solo.
    fn supervised(&mut self, entries: &[Entry]) {
        let switch = entries.iter().find(|entry| entry.key == "graceful_restart");
        if self.daemon.graceful_restart
            || switch.is_some_and(|entry| !matches!(entry.value, Value::Literal(Lit::Bool(_))))
        {
            return;
        }
        let fix = if switch.is_some() { "Remove `= false` from" } else { "Add" };
        for entry in entries {
            if schema::key(&entry.key).is_some_and(|key| key.needs == Needs::Supervisor) {
                let message =
                    format!("`{}` needs a supervisor. {fix} `graceful_restart`.", entry.key);
                self.mistake(&entry.tokens, message);
            }
        }
    }

    fn runtime(&mut self, entries: &[Entry], main: Option<&Main>) {
        for entry in entries {
            let key = entry.key.as_str();
            if schema::attribute_key(key).is_none_or(|key| key.needs != Needs::Async) {
                continue;
            }
            if main.is_some_and(|main| !main.is_async()) {
                let message = format!(
                    "`{key}` configures the async runtime: write `async fn main`, or remove it"
                );
                self.mistake(&entry.tokens, message);
            } else if key == "worker_threads" && self.daemon.current_thread {
                let message =
                    "`worker_threads` needs `flavor = \"multi_thread\"`: remove one of the two";
                self.mistake(&entry.tokens, message);
            }
        }
    }

    fn listeners_taken(&mut self, entries: &[Entry], main: &Main) {
        if main.takes_daemon() {
            return;
        }
        let asyncness = if main.is_async() { "async " } else { "" };
        for entry in entries.iter().filter(|entry| entry.key == "listen") {
            let message = format!(
                "`listen` needs a `Daemon` to take the listeners from: write \
                 `{asyncness}fn main(daemon: Daemon)`"
            );
            self.mistake(&entry.tokens, message);
        }
    }
}

fn duplicates(entries: &[Entry], what: &str, mistakes: &mut Vec<Error>) {
    for (at, entry) in entries.iter().enumerate() {
        if entries[..at].iter().any(|earlier| earlier.key == entry.key) {
            let message = format!("duplicate {what} `{}`: remove one of the two", entry.key);
            mistakes.push(Error::new_spanned(&entry.tokens, message));
        }
    }
}
