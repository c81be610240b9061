//! Key paths as TOML writes them: dots between, quotes around what is not a bare key.

/// A key path.
pub(super) fn join<S: AsRef<str>>(path: &[S]) -> String {
    path.iter().fold(String::new(), |joined, part| child(&joined, part.as_ref()))
}

/// The path of `part` under `parent`.
pub(super) fn child(parent: &str, part: &str) -> String {
    let bare = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    let part = match !part.is_empty() && part.bytes().all(bare) {
        true => part.to_owned(),
        false => format!("{part:?}"),
    };
    if parent.is_empty() { part } else { format!("{parent}.{part}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_quoted_as_in_toml() {
        assert_eq!(join(&["app", "db", "pool"]), "app.db.pool");
        assert_eq!(join(&["app", "a.b", ""]), r#"app."a.b"."""#);
    }
}
