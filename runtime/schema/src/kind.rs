//! What a key takes, and the one parser of it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::address::{self, Address, AddressError, Listen};
use crate::duration::{self, LONGEST};
use crate::limit::Limit;
use crate::suggest::nearest;
use crate::{Error, name, table};

/// What the value of a key is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The daemon's name.
    Name,
    /// `true` or `false`.
    Flag,
    /// `30s`, `1m 30s`.
    Duration,
    /// A duration above zero.
    PositiveDuration,
    /// A whole number from 1 to this.
    Count(u32),
    /// A whole number between these, both included.
    Integer(i32, i32),
    /// Permission bits, in octal.
    Mode,
    /// A path.
    Path,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// The addresses of a listener.
    Addresses,
    /// An IP address and a port.
    Socket,
    /// A user or group: a name or a number.
    Account,
    /// Users or groups.
    Accounts,
    /// Paths, each with `-` before it if the file may be missing.
    Paths,
    /// Names of capabilities(7).
    Capabilities,
    /// A resource limit.
    Limit,
    /// What environment variables begin with.
    Prefix,
    /// The path of a Rust crate.
    Crate,
    /// The path of a Rust function.
    Function,
    /// The name of an environment variable.
    Variable,
}

/// A value as a layer of the configuration has it.
#[derive(Debug, Clone, PartialEq)]
pub enum Input<'a> {
    /// A boolean.
    Flag(bool),
    /// A whole number.
    Number(i128),
    /// Text in quotes, beside which the layer has numbers and booleans.
    Text(&'a str),
    /// Text of a layer that has nothing else: a variable, or an option of the command line.
    Untyped(&'a str),
    /// An array.
    List(Vec<Input<'a>>),
    /// A value of another type, which no key takes.
    Other,
}

/// A value of a [`Kind`].
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "each is named after its kind")]
pub enum Value {
    Flag(bool),
    Duration(Duration),
    Count(u32),
    Integer(i32),
    Mode(u32),
    Text(String),
    Path(PathBuf),
    Choice(&'static str),
    Addresses(Vec<Listen>),
    Socket(SocketAddr),
    List(Vec<String>),
    Limit(Limit),
}

/// Takes a value out of its variant.
macro_rules! try_from_value {
    ($($variant:ident => $type:ty),* $(,)?) => {$(
        impl TryFrom<Value> for $type {
            type Error = Value;

            fn try_from(value: Value) -> Result<$type, Value> {
                match value {
                    Value::$variant(it) => Ok(it),
                    other => Err(other),
                }
            }
        }
    )*};
}

try_from_value! {
    Flag => bool,
    Duration => Duration,
    Integer => i32,
    Text => String,
    Path => PathBuf,
    Choice => &'static str,
    Addresses => Vec<Listen>,
    Socket => SocketAddr,
    List => Vec<String>,
    Limit => Limit,
}

impl TryFrom<Value> for u32 {
    type Error = Value;

    fn try_from(value: Value) -> Result<u32, Value> {
        match value {
            Value::Count(number) | Value::Mode(number) => Ok(number),
            other => Err(other),
        }
    }
}

impl Input<'_> {
    fn text(&self) -> Option<&str> {
        match self {
            Input::Text(text) | Input::Untyped(text) => Some(text),
            _ => None,
        }
    }

    fn integer(&self) -> Option<i128> {
        match self {
            Input::Number(number) => Some(*number),
            Input::Untyped(text) => text.trim().parse().ok(),
            _ => None,
        }
    }

    /// The items of an array, or of text with commas; no items of `none`.
    fn items(&self) -> Option<Vec<Input<'_>>> {
        match self {
            Input::List(items) => Some(items.clone()),
            Input::Text("none") | Input::Untyped("none") => Some(Vec::new()),
            Input::Text(text) | Input::Untyped(text) => {
                Some(text.split(',').map(|item| Input::Text(item.trim())).collect())
            }
            Input::Number(_) => Some(vec![self.clone()]),
            _ => None,
        }
    }
}

