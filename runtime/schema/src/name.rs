//! Names: of the daemon, of a listener, and of the prefix of environment variables.

use crate::Error;

/// The longest name, in bytes: it becomes part of file names.
const LONGEST: usize = 64;

/// What a listener's name may be, for messages.
pub const LISTENER_NAME_RULE: &str =
    "use words of a-z and 0-9 with single `_` or `-` between them, as in `web_api`";

/// Whether a listener can have this name.
///
/// `DAEMON_LISTEN_<NAME>__<FIELD>` separates name and field by `__`, and spells `-` as `_`. A name
/// without two of them in a row and without one at its end is never mistaken for a name and a field.
pub fn is_listener_name(name: &str) -> bool {
    let is_word = |word: &str| {
        !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
    };
    name.len() <= LONGEST && name.split(['_', '-']).all(is_word)
}

/// Checks the daemon's name, which names files.
pub(crate) fn check_daemon_name(name: &str) -> Result<(), Error> {
    let is_file_name = name.len() <= LONGEST && !name.starts_with('.');
    match is_file_name && !name.contains(|c: char| c == '/' || c.is_control()) {
        true => Ok(()),
        false => Err(Error::NotAName),
    }
}

/// Checks the name of an environment variable (environ(7), POSIX XBD 8.1).
pub(crate) fn check_variable(name: &str) -> Result<(), Error> {
    let is_name = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    match is_name && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
        true => Ok(()),
        false => Err(Error::NotAVariable),
    }
}

/// What the variables of a program begin with if its attribute has no `env_prefix`.
pub const DEFAULT_PREFIX: &str = "DAEMON";

/// Prefixes of variables that systemd or this crate define.
const RESERVED_PREFIXES: [&str; 4] = ["LISTEN", "NOTIFY", "UNBROKEN", "WATCHDOG"];

/// Parses `HELLO`, or `HELLO_` as the same.
pub(crate) fn prefix(text: &str) -> Result<&str, Error> {
    let word = text.strip_suffix('_').unwrap_or(text);
    let is_letter = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_';
    let is_word = word.bytes().all(is_letter) && !word.ends_with('_');
    if !is_word || !word.starts_with(|c: char| c.is_ascii_uppercase()) {
        let upper = word.to_ascii_uppercase().replace(['-', '.', ' '], "_");
        let upper = upper.trim_matches('_');
        let is_word =
            !upper.is_empty() && upper.bytes().all(|b| b.is_ascii_uppercase() || b == b'_');
        let example = if is_word { upper } else { "HELLO" };
        return Err(Error::NotAPrefix { example: example.to_owned() });
    }
    match RESERVED_PREFIXES.contains(&word) {
        true => Err(Error::ReservedPrefix(word.to_owned())),
        false => Ok(word),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listener_names() {
        for name in ["http", "my-api", "a_b", "0", "web2", &"a".repeat(64)] {
            assert!(is_listener_name(name), "{name}");
        }
        let long = "a".repeat(65);
        for name in ["", "-a", "_a", "a_", "a__b", "a-_b", "Http", "a b", "a.b", "ä", &long] {
            assert!(!is_listener_name(name), "{name}");
        }
    }

    #[test]
    fn daemon_names() {
        for name in ["hello", "my app", "ä", &"n".repeat(64)] {
            assert_eq!(check_daemon_name(name), Ok(()), "{name}");
        }
        for name in ["a/b", ".hidden", "a\nb", &"n".repeat(65)] {
            assert_eq!(check_daemon_name(name), Err(Error::NotAName), "{name}");
        }
    }

    #[test]
    fn prefixes() {
        assert_eq!(prefix("HELLO"), Ok("HELLO"));
        assert_eq!(prefix("WASTE_BIN_"), Ok("WASTE_BIN"));
        for (text, example) in [
            ("wastebin", "WASTEBIN"),
            ("my-app", "MY_APP"),
            ("9", "HELLO"),
            ("_", "HELLO"),
            ("A__", "A"),
        ] {
            let error = Error::NotAPrefix { example: example.to_owned() };
            assert_eq!(prefix(text), Err(error), "{text}");
        }
        assert_eq!(prefix("LISTEN_"), Err(Error::ReservedPrefix("LISTEN".to_owned())));
    }
}
