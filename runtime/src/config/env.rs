//! The environment as a layer: one variable, one key.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};

use figment::value::{Dict, Value};

use super::keys::{self, nearest};
use super::layers::{DEPTH, Layer};
use super::origin::Rank;

const PREFIX: &str = "DAEMON_";

/// What the `DAEMON_*` variables say. `below` is what the other layers declare: listeners and keys of
/// the application that a variable's name can only approximate (`MY_API` is `my-api` if there is one).
pub(super) fn environment(
    vars: &[(OsString, OsString)],
    below: &[&Dict],
    problems: &mut Vec<String>,
) -> Layer {
    let known = Known::new(below);
    let mut layer = Layer::new(Rank::Environment, "");
    let mut seen = BTreeSet::new();
    for (name, value) in vars {
        if !name.as_encoded_bytes().starts_with(PREFIX.as_bytes()) || !seen.insert(name) {
            continue;
        }
        let (Some(name), Some(value)) = (name.to_str(), value.to_str()) else {
            problems.push(format!("{} is not UTF-8 text: unset it", name.display()));
            continue;
        };
        let path = match known.path(name) {
            Ok(Some(path)) => path,
            Ok(None) => continue,
            Err(problem) => {
                problems.push(problem);
                continue;
            }
        };
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        if let Some(rival) = layer.rival(&path) {
            problems.push(format!("{rival} and {name} set the same key: unset one of them"));
        } else {
            problems.extend(layer.put(&path, name, Value::from(value)).err());
        }
    }
    layer
}

/// Whether a variable is configuration. Kubernetes announces a service called "daemon" by some.
pub(super) fn is_ours(name: &str) -> bool {
    name.strip_prefix(PREFIX).is_some_and(|rest| {
        rest != "PORT" && !rest.starts_with("PORT_") && !rest.starts_with("SERVICE_")
    })
}

/// The value of one variable, where it is UTF-8 text.
pub(super) fn var<'a>(vars: &'a [(OsString, OsString)], name: &str) -> Option<&'a str> {
    let (_, value) = vars.iter().find(|(n, _)| n == OsStr::new(name))?;
    value.to_str()
}

/// The variable that sets the key at `path`, if its name can be told back.
pub(super) fn variable(path: &[&str]) -> String {
    let upper = |part: &str| part.to_ascii_uppercase().replace('-', "_");
    let (head, rest) = path.split_first().unwrap_or((&"", &[]));
    let rest: String = rest
        .iter()
        .enumerate()
        .map(|(i, part)| match (*head, i) {
            ("listen" | "limits", 0) => format!("_{}", upper(part)),
            _ => format!("__{}", upper(part)),
        })
        .collect();
    format!("{PREFIX}{}{rest}", upper(head))
}

/// The names that the other layers declare.
struct Known<'a> {
    listeners: BTreeSet<&'a str>,
    app: Vec<&'a Dict>,
}

