//! Files of variables, in the format of systemd's `EnvironmentFile=` and Docker's `--env-file`.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::config::problem::{Problem, ReadError};
use crate::json::{FromJson, Mistake, ToJson, Writer};

/// A file of variables; with `-` before its path it may be missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EnvFile {
    pub(crate) path: PathBuf,
    pub(crate) optional: bool,
}

impl EnvFile {
    /// Its variables, in order. `named_by` is the key or option with its name. Errors do not quote the file,
    /// which may hold secrets.
    pub(in crate::config) fn read(&self, named_by: &str) -> Result<Vec<(String, String)>, Problem> {
        let path = || self.path.display().to_string();
        let unreadable = |error| {
            let named_by = Some(named_by.to_owned());
            Problem::Unreadable { path: path(), named_by, error }
        };
        let text = match fs::read(&self.path) {
            Ok(bytes) => String::from_utf8(bytes),
            Err(error) if self.optional && error.kind() == io::ErrorKind::NotFound => {
                return Ok(Vec::new());
            }
            Err(error) => return Err(unreadable(error.into())),
        };
        let text = text.map_err(|_| unreadable(ReadError::NotUtf8))?;
        parse(&text).map_err(|(line, error)| Problem::EnvFile { path: path(), line, error })
    }
}

impl EnvFile {
    /// The file with its path absolute.
    pub(crate) fn below(self, start_dir: &Path) -> EnvFile {
        EnvFile { path: start_dir.join(self.path), ..self }
    }
}

impl From<String> for EnvFile {
    fn from(text: String) -> EnvFile {
        match text.strip_prefix('-') {
            Some(path) => EnvFile { path: PathBuf::from(path), optional: true },
            None => EnvFile { path: PathBuf::from(text), optional: false },
        }
    }
}

impl ToJson for EnvFile {
    fn write(&self, out: &mut Writer) {
        out.display(self);
    }
}

impl FromJson for EnvFile {
    fn read(value: Value) -> Result<EnvFile, Mistake> {
        String::read(value).map(EnvFile::from)
    }
}

impl fmt::Display for EnvFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = if self.optional { "-" } else { "" };
        write!(f, "{mark}{}", self.path.display())
    }
}

/// Parses lines of `NAME=value`, of which the last one of a name counts; `#` and `;` begin comments. Text
/// in single quotes is literal; in double quotes, `\` escapes the next character. Quoted text may have
/// several lines. Nothing is expanded.
fn parse(text: &str) -> Result<Vec<(String, String)>, (usize, &'static str)> {
    let mut variables: Vec<(String, String)> = Vec::new();
    let mut rest = text.strip_prefix('\u{feff}').unwrap_or(text);
    let line_of = |rest: &str| text[..text.len() - rest.len()].matches('\n').count() + 1;
    loop {
        rest = rest.trim_start();
        if rest.is_empty() {
            return Ok(variables);
        }
        let line = line_of(rest);
        let (head, tail) = rest.split_once('\n').unwrap_or((rest, ""));
        if head.starts_with(['#', ';']) {
            rest = tail;
            continue;
        }
        let (name, _) = head.split_once('=').ok_or((line, "expected NAME=value"))?;
        let behind = &rest[name.len() + 1..];
        let name = name.trim();
        let name = name.strip_prefix("export ").unwrap_or(name).trim();
        let begins = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        if !begins || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            return Err((line, "expected a name of letters, digits and `_` before `=`"));
        }
        let (value, left) = value(behind).ok_or((line, "a quote begins and does not end"))?;
        if value.contains('\0') {
            return Err((line, "a value contains no NUL byte"));
        }
        variables.retain(|(other, _)| other != name);
        variables.push((name.to_owned(), value));
        rest = left;
    }
}

/// A value and the text after its line; `None` if a quote has no end.
fn value(text: &str) -> Option<(String, &str)> {
    let (mut value, mut kept) = (String::new(), 0);
    let mut chars = text.char_indices();
    let mut quote = None;
    let mut end = text.len();
    while let Some((at, c)) = chars.next() {
        match (quote, c) {
            (None, '\n') => {
                end = at;
                break;
            }
            (None, '\'' | '"') => {
                quote = Some(c);
                // Quoted text is not trimmed.
                kept = value.len();
            }
            (Some(open), c) if open == c => {
                quote = None;
                kept = value.len();
            }
            (None | Some('"'), '\\') => match chars.next() {
                // It continues the line.
                Some((_, '\n')) => {}
                Some((_, next)) if quote.is_none() || "\"\\$`".contains(next) => value.push(next),
                Some((_, next)) => value.extend(['\\', next]),
                None => value.push('\\'),
            },
            (None, c) if c.is_whitespace() && value.is_empty() && kept == 0 => {}
            (_, c) => value.push(c),
        }
    }
    if quote.is_some() {
        return None;
    }
    let trimmed = value.trim_end().len().max(kept);
    value.truncate(trimmed);
    Some((value, &text[end..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<(String, String)> {
        parse(text).unwrap()
    }

    #[test]
    fn what_others_write_is_understood() {
        let text = "# a comment\n; another\n\nA=1\n  B = two words \nexport C='  as it $stands\\n '\n\
                    D=\"a \\\"quoted\\\" \\$x \\n\"\nE=\nF='two\nlines'\nG=a\\\n b\nA=2\r\nH=x=y # no comment";
        let expected = [
            ("B", "two words"),
            ("C", "  as it $stands\\n "),
            ("D", "a \"quoted\" $x \\n"),
            ("E", ""),
            ("F", "two\nlines"),
            ("G", "a b"),
            ("A", "2"),
            ("H", "x=y # no comment"),
        ];
        assert_eq!(read(text), expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
        assert_eq!(read(""), []);
        assert_eq!(read("\u{feff}A=1"), [("A".to_owned(), "1".to_owned())]);
    }

    #[test]
    fn mistakes_have_a_line_and_no_text() {
        for (text, line) in [("A=1\nsecret", 2), ("A B=1", 1), ("\n\n9=1", 3), ("A='secret", 1)] {
            let (at, wrong) = parse(text).unwrap_err();
            assert_eq!(at, line, "{text}");
            assert!(!wrong.contains("secret"), "{wrong}");
        }
    }

    #[test]
    fn one_that_may_be_missing_says_so() {
        let file = EnvFile::from("-/no/such/file".to_owned());
        assert_eq!(file.to_string(), "-/no/such/file");
        assert_eq!(file.read("`env_file`").unwrap(), []);
        let file = EnvFile::from("/no/such/file".to_owned());
        let problem = file.read("`env_file`").unwrap_err().to_string();
        assert!(problem.starts_with("cannot read /no/such/file, named by `env_file`"), "{problem}");
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_answered(text in "[A-Za-z0-9_=#;'\" \\\\\n\räß]{0,80}") {
            let _ = parse(&text);
        }
    }
}
