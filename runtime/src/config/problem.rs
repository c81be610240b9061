//! A mistake in the configuration: one sentence that names the key, its source and what to do.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use unbroken_schema::{self as schema, Address, LISTENER_NAME_RULE, Needs, duration};

use super::Prefix;
use super::origin::Origin;
use crate::program::ConfigureError;

/// A key and the origin of its value: the subject of a message.
#[derive(Debug, Clone)]
pub(crate) struct Subject {
    key: String,
    origin: Box<Origin>,
}

/// A mistake in the configuration.
#[derive(Debug)]
pub(crate) enum Problem {
    /// A value that its key does not take.
    Value {
        of: Subject,
        shown: String,
        error: ValueError,
    },
    Empty(Subject),
    UnknownKey {
        of: Subject,
        near: Option<String>,
    },
    /// A key that was probably meant to be a listener's address.
    AddressKey {
        of: Subject,
        address: String,
    },
    NotAListenerName(Subject),
    /// `app`, `listen` or `limits` with a plain value.
    NotASection(Subject),
    /// A configuration file that names another one.
    NestedFile(Subject),
    AttributeOnly(Subject),
    NeedsSupervisor {
        of: Subject,
        location: &'static str,
    },
    NoDaemonArgument(Subject),
    /// A field of a listener that does not go with the listener's address.
    NotApplicable {
        of: Subject,
        needs: Needs,
    },
    /// `v6only = false` of a listener with a short form.
    BothFamilies(Subject),
    ListenerWithoutAddress {
        of: Subject,
        listener: String,
    },
    Backoff {
        min: (Duration, String),
        max: (Duration, String),
    },
    SameAddress {
        one: Subject,
        other: Subject,
        address: Address,
    },
    SameAddressAsProbe {
        of: Subject,
        probe: String,
        address: Address,
    },
    ListenerOnPidfile(PathBuf),
    /// NaN or an infinity, which JSON cannot carry to the worker.
    NotFinite(Subject),
    OptionWithoutValue(String),
    OptionWithoutKey(String),
    OptionOfApp,
    /// A file that cannot be read, and what names it.
    Unreadable {
        path: String,
        named_by: Option<String>,
        error: ReadError,
    },
    PathNotUtf8 {
        path: String,
        named_by: String,
    },
    NotToml {
        path: String,
        line: usize,
        message: String,
    },
    NotUtf8(PathBuf),
    EnvFile {
        path: String,
        line: usize,
        error: &'static str,
    },
    Variable {
        name: String,
        error: VariableError,
    },
    /// The program's own function failed.
    Program(ConfigureError),
    /// A variable of a listener that has only a port, and an address that has none to replace.
    PortOfListener {
        of: Subject,
        value: String,
    },
    /// Two variables of one key.
    Rivals(String, String),
    CredentialName(String),
}

/// Why a key does not take a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ValueError {
    Schema(schema::Error),
    /// A path that cannot be sent as text.
    NotUtf8(PathBuf),
    /// A `log_format` in a program without the feature `log`.
    NoLogFeature,
}

/// Why a variable sets no key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum VariableError {
    NotUtf8,
    AttributeOnly(&'static str),
    /// Two listeners whose names it can stand for.
    Ambiguous(String, String),
    /// A variable that was probably meant to be a listener's address.
    Address {
        variable: String,
        address: String,
    },
    /// No key of the application, and two variables that would be.
    AppKey(String, String),
    /// A section alone, and a variable of a key in it.
    Section {
        what: &'static str,
        example: String,
    },
    Unknown {
        near: Option<String>,
        prefix: String,
    },
}

/// Why a file has no text for the configuration.
#[derive(Debug)]
pub(crate) enum ReadError {
    Io(io::Error),
    NotUtf8,
    NotAFile,
    TooLong(u64),
}

impl Subject {
    pub(super) fn new(key: impl Into<String>, origin: Origin) -> Subject {
        Subject { key: key.into(), origin: Box::new(origin) }
    }

