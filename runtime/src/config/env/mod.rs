//! The environment as a layer: one variable, one key.

mod file;
mod prefix;

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use figment::value::{Dict, Value};

use unbroken_schema::{
    self as schema, ATTRIBUTE_KEYS, KEYS, LIMITS, LISTENER_FIELDS, LISTENER_VARIABLE,
    is_address_word, nearest, suggested_address,
};

use super::keys::join;
use super::layers::{DEPTH, Layer};
use super::origin::Rank;
use super::problem::{Problem, Subject, VariableError};
use super::secrets::{self, Content, SUFFIX};
use crate::spec::{Literal, Spec};
use unbroken_core::sorted::{SortedMap, SortedSet};

pub(crate) use file::EnvFile;
pub(crate) use prefix::Prefix;

/// A variable, and where it is set.
#[derive(Debug, Clone)]
pub(super) struct Variable {
    name: OsString,
    value: OsString,
    /// `None` for a variable of the process's own environment.
    file: Option<PathBuf>,
}

impl Variable {
    /// The value, if the variable has this name and is UTF-8.
    pub(super) fn value_of(&self, name: &str) -> Option<&str> {
        if self.name != name {
            return None;
        }
        self.value.to_str()
    }

    /// The variable and its file, for messages and as a source.
    fn spelled(&self, name: &str) -> String {
        match &self.file {
            Some(file) => format!("{name} in {}", file.display()),
            None => name.to_owned(),
        }
    }
}

/// The environment of a generation: that of the start, overridden by its files.
pub(super) fn variables(
    vars: &[(OsString, OsString)],
    files: &[EnvFile],
    problems: &mut Vec<Problem>,
) -> Vec<Variable> {
    let own = |(name, value): &(OsString, OsString)| Variable {
        name: name.clone(),
        value: value.clone(),
        file: None,
    };
    let mut all: Vec<Variable> = vars.iter().map(own).collect();
    for file in files {
        for (name, value) in file.read("`env_file`").unwrap_or_else(|problem| {
            problems.push(problem);
            Vec::new()
        }) {
            all.retain(|variable| variable.name != *name);
            let (name, value) = (name.into(), value.into());
            all.push(Variable { name, value, file: Some(file.path.clone()) });
        }
    }
    all
}

