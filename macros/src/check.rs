//! The rules of the attribute. Nothing stops at the first mistake.

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, quote_spanned};
use std::time::Duration;
use syn::{Error, Lit, LitStr, Path};

use crate::args::{Entry, Value};
use crate::keys::{FIELDS, KEYS, Kind, LIMITS, find};
use crate::signature::Main;
use crate::values::{self, Address, Setting};

/// The attribute, understood.
pub(crate) struct Daemon {
    /// The path of the `unbroken` crate, where it was given.
    pub(crate) krate: Option<Path>,
    /// What goes to the configuration, as it was written.
    pub(crate) keys: Vec<(String, Setting)>,
    pub(crate) graceful_restart: bool,
    pub(crate) current_thread: bool,
    pub(crate) worker_threads: Option<u32>,
}

impl Daemon {
    /// The module of the runtime that the expansion speaks to.
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
    /// The addresses so far, and whose they are.
    addresses: Vec<(Address, String)>,
    mistakes: &'a mut Vec<Error>,
}

impl Checker<'_> {
    fn mistake(&mut self, at: impl ToTokens, message: impl Into<String>) {
        self.mistakes.push(Error::new_spanned(at, message.into()));
    }

    fn entry(&mut self, entry: &Entry) {
        let key = match find(KEYS, "key", &entry.key) {
            Ok(key) => key,
            Err(_) if values::ADDRESS_WORDS.contains(&entry.key.as_str()) => {
                return self.mistake(&entry.tokens, values::of_listener(&entry.key, &entry.value));
            }
            Err(message) => return self.mistake(&entry.tokens, message),
        };
        match (key.kind, &entry.value) {
            (_, Value::Broken) => {}
            (Kind::Listen, _) => self.listen(entry),
            (Kind::Limits, _) => self.limits(entry),
            (Kind::Crate, _) => self.krate(entry),
            (kind, value) => match values::read(key.name, kind, value) {
                Ok(setting) => self.set(key.name, setting),
                Err(message) => self.mistake(entry.value_or_key(), message),
            },
        }
    }

    fn set(&mut self, key: &str, setting: Setting) {
        let daemon = &mut self.daemon;
        match (key, setting) {
            ("graceful_restart", Setting::Bool(wanted)) => daemon.graceful_restart = wanted,
            ("flavor", Setting::Str(flavor)) => {
                daemon.current_thread = flavor.value() == "current_thread";
            }
            ("worker_threads", Setting::Int(count)) => {
                daemon.worker_threads = u32::try_from(count).ok();
            }
            (key, setting) => daemon.keys.push((key.to_owned(), setting)),
        }
    }

    fn krate(&mut self, entry: &Entry) {
        let path = match &entry.value {
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

    fn listen(&mut self, entry: &Entry) {
        const EXAMPLE: &str = "write `listen(http = \"0.0.0.0:8080\")`";
        let listeners = match &entry.value {
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
            if let Some(message) = wrong_name(&listener.key) {
                self.mistake(&listener.tokens, message);
            }
            self.listener(listener);
        }
    }

    fn limits(&mut self, entry: &Entry) {
        const EXAMPLE: &str = "write `limits(nofile = \"65536\")`";
        let Value::List(limits, _) = &entry.value else {
            let message = format!("`limits` takes limits by name: {EXAMPLE}");
            return self.mistake(entry.value_or_key(), message);
        };
        if limits.is_empty() {
            self.mistake(entry.value_or_key(), format!("`limits` names no limit: {EXAMPLE}"));
        }
        duplicates(limits, "limit", self.mistakes);
        for entry in limits {
            let limit = match find(LIMITS, "limit", &entry.key) {
                Ok(limit) => limit,
                Err(message) => {
                    self.mistake(&entry.tokens, message);
                    continue;
                }
            };
            match &entry.value {
                Value::Broken => {}
                value => match values::read(limit.name, limit.kind, value) {
                    Ok(setting) => {
                        self.daemon.keys.push((format!("limits.{}", limit.name), setting));
                    }
                    Err(message) => self.mistake(entry.value_or_key(), message),
                },
            }
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
            _ => self.address(format!("listen.{name}"), name, name, listener),
        }
    }

    fn field(&mut self, listener: &str, entry: &Entry) {
        let field = match find(FIELDS, "field", &entry.key) {
            Ok(field) => field,
            Err(message) => return self.mistake(&entry.tokens, message),
        };
        let key = format!("listen.{listener}.{}", field.name);
        match (field.kind, &entry.value) {
            (_, Value::Broken) => {}
            (Kind::Address, _) => self.address(key, field.name, listener, entry),
            (kind, value) => match values::read(field.name, kind, value) {
                Ok(setting) => self.daemon.keys.push((key, setting)),
                Err(message) => self.mistake(entry.value_or_key(), message),
            },
        }
    }

    fn address(&mut self, key: String, word: &str, name: &str, entry: &Entry) {
        let (text, addresses) = match values::addresses(word, &entry.value) {
            Ok(read) => read,
            Err(message) => return self.mistake(entry.value_or_key(), message),
        };
        // Port 0 is a port of its own for each.
        let shared = |address: &Address| {
            !matches!(address, Address::Tcp(address) if address.port() == 0)
                && addresses.contains(address)
        };
        let other = self.addresses.iter().find(|(taken, its)| shared(taken) && its != name);
        if let Some((_, other)) = other {
            let message =
                format!("the listener `{other}` has this address already: give `{name}` another");
            self.mistake(&text, message);
        }
        self.addresses.extend(addresses.into_iter().map(|address| (address, name.to_owned())));
        self.daemon.keys.push((key, Setting::Str(text)));
    }

    fn backoff(&mut self, entries: &[Entry]) {
        let read = |name: &str| -> Option<(LitStr, Duration)> {
            let entry = entries.iter().find(|entry| entry.key == name)?;
            values::duration(name, &entry.value).ok()
        };
        let (Some((low, min)), Some((high, max))) = (read("backoff_min"), read("backoff_max"))
        else {
            return;
        };
        if min > max {
            let high = high.value();
            let message =
                format!("`backoff_min` is longer than `backoff_max` ({high}): shorten it");
            self.mistake(low, message);
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
            if KEYS.iter().any(|key| key.supervised && key.name == entry.key) {
                let message =
                    format!("`{}` needs a supervisor. {fix} `graceful_restart`.", entry.key);
                self.mistake(&entry.tokens, message);
            }
        }
    }

    fn runtime(&mut self, entries: &[Entry], main: Option<&Main>) {
        for entry in entries {
            let key = entry.key.as_str();
            if !matches!(key, "flavor" | "worker_threads") {
                continue;
            }
            if main.is_some_and(|main| !main.is_async()) {
                let message = format!(
                    "`{key}` is about the async runtime: write `async fn main`, or remove it"
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

/// Names of listeners become parts of environment variables, where `__` separates.
fn wrong_name(name: &str) -> Option<String> {
    let letters = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    let starts = name.bytes().next().is_some_and(|b| b.is_ascii_lowercase());
    if letters && starts && !name.contains("__") && !name.ends_with('_') {
        return None;
    }
    Some(format!(
        "`{name}` cannot name a listener: use lowercase letters, digits and single underscores, as \
         in `web_api`"
    ))
}