impl Kind {
    /// Parses a value.
    pub fn parse(self, input: &Input<'_>) -> Result<Value, Error> {
        if input.text().is_some_and(|text| text.trim().is_empty()) {
            return Err(Error::Empty);
        }
        let expected = Error::Expected(self);
        match self {
            Kind::Name => {
                let name = input.text().ok_or(expected)?;
                name::check_daemon_name(name)?;
                Ok(Value::Text(name.to_owned()))
            }
            Kind::Flag => flag(input).map(Value::Flag).ok_or(expected),
            Kind::Duration => duration(input, expected).map(Value::Duration),
            Kind::PositiveDuration => match duration(input, expected)? {
                Duration::ZERO => Err(Error::Zero),
                duration => Ok(Value::Duration(duration)),
            },
            Kind::Count(max) => {
                let number = input.integer().and_then(|number| u32::try_from(number).ok());
                number.filter(|it| (1..=max).contains(it)).map(Value::Count).ok_or(expected)
            }
            Kind::Integer(min, max) => {
                let number = input.integer().and_then(|number| i32::try_from(number).ok());
                number.filter(|it| (min..=max).contains(it)).map(Value::Integer).ok_or(expected)
            }
            Kind::Mode => mode(input).map(Value::Mode).ok_or(expected),
            Kind::Path => path(input).map(|path| Value::Path(path.into())).ok_or(expected),
            Kind::Choice(words) => {
                let word = input.text().ok_or(expected)?;
                let known = words.iter().find(|known| **known == word);
                known.map(|known| Value::Choice(known)).ok_or_else(|| Error::NotAChoice {
                    words,
                    near: nearest(word, words.iter().copied()),
                })
            }
            Kind::Addresses => addresses(input).map(Value::Addresses),
            Kind::Socket => match input.text().map(str::parse) {
                Some(Ok(Address::Tcp(address))) => Ok(Value::Socket(address)),
                Some(Err(error)) => Err(Error::Address(error)),
                Some(Ok(Address::Unix(_))) | None => Err(expected),
            },
            Kind::Account => account(input).map(Value::Text).ok_or(expected),
            Kind::Accounts => {
                let items = input.items().ok_or(expected.clone())?;
                let accounts: Option<Vec<String>> = items.iter().map(account).collect();
                accounts.map(Value::List).ok_or(expected)
            }
            Kind::Paths => {
                let items = input.items().ok_or(expected.clone())?;
                let paths = items.iter().map(|item| path(item).map(str::to_owned));
                paths.collect::<Option<_>>().map(Value::List).ok_or(expected)
            }
            Kind::Capabilities => {
                let items = input.items().ok_or(expected.clone())?;
                let names =
                    items.iter().map(|item| capability(item.text().ok_or(expected.clone())?));
                names.collect::<Result<_, _>>().map(Value::List)
            }
            Kind::Limit => match input {
                Input::Number(number) => number.to_string().parse().map(Value::Limit),
                _ => input.text().ok_or(expected)?.parse().map(Value::Limit),
            },
            Kind::Prefix => {
                name::prefix(input.text().ok_or(expected)?).map(|it| Value::Text(it.to_owned()))
            }
            Kind::Crate | Kind::Function => {
                input.text().map(|text| Value::Text(text.to_owned())).ok_or(expected)
            }
            Kind::Variable => {
                let text = input.text().ok_or(expected)?;
                name::check_variable(text).map(|()| Value::Text(text.to_owned()))
            }
        }
    }

    /// A value of the kind, as the attribute has it.
    pub fn example(self) -> String {
        let text = match self {
            Kind::Flag => return "true".into(),
            Kind::Count(_) | Kind::Integer(..) => return "5".into(),
            Kind::Accounts => return "[\"adm\", \"ssl-cert\"]".into(),
            Kind::Capabilities => return "[\"net_bind_service\"]".into(),
            Kind::Crate => return "::unbroken".into(),
            Kind::Function => return "function".into(),
            Kind::Name => "hello",
            Kind::Duration | Kind::PositiveDuration => "30s",
            Kind::Mode => "0640",
            Kind::Path => "/path",
            Kind::Choice(words) => words.first().copied().unwrap_or_default(),
            Kind::Addresses => "0.0.0.0:8080",
            Kind::Socket => "0.0.0.0:8086",
            Kind::Account => "www",
            Kind::Paths => "/etc/default/hello",
            Kind::Limit => "1024:4096",
            Kind::Prefix => "HELLO",
            Kind::Variable => "PORT",
        };
        format!("{text:?}")
    }

    /// The kind in words, for the reference of keys.
    pub fn words(self) -> String {
        match self {
            Kind::Name | Kind::Prefix | Kind::Crate | Kind::Variable => "text".into(),
            Kind::Function => "a function".into(),
            Kind::Flag => "true or false".into(),
            Kind::Duration | Kind::PositiveDuration => "a duration such as \"30s\"".into(),
            Kind::Count(_) => "a whole number".into(),
            Kind::Integer(..) => "a number, also below 0".into(),
            Kind::Mode => "an octal mode".into(),
            Kind::Path => "a path".into(),
            Kind::Choice(words) => match words.split_last() {
                Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
                None => String::new(),
            },
            Kind::Addresses => "a literal address".into(),
            Kind::Socket => "an address and a port".into(),
            Kind::Account => "a name or a number".into(),
            Kind::Accounts => "names or numbers".into(),
            Kind::Paths => "paths".into(),
            Kind::Capabilities => "names of capabilities".into(),
            Kind::Limit => "a limit such as \"1024:4096\"".into(),
        }
    }
}