impl<'a> Known<'a> {
    fn new(below: &[&'a Dict]) -> Self {
        let section = |dict: &'a Dict, name: &str| dict.get(name).and_then(Value::as_dict);
        Known {
            listeners: below
                .iter()
                .filter_map(|dict| section(dict, "listen"))
                .flat_map(|listeners| listeners.keys().map(String::as_str))
                .collect(),
            app: below.iter().filter_map(|dict| section(dict, "app")).collect(),
        }
    }

    /// The key path that a variable sets; `None` if the variable is none of ours.
    fn path(&self, name: &str) -> Result<Option<Vec<String>>, String> {
        let rest = name.strip_prefix(PREFIX).unwrap_or(name);
        if !is_ours(name) {
            return Ok(None);
        }
        if let Some(key) = keys::KEYS.iter().find(|k| variable(&[k.name]) == name) {
            return Ok(Some(vec![key.name.to_owned()]));
        }
        if let Some(key) = keys::ATTRIBUTE_ONLY.iter().find(|k| variable(&[k]) == name) {
            return Err(format!("{name}: `{key}` belongs in the attribute, unset the variable"));
        }
        if let Some(limit) = keys::LIMITS.iter().find(|it| variable(&["limits", it]) == name) {
            return Ok(Some(vec!["limits".to_owned(), (*limit).to_owned()]));
        }
        if let Some(rest) = rest.strip_prefix("APP__") {
            return self.app_path(name, rest).map(Some);
        }
        if let Some(rest) =
            rest.strip_prefix("LISTEN_").filter(|rest| !rest.is_empty() && !rest.starts_with('_'))
        {
            return self.listen_path(name, rest).map(Some);
        }
        Err(self.unknown(name))
    }

    fn listen_path(&self, name: &str, rest: &str) -> Result<Vec<String>, String> {
        // The longest declared listener that the variable can mean, and the field behind it.
        let fits = |listener: &&&str| {
            let form = variable(&["listen", listener]);
            let behind = name.strip_prefix(form.as_str());
            behind.filter(|behind| behind.is_empty() || behind.starts_with("__")).is_some()
        };
        let longest = self.listeners.iter().filter(fits).map(|l| l.len()).max();
        let mut declared = self.listeners.iter().filter(fits).filter(|l| Some(l.len()) == longest);
        let (listener, field) = match (declared.next(), declared.next()) {
            (Some(one), Some(two)) => {
                return Err(format!(
                    "{name} could mean the listener `{one}` or `{two}`: use the file or --set"
                ));
            }
            (Some(one), None) => {
                let field = rest[one.len()..].strip_prefix("__");
                ((*one).to_owned(), field)
            }
            (None, _) if self.joins_field(rest) => return Err(self.unknown(name)),
            (None, _) => match rest.rsplit_once("__") {
                Some((listener, field)) => (listener.to_lowercase(), Some(field)),
                None => (rest.to_lowercase(), None),
            },
        };
        let field = field.map(str::to_lowercase);
        let is_field = field.as_deref().is_none_or(|f| keys::listen_field(f).is_some());
        let path: Vec<String> = ["listen".to_owned(), listener].into_iter().chain(field).collect();
        let parts: Vec<&str> = path.iter().map(String::as_str).collect();
        if !is_field || variable(&parts) != name {
            return Err(self.unknown(name));
        }
        Ok(path)
    }

    /// Whether `rest` is a declared listener and a field with one `_` between: a slip, not a name.
    fn joins_field(&self, rest: &str) -> bool {
        keys::LISTEN_FIELDS.iter().any(|field| {
            let behind = format!("_{}", field.name.to_ascii_uppercase());
            rest.strip_suffix(behind.as_str()).is_some_and(|listener| {
                let form = variable(&["listen", listener]);
                self.listeners.iter().any(|l| variable(&["listen", l]) == form)
            })
        })
    }

    fn app_path(&self, name: &str, rest: &str) -> Result<Vec<String>, String> {
        let parts: Vec<&str> = rest.split("__").collect();
        if parts.len() >= DEPTH || parts.iter().any(|part| part.is_empty()) {
            return Err(format!(
                "{name} names no key of the application: expected DAEMON_APP__KEY or \
                DAEMON_APP__TABLE__KEY"
            ));
        }
        let mut path = vec!["app".to_owned()];
        let mut tables = self.app.clone();
        for part in parts {
            let key = tables.iter().flat_map(|t| t.keys()).find(|key| same(key, part));
            let key = key.cloned().unwrap_or_else(|| part.to_lowercase());
            tables = tables.iter().filter_map(|t| t.get(&key)?.as_dict()).collect();
            path.push(key);
        }
        Ok(path)
    }

    fn unknown(&self, name: &str) -> String {
        let fields = self.listeners.iter().flat_map(|listener| {
            let field = |k: &keys::Key| variable(&["listen", listener, k.name]);
            let plain = variable(&["listen", listener]);
            keys::LISTEN_FIELDS.iter().map(field).chain([plain])
        });
        let limits = keys::LIMITS.iter().map(|limit| variable(&["limits", limit]));
        let plain = keys::KEYS.iter().map(|k| variable(&[k.name])).chain(limits);
        // Compared without the prefix, which would make everything look near.
        let known = plain.chain(fields).map(|v| v[PREFIX.len()..].to_owned());
        match name {
            "DAEMON_LISTEN" => format!("{name} names no listener: expected DAEMON_LISTEN_HTTP"),
            "DAEMON_LIMITS" => format!("{name} names no limit: expected DAEMON_LIMITS_NOFILE"),
            "DAEMON_APP" => format!("{name} names no key: expected DAEMON_APP__KEY"),
            _ => match nearest(&name[PREFIX.len()..], known) {
                Some(near) => {
                    format!("{name} is not a known variable: did you mean {PREFIX}{near}?")
                }
                None => format!(
                    "{name} is not a known variable: unset it, as {PREFIX}* is configuration"
                ),
            },
        }
    }
}

/// Whether a variable's part can mean this key.
pub(super) fn same(key: &str, part: &str) -> bool {
    let plain = |text: &str| text.to_lowercase().replace('-', "_");
    plain(key) == plain(part)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn below(listeners: &[&str], app: &[&str]) -> Dict {
        let section = |keys: &[&str]| {
            Value::from(keys.iter().map(|k| (k.to_string(), Value::from("x"))).collect::<Dict>())
        };
        let sections = [("listen", section(listeners)), ("app", section(app))];
        sections.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()
    }

    fn path(name: &str, below: &Dict) -> Result<Option<String>, String> {
        Known::new(&[below]).path(name).map(|path| path.map(|p| keys::join(&p)))
    }

    #[test]
    fn one_variable_one_key() {
        let dict = below(&["http", "my-api", "a__mode"], &["max-conn", "maxSize"]);
        for (name, key) in [
            ("DAEMON_DRAIN_TIMEOUT", "drain_timeout"),
            ("DAEMON_START_LIMIT_INTERVAL", "start_limit_interval"),
            ("DAEMON_LISTEN_HTTP", "listen.http"),
            ("DAEMON_LISTEN_HTTP__BACKLOG", "listen.http.backlog"),
            ("DAEMON_LISTEN_MY_API", "listen.my-api"),
            ("DAEMON_LISTEN_MY_API__V6ONLY", "listen.my-api.v6only"),
            ("DAEMON_LISTEN_OTHER_ONE", "listen.other_one"),
            ("DAEMON_LISTEN_OTHER_ONE__ADDR", "listen.other_one.addr"),
            ("DAEMON_LISTEN_A__MODE", "listen.a__mode"),
            ("DAEMON_LISTEN_A__MODE__MODE", "listen.a__mode.mode"),
            ("DAEMON_APP__DB__POOL", "app.db.pool"),
            ("DAEMON_APP__MAX_CONN", "app.max-conn"),
            ("DAEMON_APP__MAXSIZE", "app.maxSize"),
        ] {
            assert_eq!(path(name, &dict), Ok(Some(key.to_owned())), "{name}");
        }
    }

    #[test]
    fn service_links_are_not_ours() {
        let dict = Dict::new();
        for name in
            ["DAEMON_PORT", "DAEMON_PORT_80_TCP", "DAEMON_SERVICE_HOST", "DAEMON_SERVICE_PORT"]
        {
            assert_eq!(path(name, &dict), Ok(None), "{name}");
        }
    }

    #[test]
    fn unknown_variables_are_answered_with_the_full_name() {
        let dict = below(&["http"], &[]);
        for (name, answer) in [
            ("DAEMON_DRAIN_TIMOUT", "did you mean DAEMON_DRAIN_TIMEOUT?"),
            ("DAEMON_DRAIN__TIMEOUT", "did you mean DAEMON_DRAIN_TIMEOUT?"),
            ("DAEMON_drain_timeout", "not a known variable"),
            ("DAEMON_LISTEN_HTTP_BACKLOG", "did you mean DAEMON_LISTEN_HTTP__BACKLOG?"),
            ("DAEMON_LISTEN_HTTP__BACKLOGS", "did you mean DAEMON_LISTEN_HTTP__BACKLOG?"),
            ("DAEMON_LISTEN", "DAEMON_LISTEN_HTTP"),
            ("DAEMON_LISTEN_", "not a known variable"),
            ("DAEMON_LISTEN__ADDR", "not a known variable"),
            ("DAEMON_APP", "DAEMON_APP__KEY"),
            ("DAEMON_APP__", "names no key"),
            ("DAEMON_APP__A____B", "names no key"),
            ("DAEMON_FOO_BAR_BAZ", "unset it"),
            ("DAEMON_", "unset it"),
            ("DAEMON_GRACEFUL_RESTART", "belongs in the attribute"),
        ] {
            let problem = path(name, &dict).unwrap_err();
            assert!(problem.starts_with(name) && problem.contains(answer), "{problem}");
        }
        assert!(path("DAEMON_APP__A".repeat(40).as_str(), &dict).is_err());
    }

    #[test]
    fn one_form_for_two_listeners_is_ambiguous() {
        let dict = below(&["my-api", "my_api"], &[]);
        let problem = path("DAEMON_LISTEN_MY_API", &dict).unwrap_err();
        assert!(problem.contains("`my-api` or `my_api`"), "{problem}");
    }

    #[test]
    fn two_variables_of_one_key_are_refused() {
        let vars = |pairs: &[(&str, &str)]| -> Vec<(OsString, OsString)> {
            pairs.iter().map(|(n, v)| (n.into(), v.into())).collect()
        };
        for (one, two) in [
            ("DAEMON_LISTEN_HTTP", "DAEMON_LISTEN_HTTP__ADDR"),
            ("DAEMON_APP__DB", "DAEMON_APP__DB__POOL"),
            ("DAEMON_APP__DB__POOL", "DAEMON_APP__DB"),
        ] {
            let mut problems = vec![];
            environment(&vars(&[(one, "x"), (two, "y")]), &[], &mut problems);
            assert_eq!(problems, [format!("{one} and {two} set the same key: unset one of them")]);
        }
        let mut problems = vec![];
        environment(&vars(&[("DAEMON_APP__A", "x"), ("DAEMON_APP__AB", "y")]), &[], &mut problems);
        assert!(problems.is_empty(), "{problems:?}");
    }

    proptest! {
        #[test]
        fn any_name_is_answered(rest in "[A-Z_a-zä0-9]{0,40}", listener in "[a-z0-9][a-z0-9_-]{0,8}") {
            let _ = path(&format!("DAEMON_{rest}"), &below(&[&listener], &["a-b"]));
            let _ = path(&format!("DAEMON_LISTEN_{rest}"), &below(&[&listener], &[]));
        }

        #[test]
        fn declared_listeners_are_reached(name in "[a-z0-9][a-z0-9_-]{0,12}", field in 0..6usize) {
            let dict = below(&[&name], &[]);
            let field = keys::LISTEN_FIELDS[field].name;
            prop_assert_eq!(path(&variable(&["listen", &name]), &dict), Ok(Some(format!("listen.{name}"))));
            let whole = variable(&["listen", &name, field]);
            prop_assert_eq!(path(&whole, &dict), Ok(Some(format!("listen.{name}.{field}"))));
        }
    }
}
