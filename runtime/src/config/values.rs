//! One value to its type, by the kind of its key.

use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use figment::value::{Num, Value};

use super::document::DATETIME;
use super::env::EnvFile;
use super::origin::Origin;
use super::{
    Address, Further, Limit, LogFormat, LogLevel, Ready, RestartPolicy, address, addresses, env,
    keys,
};
use crate::sys::capabilities;
use unbroken_core::sorted::sort_few;

/// A value, and what its reading depends on.
pub(super) struct Raw<'a> {
    pub(super) value: &'a Value,
    pub(super) origin: &'a Origin,
    pub(super) start_dir: &'a Path,
}

/// What is allowed instead, as a sentence ends: `expected true or false`.
type Parsed<T> = Result<T, String>;

/// Longer durations are slips, and would overflow clocks.
pub(super) const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

impl Raw<'_> {
    fn text(&self) -> Option<&str> {
        self.value.as_str()
    }

    fn integer(&self) -> Option<i128> {
        match (self.value, self.origin.is_text()) {
            (Value::Num(_, number), _) => integer(number),
            (Value::String(_, text), true) => text.trim().parse().ok(),
            _ => None,
        }
    }

    fn absolute(&self, path: &Path) -> Parsed<PathBuf> {
        let path = absolute(self.origin.base(self.start_dir), path);
        match path.to_str() {
            Some(_) => Ok(path),
            None => Err(format!("{} is not UTF-8, give an absolute path that is", path.display())),
        }
    }
}

pub(super) fn name(raw: &Raw<'_>) -> Parsed<String> {
    let name = raw.text().ok_or("expected text")?;
    let whole = name.len() <= 64 && !name.starts_with('.');
    match whole && !name.contains(|c: char| c == '/' || c.is_control()) {
        true => Ok(name.to_owned()),
        false => Err("expected at most 64 bytes that can name a file, without `/` and not \
                beginning with `.`"
            .into()),
    }
}

pub(super) fn flag(raw: &Raw<'_>) -> Parsed<bool> {
    match raw.value {
        Value::Bool(_, flag) => Some(*flag),
        Value::String(_, text) if raw.origin.is_text() => bool_text(text),
        _ => None,
    }
    .ok_or_else(|| "expected true or false".into())
}

pub(super) fn duration(raw: &Raw<'_>) -> Parsed<Duration> {
    const EXPECTED: &str = "expected a duration such as \"30s\" or \"1m 30s\"";
    if let Some(number) = raw.integer().filter(|n| *n >= 0) {
        return match number == 0 && raw.text().is_some() {
            true => Ok(Duration::ZERO),
            false => Err(format!("expected a duration with its unit, such as \"{number}s\"")),
        };
    }
    let duration = raw.text().and_then(|text| humantime::parse_duration(text).ok());
    match duration {
        Some(duration) if duration > LONGEST => Err("expected at most 365days".into()),
        Some(duration) => Ok(duration),
        None => Err(EXPECTED.into()),
    }
}

pub(super) fn positive_duration(raw: &Raw<'_>) -> Parsed<Duration> {
    match duration(raw)? {
        Duration::ZERO => Err("expected more than 0s".into()),
        duration => Ok(duration),
    }
}

/// A whole number from 1 to `max`.
pub(super) fn count(raw: &Raw<'_>, max: u32) -> Parsed<u32> {
    let number = raw.integer().and_then(|n| u32::try_from(n).ok());
    let number = number.filter(|n| (1..=max).contains(n));
    number.ok_or_else(|| format!("expected a whole number from 1 to {max}"))
}

/// Permission bits: octal in text, the number itself where the layer has numbers (`0o27`).
pub(super) fn mode(raw: &Raw<'_>) -> Parsed<u32> {
    let number = match raw.value {
        Value::Num(_, number) => integer(number).and_then(|n| u32::try_from(n).ok()),
        value => value.as_str().and_then(|text| {
            let digits = text.strip_prefix("0o").unwrap_or(text);
            let octal = digits.bytes().all(|b| b.is_ascii_digit());
            u32::from_str_radix(digits, 8).ok().filter(|_| octal)
        }),
    };
    number
        .filter(|n| *n <= 0o777)
        .ok_or_else(|| "expected an octal mode from \"0000\" to \"0777\", such as \"0027\"".into())
}

/// An absolute path.
pub(super) fn path(raw: &Raw<'_>) -> Parsed<PathBuf> {
    match raw.text() {
        Some(text) if !text.contains('\0') => raw.absolute(Path::new(text)),
        _ => Err("expected a path".into()),
    }
}

