//! Variables and options with absolute paths, for a start from another directory.

use std::ffi::{OsStr, OsString};
use unbroken_core::sorted::sort_few;

use unbroken_schema::{Kind, key};

use super::{Configuration, env};

impl Configuration {
    /// Whether a variable is configuration, and so was read.
    pub(crate) fn has_read(&self, name: &OsStr, value: &OsStr) -> bool {
        let (name, value) = (name.to_string_lossy(), value.to_string_lossy());
        env::is_ours(self.settings.prefix(), &name, &value)
    }

    /// The variables among `vars` that are configuration, with paths made absolute.
    pub(crate) fn variables(&self, vars: &[(OsString, OsString)]) -> Vec<(String, String)> {
        let text = vars.iter().filter_map(|(name, value)| Some((name.to_str()?, value.to_str()?)));
        let mut ours: Vec<_> = text
            .filter(|(name, value)| {
                let is_source = || self.sources.values().any(|source| source == name);
                env::is_ours(self.settings.prefix(), name, value) || is_source()
            })
            .map(|(name, value)| (name.to_owned(), self.absolute(name, value)))
            .collect();
        sort_few(&mut ours, |a, b| a < b);
        ours
    }

    /// The `key=value` of `--set` options, with paths made absolute.
    pub(crate) fn options(&self, overrides: &[String]) -> Vec<String> {
        let option = |text: &String| match text.split_once('=') {
            Some((key, value)) => {
                let value = self.absolute(&format!("--set {}", key.trim()), value);
                format!("{}={value}", key.trim())
            }
            None => text.clone(),
        };
        overrides.iter().map(option).collect()
    }

    /// The absolute path that a variable or option set, or its value if that is no path.
    fn absolute(&self, spelled: &str, given: &str) -> String {
        let keys = self.sources.iter().filter(|(_, source)| *source == spelled);
        let path = keys.filter_map(|(key, _)| self.path_at(key)).next();
        path.unwrap_or_else(|| given.to_owned())
    }

    fn path_at(&self, name: &str) -> Option<String> {
        if key(name).is_some_and(|key| key.kind == Kind::Path) {
            return self.settings.json().get(name)?.as_str().map(str::to_owned);
        }
        if let (true, Some(files)) = (name == "env_file", &self.settings.env_file) {
            let files: Vec<String> = files.iter().map(ToString::to_string).collect();
            return Some(files.join(","));
        }
        let mut listeners = self.settings.listen.iter();
        let (_, listener) = listeners.find(|(it, _)| super::keys::join(&["listen", it]) == name)?;
        let addrs: Vec<String> = listener.addrs().iter().map(ToString::to_string).collect();
        listener.is_unix().then(|| addrs.join(","))
    }
}