/// The program's own variables in the files.
pub(super) fn of_program(prefix: Prefix<'_>, variables: &[Variable]) -> Vec<(String, String)> {
    let set = variables.iter().filter(|variable| variable.file.is_some());
    let text = set.filter_map(|it| Some((it.name.to_str()?, it.value.to_str()?)));
    text.filter(|(name, value)| !is_ours(prefix, name, value))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// The environment as a layer, and its secrets.
pub(super) struct Environment {
    pub(super) layer: Layer,
    /// Sources of values that are secrets.
    pub(super) hidden: SortedSet<String>,
    /// Contents of files, by the source of their names.
    pub(super) contents: SortedMap<String, Content>,
}

/// Reads the variables. `below` are the other layers, whose listeners and keys of the application a
/// variable's name can only approximate (`MY_API` is `my-api` if there is one).
pub(super) fn environment(
    prefix: Prefix<'_>,
    vars: &[Variable],
    below: &[&Dict],
    start_dir: &Path,
    problems: &mut Vec<Problem>,
) -> Environment {
    let known = Known::new(prefix, below);
    let mut layer = Layer::new(Rank::Environment, "");
    let (mut hidden, mut contents) = (SortedSet::new(), SortedMap::new());
    let mut seen = SortedSet::new();
    for variable @ Variable { name, value, file } in vars {
        let begins = name.to_string_lossy();
        if prefix.strip(&begins).is_none() || !seen.insert(name) {
            continue;
        }
        let (Some(name), Some(value)) = (name.to_str(), value.to_str()) else {
            if prefix.is_ours_alone() || known.path(&begins, "").is_ok_and(|path| path.is_some()) {
                let name = begins.into_owned();
                problems.push(Problem::Variable { name, error: VariableError::NotUtf8 });
            }
            continue;
        };
        let path = match known.path(name, value) {
            Ok(Some(path)) => path,
            Ok(None) => continue,
            Err(error) => {
                problems.push(Problem::Variable { name: name.to_owned(), error });
                continue;
            }
        };
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        // Compose passes an unset variable as an empty one. To the application it may have a meaning.
        if value.is_empty() && path.first() != Some(&"app") {
            continue;
        }
        let spelled = variable.spelled(name);
        if let Some(rival) = layer.rival(&path) {
            problems.push(Problem::Rivals(rival.to_owned(), spelled));
            continue;
        }
        problems.extend(layer.put(&path, &spelled, Value::from(value)).err());
        if path.first() == Some(&"app") {
            if path.last().is_some_and(|key| key.len() > SUFFIX.len() && key.ends_with(SUFFIX)) {
                let content = Content::of(&start_dir.join(value));
                contents.insert(spelled.clone(), content);
            } else if file.is_some() {
                hidden.insert(spelled);
            }
        }
    }
    Environment { layer, hidden, contents }
}

/// Adds the addresses in the variables that the attribute names at listeners. A variable that is a port alone
/// replaces the port of the attribute's address.
pub(super) fn add_listener_variables(
    spec: &Spec,
    environment: &mut Environment,
    vars: &[Variable],
    problems: &mut Vec<Problem>,
) {
    for (listener, name) in of_listeners(spec) {
        let found = vars.iter().find_map(|it| Some((it.value_of(name)?, it.spelled(name))));
        let Some((value, spelled)) = found.filter(|(value, _)| !value.is_empty()) else { continue };
        let path = ["listen", listener];
        if let Some(rival) = environment.layer.rival(&path) {
            problems.push(Problem::Rivals(rival.to_owned(), spelled));
            continue;
        }
        let address = match value.parse::<u16>() {
            Ok(port) => with_port(spec, listener, port),
            Err(_) => Some(value.to_owned()),
        };
        match address {
            Some(address) => {
                problems.extend(environment.layer.put(&path, &spelled, Value::from(address)).err());
            }
            None => {
                let of = Subject::new(join(&path), environment.layer.origin(&spelled));
                problems.push(Problem::PortOfListener { of, value: value.to_owned() });
            }
        }
    }
}

/// The listeners at which the attribute names a variable, each with the variable.
pub(crate) fn of_listeners(spec: &Spec) -> impl Iterator<Item = (&'static str, &'static str)> {
    spec.keys.iter().filter_map(|(path, literal)| match (path, literal) {
        (["listen", listener, LISTENER_VARIABLE], Literal::Str(name)) => Some((*listener, *name)),
        _ => None,
    })
}

/// The listener's address in the attribute with another port, if it is a single TCP address.
fn with_port(spec: &Spec, listener: &str, port: u16) -> Option<String> {
    let text = spec.keys.iter().find_map(|(path, literal)| match (path, literal) {
        (["listen", name] | ["listen", name, "addr"], Literal::Str(text)) if *name == listener => {
            Some(*text)
        }
        _ => None,
    })?;
    let (host, _) = text.rsplit_once(':').filter(|_| !text.starts_with("unix:"))?;
    Some(format!("{host}:{port}"))
}

/// Adds the credentials of a service manager, over which variables win.
pub(super) fn add_credentials(
    environment: &mut Environment,
    vars: &[Variable],
    problems: &mut Vec<Problem>,
) {
    let named = vars.iter().find(|variable| variable.name == "CREDENTIALS_DIRECTORY");
    let Some(dir) = named.map(|variable| Path::new(&variable.value)) else { return };
    for (name, text) in secrets::credentials(dir, problems) {
        let path: Vec<&str> = name.split('.').collect();
        if path.len() > DEPTH || path.iter().any(|part| part.is_empty()) {
            problems.push(Problem::CredentialName(name));
        } else if environment.layer.rival(&path).is_none() {
            let spelled = format!("{CREDENTIAL}{name}");
            problems.extend(environment.layer.put(&path, &spelled, Value::from(text)).err());
            environment.hidden.insert(spelled);
        }
    }
}

/// The prefix of a credential's name as a source.
pub(super) const CREDENTIAL: &str = "credential ";

/// Whether a variable is configuration, and nothing else.
pub(super) fn is_ours(prefix: Prefix<'_>, name: &str, value: &str) -> bool {
    match prefix.is_ours_alone() {
        true => prefix.strip(name).is_some() && !prefix.is_service_link(name, value),
        false => matches!(Known::new(prefix, &[]).path(name, value), Ok(Some(_))),
    }
}

/// The value of one variable, if it is UTF-8 text.
pub(super) fn var<'a>(vars: &'a [(OsString, OsString)], name: &str) -> Option<&'a str> {
    let (_, value) = vars.iter().find(|(n, _)| n == OsStr::new(name))?;
    value.to_str()
}

