//! Writes the lines of unit files, and escapes what they contain (systemd.syntax(7)).

use std::fmt::Display;
use std::path::Path;
use std::time::Duration;

/// A unit file under construction.
#[derive(Debug, Default)]
pub(super) struct Text(String);

impl Text {
    /// Begins a section.
    pub(super) fn section(&mut self, name: &str) -> &mut Text {
        self.gap();
        self.line(format_args!("[{name}]"))
    }

    /// Begins a group of lines, separated by an empty line, with a comment.
    pub(super) fn group(&mut self, comment: &str) -> &mut Text {
        if !self.0.ends_with("]\n") {
            self.gap();
        }
        self.comment(comment)
    }

    /// Adds a comment.
    pub(super) fn comment(&mut self, comment: &str) -> &mut Text {
        for line in comment.lines() {
            self.line(format_args!("# {line}"));
        }
        self
    }

    /// Adds a directive; the value is not escaped.
    pub(super) fn set(&mut self, key: &str, value: impl Display) -> &mut Text {
        self.line(format_args!("{key}={value}"))
    }

    fn line(&mut self, line: impl Display) -> &mut Text {
        self.0 += &format!("{line}\n");
        self
    }

    fn gap(&mut self) {
        if !self.0.is_empty() {
            self.0.push('\n');
        }
    }

    pub(super) fn into_string(self) -> String {
        self.0
    }
}

/// Escapes a word of a list: specifiers are escaped, and the word is quoted if necessary.
pub(super) fn word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/-_.,:=+@%".contains(c);
    let escaped = whole(text);
    if !text.is_empty() && text.chars().all(plain) {
        return escaped;
    }
    let mut quoted = String::from("\"");
    for c in escaped.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted += "\\n",
            '\t' => quoted += "\\t",
            '\r' => quoted += "\\r",
            c if c.is_ascii_control() => quoted += &format!("\\x{:02x}", u32::from(c)),
            c => quoted.push(c),
        }
    }
    quoted + "\""
}

/// Escapes a word of a command line, in which systemd also expands variables. A `;` alone would begin another
/// command.
pub(super) fn argument(text: &str) -> String {
    match text {
        ";" => "\\;".to_owned(),
        text => word(&text.replace('$', "$$")),
    }
}

/// Escapes a value that extends to the end of the line: only specifiers.
pub(super) fn whole(text: &str) -> String {
    text.replace('%', "%%")
}

/// Escapes a path as a word.
pub(super) fn path(path: &Path) -> String {
    word(&path.to_string_lossy())
}

/// A duration in whole seconds, rounded up.
pub(super) fn seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

/// Escapes a name for use in the name of a unit (systemd.unit(5)).
pub(super) fn escape(name: &str) -> String {
    let byte = |b: u8| match b {
        b if b.is_ascii_alphanumeric() || b":-_.".contains(&b) => char::from(b).to_string(),
        b => format!("\\x{b:02x}"),
    };
    name.bytes().map(byte).collect()
}

/// Converts a name to a valid user name (useradd(8)).
pub(super) fn user(name: &str) -> String {
    let lower = name.to_ascii_lowercase();
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
    let name: String = lower.chars().map(|c| if good(c) { c } else { '_' }).take(31).collect();
    match name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_') {
        true => name,
        false => format!("_{}", &name[..name.len().min(30)]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_and_escaped() {
        for (text, written) in [
            ("/usr/bin/hello", "/usr/bin/hello"),
            ("", "\"\""),
            ("/opt/my app/hello", "\"/opt/my app/hello\""),
            ("a%b", "a%%b"),
            ("100% \"sure\"\\", "\"100%% \\\"sure\\\"\\\\\""),
            ("two\nlines\u{1}", "\"two\\nlines\\x01\""),
            ("größe", "\"größe\""),
            ("$HOME", "\"$HOME\""),
        ] {
            assert_eq!(word(text), written, "{text}");
        }
        assert_eq!(argument("$HOME;"), "\"$$HOME;\"");
        assert_eq!(argument(";"), "\\;");
    }

    #[test]
    fn names_are_valid_for_units_and_users() {
        assert_eq!(escape("my app@2"), "my\\x20app\\x402");
        assert_eq!(escape("a-b_c.d:e"), "a-b_c.d:e");
        assert_eq!(user("My.App"), "my_app");
        assert_eq!(user("2nd"), "_2nd");
        assert_eq!(user(&"9".repeat(40)), format!("_{}", "9".repeat(30)));
    }

    #[test]
    fn seconds_are_rounded_up() {
        assert_eq!(seconds(Duration::from_millis(1)), 1);
        assert_eq!(seconds(Duration::from_secs(30)), 30);
        assert_eq!(seconds(Duration::from_millis(30_500)), 31);
    }
}