fn flag(input: &Input<'_>) -> Option<bool> {
    match input {
        Input::Flag(flag) => Some(*flag),
        Input::Untyped(text) => flag_text(text),
        _ => None,
    }
}

/// The words that systemd takes for a flag, too.
pub fn flag_text(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => Some(true),
        "false" | "no" | "off" | "0" => Some(false),
        _ => None,
    }
}

fn duration(input: &Input<'_>, expected: Error) -> Result<Duration, Error> {
    let duration = match input {
        Input::Number(number) if *number >= 0 => return Err(Error::NoUnit(number.to_string())),
        _ => duration::parse(input.text().ok_or(expected)?)?,
    };
    if duration > LONGEST { Err(Error::TooLong) } else { Ok(duration) }
}

/// Octal in text, with or without `0o`; a number where the layer has numbers.
fn mode(input: &Input<'_>) -> Option<u32> {
    let bits = match input {
        Input::Number(number) => u32::try_from(*number).ok(),
        _ => input.text().and_then(|text| {
            let digits = text.strip_prefix("0o").unwrap_or(text);
            let is_octal = digits.bytes().all(|b| b.is_ascii_digit());
            u32::from_str_radix(digits, 8).ok().filter(|_| is_octal)
        }),
    };
    bits.filter(|bits| *bits <= 0o777)
}

fn path<'a>(input: &'a Input<'_>) -> Option<&'a str> {
    input.text().filter(|text| !text.is_empty() && !text.contains('\0'))
}

fn addresses(input: &Input<'_>) -> Result<Vec<Listen>, Error> {
    let parts: Vec<&str> = match input {
        Input::Text(text) | Input::Untyped(text) => address::split_addresses(text),
        Input::List(items) if !items.is_empty() => {
            let texts: Option<Vec<&str>> = items.iter().map(Input::text).collect();
            texts.ok_or(AddressError::NotAnAddress)?
        }
        Input::Number(port) => {
            let port = u16::try_from(*port).map_err(|_| AddressError::NotAnAddress)?;
            return Err(AddressError::NoIp(port, false).into());
        }
        _ => return Err(AddressError::NotAnAddress.into()),
    };
    let listed = parts.into_iter().map(str::parse).collect::<Result<Vec<Listen>, _>>()?;
    address::check_distinct(&listed)?;
    Ok(listed)
}

fn account(input: &Input<'_>) -> Option<String> {
    match input {
        Input::Number(number) => u32::try_from(*number).ok().map(|number| number.to_string()),
        _ => {
            let is_separator = |c: char| c == ':' || c.is_whitespace() || c.is_control();
            let text = input.text().filter(|text| !text.is_empty() && !text.contains(is_separator));
            text.map(str::to_owned)
        }
    }
}

/// A name of capabilities(7) in small letters, without `cap_`.
fn capability(text: &str) -> Result<String, Error> {
    let lower = text.to_ascii_lowercase();
    let name = lower.strip_prefix("cap_").unwrap_or(&lower);
    if table::CAPABILITIES.contains(&name) {
        return Ok(name.to_owned());
    }
    let near = nearest(name, table::CAPABILITIES.iter().copied());
    Err(Error::NotACapability { name: name.to_owned(), near })
}

#[cfg(test)]
mod tests {
    use super::*;
    use Input::{Flag, List, Number, Other, Text, Untyped};

    const COUNT: Kind = Kind::Count(5);
    const CHOICE: Kind = Kind::Choice(&["no", "on-failure"]);

