//! The output of `check`: each key with its value and source.

use serde_json::{Map, Value as Json, json};

use unbroken_schema::{Fallback, HTTP_FIELDS, KEYS, Needs, listener_field};

use super::{Configuration, Settings, keys};
use crate::json;

/// One key. `value` is null if there is none; `otherwise` is what happens then.
struct Row {
    key: String,
    value: Json,
    otherwise: Option<String>,
}

impl Configuration {
    /// For people: `key = value   # source`, aligned.
    pub(crate) fn text(&self) -> String {
        let rows: Vec<(String, String)> = self
            .rows()
            .into_iter()
            .filter_map(|row| {
                let value = match row.value {
                    Json::Null => row.otherwise?,
                    Json::String(text) if row.key.starts_with("app.") => format!("{text:?}"),
                    Json::String(text) => text,
                    Json::Array(items) if !row.key.starts_with("app.") => listed(&items),
                    value => value.to_string(),
                };
                Some((row.key, value))
            })
            .collect();
        let widest = |widths: &mut dyn Iterator<Item = usize>| widths.max().unwrap_or(0);
        let key = widest(&mut rows.iter().map(|(key, _)| key.chars().count()));
        let value = widest(&mut rows.iter().map(|(_, value)| value.chars().count())).min(48);
        let line =
            |(k, v): &(String, String)| format!("{k:<key$} = {v:<value$}  # {}\n", self.source(k));
        rows.iter().map(line).collect()
    }

    /// For programs: `{"name": {"value": "hello", "source": "default"}, …}`.
    pub(crate) fn json(&self) -> Json {
        let entry = |row: Row| {
            let source = self.source(&row.key).to_owned();
            (row.key, json!({ "value": row.value, "source": source }))
        };
        let mut entries = Map::new();
        entries.extend(self.rows().into_iter().map(entry));
        Json::Object(entries)
    }

    fn source(&self, key: &str) -> &str {
        self.sources.get(key).map_or("default", String::as_str)
    }

    fn rows(&self) -> Vec<Row> {
        let settings = &self.settings;
        let values = settings.json();
        let value = |key: &str| values.get(key).cloned().unwrap_or_default();
        let mut rows = Vec::new();
        for key in KEYS {
            let solo = key.needs == Needs::Supervisor && !settings.graceful_restart;
            let (value, otherwise) = match (key.name, key.default) {
                _ if solo => (Json::Null, "not used without graceful_restart".to_owned()),
                ("umask", Fallback::Absent(otherwise)) => {
                    (octal(settings.umask), otherwise.to_owned())
                }
                ("log_mode", _) => (octal(Some(settings.log_mode)), String::new()),
                ("log", _) => (value("log"), log_default(settings)),
                (name, Fallback::Absent(otherwise)) => (value(name), otherwise.to_owned()),
                (name, _) => (value(name), String::new()),
            };
            rows.push(Row { key: key.name.to_owned(), value, otherwise: Some(otherwise) });
            if key.name == "detach" {
                let value = settings.graceful_restart.into();
                rows.push(Row { key: "graceful_restart".into(), value, otherwise: None });
            }
        }
        for (name, limit) in &settings.limits {
            let key = keys::join(&["limits", name]);
            rows.push(Row { key, value: limit.to_string().into(), otherwise: None });
        }
        for (name, listener) in &settings.listen {
            let key = keys::join(&["listen", name]);
            let (unix, ipv6) = (listener.is_unix(), listener.is_ipv6());
            let addrs: Vec<String> = listener.addrs().iter().map(ToString::to_string).collect();
            let mut push = |field: &str, value: Json, applies: bool| {
                let absent = listener_field(field).map(|k| k.default);
                let (otherwise, value) = match absent {
                    Some(Fallback::Absent(otherwise)) if applies => {
                        (Some(otherwise.to_owned()), if value == "0s" { Json::Null } else { value })
                    }
                    _ => (None, value),
                };
                let key = if field == "addr" { key.clone() } else { keys::child(&key, field) };
                rows.push(Row { key, value: if applies { value } else { Json::Null }, otherwise });
            };
            push(
                "addr",
                match &addrs[..] {
                    [addr] => addr.to_string().into(),
                    _ => addrs.iter().map(ToString::to_string).collect(),
                },
                true,
            );
            push("backlog", listener.backlog.into(), true);
            push("mode", octal(listener.mode), unix);
            push("user", json!(listener.user), unix);
            push("group", json!(listener.group), unix);
            push("v6only", listener.v6only.into(), ipv6);
            let http = json::to_value(&listener.http).unwrap_or_default();
            for field in HTTP_FIELDS {
                let value = http.get(field).cloned().unwrap_or_default();
                push(field, value, !unix || *field != "tcp_keepalive");
            }
        }
        if let Json::Object(section) = &self.app {
            leaves("app", section, &mut rows);
        }
        for row in rows.iter_mut().filter(|row| self.secrets.hidden.contains(&row.key)) {
            (row.value, row.otherwise) = (Json::Null, Some("(not shown)".to_owned()));
        }
        rows
    }
}

fn leaves(path: &str, table: &Map<String, Json>, rows: &mut Vec<Row>) {
    for (key, value) in table {
        let key = keys::child(path, key);
        match value {
            Json::Object(table) => leaves(&key, table, rows),
            value => rows.push(Row { key, value: value.clone(), otherwise: None }),
        }
    }
}

/// As `--set` takes it.
fn listed(items: &[Json]) -> String {
    let items: Vec<&str> = items.iter().filter_map(Json::as_str).collect();
    if items.is_empty() { "none".to_owned() } else { items.join(",") }
}

fn octal(mode: Option<u32>) -> Json {
    mode.map_or(Json::Null, |mode| format!("{mode:04o}").into())
}

fn log_default(settings: &Settings) -> String {
    format!("stderr; when detached {}", settings.detached_log.display())
}