pub(super) fn ready(raw: &Raw<'_>) -> Parsed<Ready> {
    match raw.text() {
        Some("auto") => Ok(Ready::Auto),
        Some("manual") => Ok(Ready::Manual),
        _ => Err("expected `auto` or `manual`".into()),
    }
}

pub(super) fn restart(raw: &Raw<'_>) -> Parsed<RestartPolicy> {
    match raw.text() {
        Some("no") => Ok(RestartPolicy::No),
        Some("on-failure") => Ok(RestartPolicy::OnFailure),
        Some("always") => Ok(RestartPolicy::Always),
        _ => Err("expected `no`, `on-failure` or `always`".into()),
    }
}

pub(super) fn log_format(raw: &Raw<'_>) -> Parsed<LogFormat> {
    let format = match raw.text() {
        Some("none") => return Ok(LogFormat::None),
        Some("text") => LogFormat::Text,
        Some("json") => LogFormat::Json,
        Some("journald") => LogFormat::Journald,
        Some("auto") => LogFormat::Auto,
        _ => return Err("expected `none`, `text`, `json`, `journald` or `auto`".into()),
    };
    match cfg!(feature = "log") {
        true => Ok(format),
        false => Err("this program was built without the feature `log` of unbroken: expected \
                `none`, or build it with the feature"
            .into()),
    }
}

pub(super) fn log_level(raw: &Raw<'_>) -> Parsed<LogLevel> {
    match raw.text() {
        Some("error") => Ok(LogLevel::Error),
        Some("warn") => Ok(LogLevel::Warn),
        Some("info") => Ok(LogLevel::Info),
        Some("debug") => Ok(LogLevel::Debug),
        Some("trace") => Ok(LogLevel::Trace),
        _ => Err("expected `error`, `warn`, `info`, `debug` or `trace`".into()),
    }
}

/// The addresses of a listener: an array, or text with commas.
pub(super) fn addresses(raw: &Raw<'_>) -> Parsed<(Address, Further)> {
    let expected = || format!("expected {}", address::ALLOWED);
    let parts: Vec<&str> = match raw.value {
        Value::String(_, text) => addresses::split(text),
        Value::Array(_, items) => {
            items.iter().map(Value::as_str).collect::<Option<_>>().ok_or_else(expected)?
        }
        _ => return Err(expected()),
    };
    let parsed = parts.into_iter().map(|part| {
        Ok(match addresses::parse(part)? {
            (Address::Unix(path), half) => {
                let path = raw.absolute(&path)?;
                address::check_unix(&path)?;
                (Address::Unix(path), half)
            }
            tcp => tcp,
        })
    });
    addresses::together(parsed.collect::<Parsed<_>>()?)
        .map_err(|twice| format!("{twice} is there twice: remove one"))?
        .ok_or_else(expected)
}

/// An address and a port: what probes are sent to is no path.
pub(super) fn socket(raw: &Raw<'_>) -> Parsed<std::net::SocketAddr> {
    match raw.text().map(str::parse) {
        Some(Ok(Address::Tcp(addr))) => Ok(addr),
        Some(Err(expected)) => Err(expected),
        _ => Err("expected an address and a port, such as \"0.0.0.0:8086\"".into()),
    }
}

/// A user or group, looked up where it is used.
pub(super) fn account(raw: &Raw<'_>) -> Parsed<String> {
    let named = |t: &&str| !t.contains(|c: char| c == ':' || c.is_whitespace() || c.is_control());
    let text = match raw.value {
        Value::Num(_, number) => {
            integer(number).and_then(|n| u32::try_from(n).ok()).map(|n| n.to_string())
        }
        value => value.as_str().filter(named).filter(|t| !t.is_empty()).map(str::to_owned),
    };
    text.ok_or_else(|| "expected a name or a number".into())
}

/// Users or groups: an array, or text with commas. `none` is none of them.
pub(super) fn accounts(raw: &Raw<'_>) -> Parsed<Vec<String>> {
    let parse = |item: &Value| account(&Raw { value: item, ..*raw });
    items(raw)
        .and_then(|items| items.iter().map(parse).collect::<Parsed<_>>().ok())
        .ok_or_else(|| "expected names or numbers, such as \"adm, ssl-cert\", or \"none\"".into())
}