    #[test]
    fn values_of_each_kind() {
        let list = |items: &[&str]| Value::List(items.iter().map(|it| it.to_string()).collect());
        for (kind, input, value) in [
            (Kind::Name, Text("hello"), Value::Text("hello".into())),
            (Kind::Flag, Flag(true), Value::Flag(true)),
            (Kind::Flag, Untyped("OFF"), Value::Flag(false)),
            (Kind::Duration, Text("0s"), Value::Duration(Duration::ZERO)),
            (Kind::Duration, Untyped("0"), Value::Duration(Duration::ZERO)),
            (Kind::PositiveDuration, Text("1m"), Value::Duration(Duration::from_secs(60))),
            (COUNT, Number(5), Value::Count(5)),
            (COUNT, Untyped("1"), Value::Count(1)),
            (Kind::Integer(-20, 19), Number(-20), Value::Integer(-20)),
            (Kind::Mode, Text("0027"), Value::Mode(0o27)),
            (Kind::Mode, Untyped("0o27"), Value::Mode(0o27)),
            (Kind::Mode, Number(0o777), Value::Mode(0o777)),
            (Kind::Path, Text("a b"), Value::Path("a b".into())),
            (CHOICE, Text("on-failure"), Value::Choice("on-failure")),
            (Kind::Addresses, Text(":80"), Value::Addresses(vec![":80".parse().unwrap()])),
            (Kind::Socket, Text("[::1]:1"), Value::Socket("[::1]:1".parse().unwrap())),
            (Kind::Account, Text("www"), Value::Text("www".into())),
            (Kind::Account, Number(33), Value::Text("33".into())),
            (Kind::Accounts, Untyped("adm, 7"), list(&["adm", "7"])),
            (Kind::Accounts, List(vec![Text("adm"), Number(7)]), list(&["adm", "7"])),
            (Kind::Accounts, Text("none"), list(&[])),
            (Kind::Paths, Text("/a,-/b"), list(&["/a", "-/b"])),
            (Kind::Paths, List(vec![Text("/a,b")]), list(&["/a,b"])),
            (Kind::Capabilities, Text("CAP_CHOWN"), list(&["chown"])),
            (Kind::Limit, Number(4), Value::Limit(Limit { soft: Some(4), hard: Some(4) })),
            (Kind::Limit, Text("4:unlimited"), Value::Limit(Limit { soft: Some(4), hard: None })),
            (Kind::Prefix, Text("HELLO_"), Value::Text("HELLO".into())),
        ] {
            assert_eq!(kind.parse(&input), Ok(value), "{kind:?} {input:?}");
        }
    }

    #[test]
    fn errors_of_each_kind() {
        for (kind, input, text) in [
            (
                Kind::Name,
                Text("a/b"),
                "expected at most 64 bytes that can name a file, without `/` and not beginning with `.`",
            ),
            (Kind::Name, Number(1), "expected text"),
            (Kind::Flag, Text("true"), "expected true or false"),
            (Kind::Duration, Number(30), "expected a duration with its unit, such as \"30s\""),
            (Kind::Duration, Text("30"), "expected a duration with its unit, such as \"30s\""),
            (Kind::Duration, Number(-1), "expected a duration such as \"30s\" or \"1m 30s\""),
            (Kind::Duration, Text("366days"), "expected at most 365days"),
            (Kind::PositiveDuration, Text("0s"), "expected more than 0s"),
            (COUNT, Number(0), "expected a whole number from 1 to 5"),
            (COUNT, Number(6), "expected a whole number from 1 to 5"),
            (COUNT, Text("1"), "expected a whole number from 1 to 5"),
            (Kind::Integer(-20, 19), Number(20), "expected a whole number from -20 to 19"),
            (
                Kind::Mode,
                Text("+7"),
                "expected an octal mode from \"0000\" to \"0777\", such as \"0027\"",
            ),
            (Kind::Path, Text("a\0"), "expected a path"),
            (Kind::Path, Text(" "), "expected a value"),
            (
                CHOICE,
                Text("on_failure"),
                "expected `no` or `on-failure`: did you mean `on-failure`?",
            ),
            (CHOICE, Flag(false), "expected `no` or `on-failure`"),
            (
                Kind::Addresses,
                Number(8080),
                "expected an address with its port: \"127.0.0.1:8080\", or \"0.0.0.0:8080\" for every interface",
            ),
            (Kind::Addresses, Text(":1,:1"), "0.0.0.0:1 is listed twice: remove one"),
            (
                Kind::Socket,
                Text("unix:/a"),
                "expected an address and a port, such as \"0.0.0.0:8086\"",
            ),
            (Kind::Account, Text("a b"), "expected a name or a number"),
            (
                Kind::Accounts,
                List(vec![Flag(true)]),
                "expected names or numbers, such as \"adm, ssl-cert\", or \"none\"",
            ),
            (Kind::Paths, List(vec![Text("")]), "expected paths, such as \"/etc/default/hello\""),
            (Kind::Capabilities, Text("chwon"), "`chwon` is no capability: did you mean `chown`?"),
            (
                Kind::Limit,
                Other,
                "expected a limit such as \"4096\", \"1024:4096\" (soft and hard) or \"unlimited\"",
            ),
        ] {
            let error = kind.parse(&input).map_err(|error| error.to_string());
            assert_eq!(error, Err(text.to_owned()), "{kind:?} {input:?}");
        }
    }

    #[test]
    fn the_backlog_is_an_int_of_listen() {
        let kind = table::listener_field("backlog").unwrap().kind;
        assert_eq!(kind.parse(&Number(i32::MAX.into())), Ok(Value::Count(i32::MAX as u32)));
        assert!(kind.parse(&Number(1 << 31)).is_err());
    }
}
