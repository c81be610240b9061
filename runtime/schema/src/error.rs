//! The message about a value, in the same words at compile time and at start.

use std::fmt;

use crate::AddressError;
use crate::kind::Kind;
use crate::suggest::one_of;

/// Why a key does not take a value. The text says what to write instead, as the end of a sentence that
/// names the key: `expected true or false`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// The text is empty.
    Empty,
    /// The value has another type, or is out of the kind's bounds.
    Expected(Kind),
    /// A word that is not one of the kind's.
    NotAChoice {
        /// The words.
        words: &'static [&'static str],
        /// The word that was probably meant.
        near: Option<&'static str>,
    },
    /// A duration that is a bare number.
    NoUnit(String),
    /// Another text than a duration.
    NotADuration,
    /// A duration above [`LONGEST`](crate::duration::LONGEST).
    TooLong,
    /// A duration of zero, where it has to be longer.
    Zero,
    /// Another text than an address, or an address that cannot be listened on.
    Address(AddressError),
    /// A name that cannot be that of the daemon.
    NotAName,
    /// A text that environment variables cannot begin with.
    NotAPrefix {
        /// A prefix that is close to it.
        example: String,
    },
    /// A text that cannot be the name of an environment variable.
    NotAVariable,
    /// A prefix of other software's variables.
    ReservedPrefix(String),
    /// An unknown capability.
    NotACapability {
        /// The unknown name.
        name: String,
        /// The capability that was probably meant.
        near: Option<&'static str>,
    },
    /// Another text than a resource limit.
    NotALimit,
    /// A resource limit whose soft limit is above its hard limit.
    SoftAboveHard,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Empty => f.write_str("expected a value"),
            Error::Expected(kind) => match kind {
                Kind::Name | Kind::Prefix | Kind::Crate | Kind::Variable => {
                    f.write_str("expected text")
                }
                Kind::Function => f.write_str("expected the path of a function"),
                Kind::Duration | Kind::PositiveDuration => Error::NotADuration.fmt(f),
                Kind::Count(max) => write!(f, "expected a whole number from 1 to {max}"),
                Kind::Integer(min, max) => {
                    write!(f, "expected a whole number from {min} to {max}")
                }
                Kind::Mode => f.write_str(
                    "expected an octal mode from \"0000\" to \"0777\", such as \"0027\"",
                ),
                Kind::Choice(words) => write!(f, "expected {}", one_of(words)),
                Kind::Addresses => AddressError::NotAnAddress.fmt(f),
                Kind::Socket => {
                    f.write_str("expected an address and a port, such as \"0.0.0.0:8086\"")
                }
                Kind::Accounts => {
                    f.write_str("expected names or numbers, such as \"adm, ssl-cert\", or \"none\"")
                }
                Kind::Paths => f.write_str("expected paths, such as \"/etc/default/hello\""),
                Kind::Capabilities => {
                    f.write_str("expected capabilities, such as \"net_bind_service\", or \"none\"")
                }
                Kind::Limit => Error::NotALimit.fmt(f),
                Kind::Flag | Kind::Path | Kind::Account => write!(f, "expected {}", kind.words()),
            },
            Error::NotAChoice { words, near: Some(near) } => {
                write!(f, "expected {}: did you mean `{near}`?", one_of(words))
            }
            Error::NotAChoice { words, near: None } => write!(f, "expected {}", one_of(words)),
            Error::NoUnit(number) => {
                write!(f, "expected a duration with its unit, such as \"{number}s\"")
            }
            Error::NotADuration => f.write_str("expected a duration such as \"30s\" or \"1m 30s\""),
            Error::TooLong => f.write_str("expected at most 365days"),
            Error::Zero => f.write_str("expected more than 0s"),
            Error::Address(error) => error.fmt(f),
            Error::NotAName => f.write_str(
                "expected at most 64 bytes that can name a file, without `/` and not beginning \
                 with `.`",
            ),
            Error::NotAPrefix { example } => write!(
                f,
                "expected a word of A-Z, 0-9 and `_` that begins with a letter, such as \
                 \"{example}\""
            ),
            Error::NotAVariable => f.write_str(
                "expected the name of an environment variable: letters, digits and `_`, not beginning \
                 with a digit, such as \"PORT\"",
            ),
            Error::ReservedPrefix(word) => {
                write!(f, "other software uses variables named {word}_*: choose another word")
            }
            Error::NotACapability { name, near: Some(near) } => {
                write!(f, "`{name}` is no capability: did you mean `{near}`?")
            }
            Error::NotACapability { name, near: None } => {
                write!(f, "`{name}` is no capability: see capabilities(7)")
            }
            Error::NotALimit => f.write_str(
                "expected a limit such as \"4096\", \"1024:4096\" (soft and hard) or \"unlimited\"",
            ),
            Error::SoftAboveHard => {
                f.write_str("its soft limit is above its hard limit: lower the first number")
            }
        }
    }
}

impl std::error::Error for Error {}

impl From<AddressError> for Error {
    fn from(error: AddressError) -> Error {
        Error::Address(error)
    }
}