    /// How to take the value away.
    fn removal(&self) -> &'static str {
        self.origin.removal()
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.origin.of(&self.key))
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::Value { of, shown, error } => write!(f, "{of} is {shown}: {error}"),
            Problem::Empty(of) => write!(f, "{of} is empty: {}, or give it a value", of.removal()),
            Problem::UnknownKey { of, near: Some(near) } => {
                write!(f, "{of} is not a known key: did you mean `{near}`?")
            }
            Problem::UnknownKey { of, near: None } => {
                write!(f, "{of} is not a known key: {}", of.removal())
            }
            Problem::AddressKey { of, address } => write!(
                f,
                "{of} is not a known key: the address is that of a listener, such as \
                 `listen.http = \"{address}\"`"
            ),
            Problem::NotAListenerName(of) => {
                write!(f, "{of} is not a listener's name: {LISTENER_NAME_RULE}")
            }
            Problem::NotASection(of) => match of.key.as_str() {
                "app" => write!(f, "{of} is not a table: put keys below it"),
                "limits" => write!(f, "{of} is not a table of limits: name one below it"),
                _ => write!(f, "{of} is not a table of listeners"),
            },
            Problem::NestedFile(of) => {
                write!(f, "{of}: a configuration file cannot name another, remove it")
            }
            Problem::AttributeOnly(of) => write!(f, "{of} belongs in the attribute"),
            Problem::NeedsSupervisor { of, location } => write!(
                f,
                "{of} needs a supervisor: {}, or add graceful_restart to the attribute at \
                 {location}",
                of.removal()
            ),
            Problem::NoDaemonArgument(of) => write!(
                f,
                "{of}: `main` takes no `Daemon`, so the program has no listeners: {}",
                of.removal()
            ),
            Problem::NotApplicable { of, needs } => {
                let what = match needs {
                    Needs::UnixSocket => "a unix socket",
                    Needs::Ipv6 => "an IPv6 address",
                    _ => "TCP",
                };
                write!(f, "{of} is only for {what}: {}", of.removal())
            }
            Problem::BothFamilies(of) => write!(
                f,
                "{of} is false, but the address is both families already: {}",
                of.removal()
            ),
            Problem::ListenerWithoutAddress { of, listener } => {
                write!(f, "{of} belongs to a listener without an address: set `{listener}`")
            }
            Problem::Backoff { min: (min, min_source), max: (max, max_source) } => write!(
                f,
                "`backoff_min` ({}, {min_source}) is longer than `backoff_max` ({}, {max_source}): \
                 shorten it",
                duration::format(*min),
                duration::format(*max)
            ),
            Problem::SameAddress { one, other, address } => {
                write!(f, "{one} and {other} have the same address, {address}: change one")
            }
            Problem::SameAddressAsProbe { of, probe, address } => {
                write!(f, "{of} and `probe` ({probe}) have the same address, {address}: change one")
            }
            Problem::ListenerOnPidfile(path) => {
                write!(f, "a listener has the path of the pidfile, {}: change one", path.display())
            }
            Problem::NotFinite(of) => write!(f, "{of} is not a finite number: change it"),
            Problem::OptionWithoutValue(option) => {
                write!(f, "--set {option} has no value: write --set {option}=…")
            }
            Problem::OptionWithoutKey(option) => {
                write!(f, "--set {option}: expected key=value, such as drain_timeout=30s")
            }
            Problem::OptionOfApp => {
                f.write_str("--set app: name a key below it, such as --set app.pool=10")
            }
            Problem::Unreadable { path, named_by: Some(named_by), error } => {
                write!(f, "cannot read {path}, named by {named_by}: {error}")
            }
            Problem::Unreadable { path, named_by: None, error } => {
                write!(f, "cannot read {path}: {error}")
            }
            Problem::PathNotUtf8 { path, named_by } => write!(
                f,
                "{path}, named by {named_by}, is not UTF-8: give an absolute path that is"
            ),
            Problem::NotToml { path, line, message } => {
                write!(f, "{path} is not TOML: line {line}: {message}")
            }
            Problem::NotUtf8(path) => {
                write!(f, "{} is not TOML: it is not UTF-8 text", path.display())
            }
            Problem::EnvFile { path, line, error } => write!(f, "{path}, line {line}: {error}"),
            Problem::Variable { name, error } => error.fmt(name, f),
            Problem::Program(error) => {
                write!(f, "the program cannot read its own settings: {error}")?;
                let mut source = error.source();
                while let Some(error) = source {
                    write!(f, ": {error}")?;
                    source = error.source();
                }
                Ok(())
            }
            Problem::PortOfListener { of, value } => write!(
                f,
                "{of} is {value}, a port without an address, but the listener has no single TCP \
                 address in the attribute: write the address as well"
            ),
            Problem::Rivals(one, other) => {
                write!(f, "{one} and {other} set the same key: unset one of them")
            }
            Problem::CredentialName(name) => {
                write!(f, "credential {name} names no key of the application: rename it")
            }
        }
    }
}

impl std::error::Error for Problem {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Problem::Value { error: ValueError::Schema(error), .. } => Some(error),
            Problem::Unreadable { error: ReadError::Io(error), .. } => Some(error),
            Problem::Program(error) => Some(&**error),
            _ => None,
        }
    }
}

impl fmt::Display for ValueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ValueError::Schema(error) => error.fmt(f),
            ValueError::NotUtf8(path) => {
                write!(f, "{} is not UTF-8, give an absolute path that is", path.display())
            }
            ValueError::NoLogFeature => f.write_str(
                "this program was built without the feature `log` of unbroken: expected `none`, \
                 or build it with the feature",
            ),
        }
    }
}

impl From<schema::Error> for ValueError {
    fn from(error: schema::Error) -> ValueError {
        ValueError::Schema(error)
    }
}

impl From<schema::AddressError> for ValueError {
    fn from(error: schema::AddressError) -> ValueError {
        ValueError::Schema(error.into())
    }
}

impl VariableError {
    fn fmt(&self, name: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            VariableError::NotUtf8 => write!(f, "{name} is not UTF-8 text: unset it"),
            VariableError::AttributeOnly(key) => {
                write!(f, "{name}: `{key}` belongs in the attribute, unset the variable")
            }
            VariableError::Ambiguous(one, other) => write!(
                f,
                "{name} could mean the listener `{one}` or `{other}`: use the file or --set"
            ),
            VariableError::Address { variable, address } => write!(
                f,
                "{name} is not a known variable: the address is that of a listener, such as \
                 {variable}={address}"
            ),
            VariableError::AppKey(key, table) => {
                write!(f, "{name} names no key of the application: expected {key} or {table}")
            }
            VariableError::Section { what, example } => {
                write!(f, "{name} names no {what}: expected {example}")
            }
            VariableError::Unknown { near: Some(near), .. } => {
                write!(f, "{name} is not a known variable: did you mean {near}?")
            }
            VariableError::Unknown { near: None, prefix } => write!(
                f,
                "{name} is not a known variable: unset it, {} variables are configuration",
                Prefix::new(prefix).with("*")
            ),
        }
    }
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReadError::Io(error) => error.fmt(f),
            ReadError::NotUtf8 => f.write_str("it is not UTF-8 text"),
            ReadError::NotAFile => f.write_str("it is not a regular file"),
            ReadError::TooLong(most) => write!(f, "it has more than {most} bytes"),
        }
    }
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> ReadError {
        ReadError::Io(error)
    }
}
