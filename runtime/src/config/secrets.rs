//! Secrets of the application, which are never shown: contents of files that variables name
//! (`DAEMON_APP__PASSWORD_FILE`), and a service manager's credentials (`$CREDENTIALS_DIRECTORY`).

use std::fs;
use std::io::Read;
use std::path::Path;

use super::problem::{Problem, ReadError};
use super::{Configuration, keys};
use crate::json::{FromJson, ToJson};
use unbroken_core::sorted::{SortedMap, SortedSet};

/// The suffix of a key that names a file with the value.
pub(super) const SUFFIX: &str = "_file";

/// The longest secret. The program reads a longer file itself.
const MOST: u64 = 16 * 1024;

/// The content of a file that holds a value.
#[derive(Debug, Clone, PartialEq, Eq, ToJson, FromJson)]
#[json(rename_all = "kebab-case")]
pub(crate) enum Content {
    /// Without the end of its last line.
    Text(String),
    /// Why it could not be read, which matters only if the program asks for the value.
    Missing(String),
}

impl Content {
    pub(super) fn of(path: &Path) -> Content {
        match read(path) {
            Ok(text) => Content::Text(text),
            Err(error) => Content::Missing(unreadable(path, error).to_string()),
        }
    }
}

fn unreadable(path: &Path, error: ReadError) -> Problem {
    Problem::Unreadable { path: path.display().to_string(), named_by: None, error }
}

fn read(path: &Path) -> Result<String, ReadError> {
    // Opening a pipe would block.
    if !fs::metadata(path)?.is_file() {
        return Err(ReadError::NotAFile);
    }
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(MOST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MOST {
        return Err(ReadError::TooLong(MOST));
    }
    let mut text = String::from_utf8(bytes).map_err(|_| ReadError::NotUtf8)?;
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    Ok(text)
}

/// The credentials that are values of the application, `app.database.password`, by name.
pub(super) fn credentials(dir: &Path, problems: &mut Vec<Problem>) -> SortedMap<String, String> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) => {
            let path = format!("$CREDENTIALS_DIRECTORY, {}", dir.display());
            problems.push(Problem::Unreadable { path, named_by: None, error: error.into() });
            return SortedMap::new();
        }
    };
    let mut found = SortedMap::new();
    for entry in entries.flatten() {
        let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
        if !name.starts_with("app.") {
            continue;
        }
        match read(&entry.path()) {
            Ok(text) => _ = found.insert(name, text),
            Err(error) => problems.push(unreadable(&entry.path(), error)),
        }
    }
    found
}

/// The secrets of a configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, ToJson, FromJson)]
#[json(default)]
pub(crate) struct Secrets {
    /// The keys whose values are not shown.
    pub(super) hidden: SortedSet<String>,
    /// By the key of the name of the file: `app.password_file`.
    pub(super) files: SortedMap<String, Content>,
}

impl Secrets {
    /// Whether the value of a key is not to be shown.
    pub(super) fn hides(&self, key: &str) -> bool {
        self.hidden.contains(key) || self.files.contains_key(&format!("{key}{SUFFIX}"))
    }

    /// Whether a text contains one of them.
    pub(super) fn are_in(&self, text: &str, app: &serde_json::Value) -> bool {
        let is_in = |secret: &str| {
            // A shorter text occurs everywhere.
            secret.len() > 2 && (text.contains(secret) || text.contains(&format!("{secret:?}")))
        };
        let hidden = self.hidden.iter().filter_map(|key| value_at(app, key)?.as_str());
        let contents = self.files.values().filter_map(|content| match content {
            Content::Text(text) => Some(text.as_str()),
            Content::Missing(_) => None,
        });
        hidden.chain(contents).any(is_in)
    }
}

fn value_at<'a>(app: &'a serde_json::Value, key: &str) -> Option<&'a serde_json::Value> {
    fn find<'a>(
        value: &'a serde_json::Value,
        path: &str,
        key: &str,
    ) -> Option<&'a serde_json::Value> {
        if path == key {
            return Some(value);
        }
        let table = value.as_object()?;
        table.iter().find_map(|(part, value)| find(value, &keys::child(path, part), key))
    }
    find(app, "app", key)
}

impl Configuration {
    /// Whether the value of a key of the application is not to be shown.
    pub(crate) fn hides(&self, key: &str) -> bool {
        self.secrets.hides(key)
    }

    /// Whether a key names a file in place of a value, which is read already.
    pub(crate) fn has_content(&self, key: &str) -> bool {
        self.secrets.files.contains_key(key)
    }
}