/// Files of variables: an array, or text with commas.
pub(super) fn env_files(raw: &Raw<'_>) -> Parsed<Vec<EnvFile>> {
    let items = items(raw).ok_or("expected paths, such as \"/etc/default/hello\"")?;
    let file = |item: &Value| match item.as_str() {
        Some(text) if !text.is_empty() && !text.contains('\0') => {
            env::below(|path| raw.absolute(path), text)
        }
        _ => Err("expected paths, such as \"/etc/default/hello\"".into()),
    };
    items.iter().map(file).collect()
}

/// Names of capabilities(7), without `CAP_` and in small letters, sorted.
pub(super) fn capabilities(raw: &Raw<'_>) -> Parsed<Vec<String>> {
    const EXPECTED: &str = "expected capabilities, such as \"net_bind_service\", or \"none\"";
    let items = items(raw).ok_or(EXPECTED)?;
    let mut names = items
        .iter()
        .map(|item| {
            let text = item.as_str().ok_or(EXPECTED)?.to_ascii_lowercase();
            let name = text.strip_prefix("cap_").unwrap_or(&text).to_owned();
            if capabilities::named(&name).is_some() {
                return Ok(name);
            }
            let near = keys::nearest(name.as_str(), capabilities::names());
            Err(match near {
                Some(near) => format!("`{name}` is no capability: did you mean `{near}`?"),
                None => format!("`{name}` is no capability: {EXPECTED}"),
            })
        })
        .collect::<Parsed<Vec<String>>>()?;
    sort_few(&mut names, |a, b| a < b);
    names.dedup();
    Ok(names)
}

/// A resource limit: text, or a number that is soft and hard limit.
pub(super) fn limit(raw: &Raw<'_>) -> Parsed<Limit> {
    let text = match raw.value {
        Value::Num(_, number) => integer(number).map(|number| number.to_string()),
        value => value.as_str().map(str::to_owned),
    };
    Limit::try_from(text.unwrap_or_default())
}

/// A whole number from `min` to `max`.
pub(super) fn within(raw: &Raw<'_>, min: i32, max: i32) -> Parsed<i32> {
    let number = raw.integer().and_then(|number| i32::try_from(number).ok());
    let number = number.filter(|number| (min..=max).contains(number));
    number.ok_or_else(|| format!("expected a whole number from {min} to {max}"))
}

/// The items of an array, or of text with commas; none of `none`.
fn items(raw: &Raw<'_>) -> Option<Vec<Value>> {
    match raw.value {
        Value::Array(_, items) => Some(items.clone()),
        Value::String(_, text) if text == "none" => Some(Vec::new()),
        Value::String(_, text) => Some(text.split(',').map(|item| item.trim().into()).collect()),
        Value::Num(..) => Some(vec![raw.value.clone()]),
        _ => None,
    }
}

/// A value in a message.
pub(super) fn shown(value: &Value) -> String {
    match value {
        Value::String(_, text) => shown_text(text),
        Value::Char(_, c) => format!("{c:?}"),
        Value::Bool(_, flag) => flag.to_string(),
        Value::Num(_, number) => match (integer(number), number.to_f64()) {
            (Some(number), _) => number.to_string(),
            (None, Some(number)) => number.to_string(),
            (None, None) => "a number".into(),
        },
        Value::Empty(..) => "empty".into(),
        Value::Dict(..) => match datetime(value) {
            Some(text) => text.to_owned(),
            None => "a table".into(),
        },
        Value::Array(..) => "an array".into(),
    }
}

/// Text in a message: quoted, and no more than a line of it.
pub(super) fn shown_text(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// TOML's dates and times have no type of their own here: they arrive as a table of one key.
pub(super) fn datetime(value: &Value) -> Option<&str> {
    let dict = value.as_dict()?;
    dict.get(DATETIME)?.as_str().filter(|_| dict.len() == 1)
}

/// The words that systemd, too, takes for a flag.
pub(super) fn bool_text(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => Some(true),
        "false" | "no" | "off" | "0" => Some(false),
        _ => None,
    }
}

/// `path` below `base`, without `.`; `..` stays, as it is not the path's text that knows its parent.
pub(super) fn absolute(base: &Path, path: &Path) -> PathBuf {
    base.join(path).components().filter(|c| *c != Component::CurDir).collect()
}

fn integer(number: &Num) -> Option<i128> {
    match number.to_i128() {
        Some(number) => Some(number),
        None => number.to_u128().and_then(|n| i128::try_from(n).ok()),
    }
}