/// The names that the other layers declare.
struct Known<'a> {
    prefix: Prefix<'a>,
    listeners: SortedSet<&'a str>,
    app: Vec<&'a Dict>,
}

impl<'a> Known<'a> {
    fn new(prefix: Prefix<'a>, below: &[&'a Dict]) -> Self {
        let section = |dict: &'a Dict, name: &str| dict.get(name).and_then(Value::as_dict);
        Known {
            prefix,
            listeners: below
                .iter()
                .filter_map(|dict| section(dict, "listen"))
                .flat_map(|listeners| listeners.keys().map(String::as_str))
                .collect(),
            app: below.iter().filter_map(|dict| section(dict, "app")).collect(),
        }
    }

    /// The key path that a variable sets; `None` if the variable is not ours.
    fn path(&self, name: &str, value: &str) -> Result<Option<Vec<String>>, VariableError> {
        let Some(rest) = self.prefix.strip(name) else { return Ok(None) };
        if self.prefix.is_service_link(name, value) {
            return Ok(None);
        }
        let variable = |path: &[&str]| self.prefix.variable(path);
        if let Some(key) = KEYS.iter().find(|k| variable(&[k.name]) == name) {
            return Ok(Some(vec![key.name.to_owned()]));
        }
        if let Some(key) = ATTRIBUTE_KEYS.iter().find(|k| variable(&[k.name]) == name) {
            return Err(VariableError::AttributeOnly(key.name));
        }
        if let Some(limit) = LIMITS.iter().find(|it| variable(&["limits", it]) == name) {
            return Ok(Some(vec!["limits".to_owned(), (*limit).to_owned()]));
        }
        if let Some(rest) = rest.strip_prefix("APP__") {
            return self.app_path(rest).map(Some);
        }
        if let Some(rest) =
            rest.strip_prefix("LISTEN_").filter(|rest| !rest.is_empty() && !rest.starts_with('_'))
        {
            return self.listen_path(name, rest);
        }
        if self.prefix.is_ours_alone() && is_address_word(&rest.to_lowercase()) {
            let listener = self.listeners.first().unwrap_or(&"http");
            let variable = variable(&["listen", listener]);
            return Err(VariableError::Address { variable, address: suggested_address(value) });
        }
        self.unknown(rest).map_or(Ok(None), Err)
    }

    fn listen_path(&self, name: &str, rest: &str) -> Result<Option<Vec<String>>, VariableError> {
        let variable = |path: &[&str]| self.prefix.variable(path);
        let unknown = || self.unknown(&format!("LISTEN_{rest}")).map_or(Ok(None), Err);
        // No listener's name has `__` in it.
        let (listener, field) = match rest.split_once("__") {
            Some((listener, field)) => (listener, Some(field)),
            None => (rest, None),
        };
        let form = variable(&["listen", listener]);
        let mut declared = self.listeners.iter().filter(|it| variable(&["listen", it]) == form);
        let listener = match (declared.next(), declared.next()) {
            (Some(one), Some(two)) => {
                return Err(VariableError::Ambiguous((*one).to_owned(), (*two).to_owned()));
            }
            (Some(one), None) => (*one).to_owned(),
            (None, _) if self.joins_field(rest) => return unknown(),
            (None, _) => listener.to_lowercase(),
        };
        let field = field.map(str::to_lowercase);
        let is_field = field.as_deref().is_none_or(|f| schema::listener_field(f).is_some());
        let path: Vec<String> = ["listen".to_owned(), listener].into_iter().chain(field).collect();
        let parts: Vec<&str> = path.iter().map(String::as_str).collect();
        if !is_field || variable(&parts) != name {
            return unknown();
        }
        Ok(Some(path))
    }

    /// Whether `rest` is a declared listener and a field with one `_` between: a typo, not a name.
    fn joins_field(&self, rest: &str) -> bool {
        let variable = |path: &[&str]| self.prefix.variable(path);
        LISTENER_FIELDS.iter().any(|field| {
            let behind = format!("_{}", field.name.to_ascii_uppercase());
            rest.strip_suffix(behind.as_str()).is_some_and(|listener| {
                let form = variable(&["listen", listener]);
                self.listeners.iter().any(|l| variable(&["listen", l]) == form)
            })
        })
    }

    fn app_path(&self, rest: &str) -> Result<Vec<String>, VariableError> {
        let parts: Vec<&str> = rest.split("__").collect();
        if parts.len() >= DEPTH || parts.iter().any(|part| part.is_empty()) {
            let (key, table) = (self.prefix.with("APP__KEY"), self.prefix.with("APP__TABLE__KEY"));
            return Err(VariableError::AppKey(key, table));
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

    /// The mistake in a variable that sets no key; `None` if it may be the program's own.
    fn unknown(&self, rest: &str) -> Option<VariableError> {
        let prefix = self.prefix;
        let variable = |path: &[&str]| prefix.variable(path);
        let fields = self.listeners.iter().flat_map(|listener| {
            let field = move |k: &schema::Key| variable(&["listen", listener, k.name]);
            let plain = variable(&["listen", listener]);
            LISTENER_FIELDS.iter().map(field).chain([plain])
        });
        let limits = LIMITS.iter().map(|limit| variable(&["limits", limit]));
        let plain = KEYS.iter().map(|k| variable(&[k.name])).chain(limits);
        // Compared without the prefix, which would make everything look near.
        let behind = |variable: String| prefix.strip(&variable).map(str::to_owned);
        let known = plain.chain(fields).filter_map(behind);
        let section =
            |what, rest| Some(VariableError::Section { what, example: prefix.with(rest) });
        match rest {
            "LISTEN" => section("listener", "LISTEN_HTTP"),
            "LIMITS" => section("limit", "LIMITS_NOFILE"),
            "APP" => section("key", "APP__KEY"),
            _ => {
                let near = nearest(rest, known).map(|near| prefix.with(&near));
                let is_mistake = near.is_some() || prefix.is_ours_alone();
                is_mistake
                    .then(|| VariableError::Unknown { near, prefix: prefix.word().to_owned() })
            }
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
    use crate::config::keys;
    use proptest::prelude::*;

    fn below(listeners: &[&str], app: &[&str]) -> Dict {
        let section = |keys: &[&str]| {
            Value::from(keys.iter().map(|k| (k.to_string(), Value::from("x"))).collect::<Dict>())
        };
        let sections = [("listen", section(listeners)), ("app", section(app))];
        sections.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()
    }

    const OURS: Prefix<'static> = Prefix::new(schema::DEFAULT_PREFIX);

    /// The key, or the message.
    fn path(name: &str, below: &Dict) -> Result<Option<String>, String> {
        path_of(OURS, name, below)
    }

    fn path_of(prefix: Prefix<'_>, name: &str, below: &Dict) -> Result<Option<String>, String> {
        let path = Known::new(prefix, &[below]).path(name, "x");
        let message = |error| Problem::Variable { name: name.to_owned(), error }.to_string();
        path.map(|path| path.map(|p| keys::join(&p))).map_err(message)
    }

    #[test]
    fn one_variable_one_key() {
        let dict = below(&["http", "my-api", "a"], &["max-conn", "maxSize"]);
        for (name, key) in [
            ("DAEMON_DRAIN_TIMEOUT", "drain_timeout"),
            ("DAEMON_START_LIMIT_INTERVAL", "start_limit_interval"),
            ("DAEMON_LISTEN_HTTP", "listen.http"),
            ("DAEMON_LISTEN_HTTP__BACKLOG", "listen.http.backlog"),
            ("DAEMON_LISTEN_MY_API", "listen.my-api"),
            ("DAEMON_LISTEN_MY_API__V6ONLY", "listen.my-api.v6only"),
            ("DAEMON_LISTEN_OTHER_ONE", "listen.other_one"),
            ("DAEMON_LISTEN_OTHER_ONE__ADDR", "listen.other_one.addr"),
            ("DAEMON_LISTEN_A__MODE", "listen.a.mode"),
            ("DAEMON_LISTEN_B__MODE", "listen.b.mode"),
            ("DAEMON_APP__DB__POOL", "app.db.pool"),
            ("DAEMON_APP__MAX_CONN", "app.max-conn"),
            ("DAEMON_APP__MAXSIZE", "app.maxSize"),
        ] {
            assert_eq!(path(name, &dict), Ok(Some(key.to_owned())), "{name}");
        }
    }

    #[test]
    fn a_prefix_of_its_own_shares_it_with_the_program() {
        let dict = below(&["http"], &[]);
        let path = |name: &str| path_of(Prefix::new("WASTE_BIN"), name, &dict);
        assert_eq!(path("WASTE_BIN_LOG"), Ok(Some("log".into())));
        assert_eq!(path("WASTE_BIN_LISTEN_HTTP__BACKLOG"), Ok(Some("listen.http.backlog".into())));
        assert_eq!(path("WASTE_BIN_APP__TITLE"), Ok(Some("app.title".into())));
        for others in ["DAEMON_LOG", "WASTE_BINS_LOG", "WASTE_LOG", "WASTE_BIN"] {
            assert_eq!(path(others), Ok(None), "{others}");
        }
        // A variable of the program, and a typo.
        assert_eq!(path("WASTE_BIN_TITLE"), Ok(None));
        let problem = path("WASTE_BIN_DRAIN_TIMOUT").unwrap_err();
        assert!(problem.ends_with("did you mean WASTE_BIN_DRAIN_TIMEOUT?"), "{problem}");
        let problem = path("WASTE_BIN_APP__").unwrap_err();
        assert!(problem.contains("expected WASTE_BIN_APP__KEY or WASTE_BIN_APP__TABLE__KEY"));
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
            ("DAEMON_LISTEN_A__MODE__MODE", "not a known variable"),
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
            let vars = variables(&vars(&[(one, "x"), (two, "y")]), &[], &mut problems);
            environment(OURS, &vars, &[], Path::new("/"), &mut problems);
            assert_eq!(
                problems.iter().map(ToString::to_string).collect::<Vec<_>>(),
                [format!("{one} and {two} set the same key: unset one of them")]
            );
        }
        let mut problems = vec![];
        let two = [("DAEMON_APP__A", "x"), ("DAEMON_APP__AB", "y")];
        let vars = variables(&vars(&two), &[], &mut problems);
        environment(OURS, &vars, &[], Path::new("/"), &mut problems);
        assert!(problems.is_empty(), "{problems:?}");
    }

    proptest! {
        #[test]
        fn any_name_is_answered(rest in "[A-Z_a-zä0-9]{0,40}", listener in "[a-z0-9]{1,4}([_-][a-z0-9]{1,4})?") {
            let _ = path(&format!("DAEMON_{rest}"), &below(&[&listener], &["a-b"]));
            let _ = path(&format!("DAEMON_LISTEN_{rest}"), &below(&[&listener], &[]));
        }

        #[test]
        fn declared_listeners_are_reached(name in "[a-z0-9]{1,4}([_-][a-z0-9]{1,4}){0,2}", field in 0..6usize) {
            let dict = below(&[&name], &[]);
            let field = LISTENER_FIELDS[field].name;
            prop_assert_eq!(path(&OURS.variable(&["listen", &name]), &dict), Ok(Some(format!("listen.{name}"))));
            let whole = OURS.variable(&["listen", &name, field]);
            prop_assert_eq!(path(&whole, &dict), Ok(Some(format!("listen.{name}.{field}"))));
        }
    }
}
