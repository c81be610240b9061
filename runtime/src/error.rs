//! The error type of the crate: one sentence that names the path, key, address or process and what to do.

use std::error::Error as StdError;
use std::fmt;

/// A failure of the daemon, its configuration or a command given to it.
///
/// The message is one sentence that names the path, key, address or process and what to do. To branch on the
/// class of the error, use [`Error::kind`].
pub struct Error {
    kind: ErrorKind,
    message: String,
    source: Option<Box<dyn StdError + Send + Sync + 'static>>,
}

/// The classes of [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A wrong value, an unknown key or an impossible combination. Exit code 78 (`EX_CONFIG`).
    Config,
    /// A wrong command line. Exit code 2.
    Usage,
    /// A daemon already holds the pidfile.
    AlreadyRunning,
    /// No daemon holds the pidfile.
    NotRunning,
    /// The pidfile or its directory cannot be used.
    Pidfile,
    /// A listener cannot be bound or is not declared.
    Listen,
    /// The executable of a generation cannot be used.
    Image,
    /// A worker failed.
    Worker,
    /// A supervisor, worker or client sent a message that the other end does not understand.
    Protocol,
    /// The operation does not apply to this daemon, or was refused.
    Refused,
    /// Something took longer than its limit.
    Timeout,
    /// The operating system refused a request.
    Io,
}

/// A result whose error is [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Error { kind, message: message.into(), source: None }
    }

    pub(crate) fn config(message: impl Into<String>) -> Self {
        Error::new(ErrorKind::Config, message)
    }

    /// Returns an error of kind [`ErrorKind::Io`]: `what` failed ("cannot open /run/x.pid") because of
    /// `source`.
    pub(crate) fn io(what: impl fmt::Display, source: impl Into<std::io::Error>) -> Self {
        Error::os(ErrorKind::Io, what, source)
    }

    /// Same as [`Error::io`], with the given kind.
    pub(crate) fn os(
        kind: ErrorKind,
        what: impl fmt::Display,
        source: impl Into<std::io::Error>,
    ) -> Self {
        let source = source.into();
        Error { kind, message: format!("{what}: {source}"), source: Some(Box::new(source)) }
    }

    /// Returns the class of this error.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Returns the exit code of a command that fails with this error: 78 for [`ErrorKind::Config`], 2 for
    /// [`ErrorKind::Usage`], 1 for all others.
    pub fn exit_code(&self) -> u8 {
        match self.kind {
            ErrorKind::Config => 78,
            ErrorKind::Usage => 2,
            _ => 1,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// Prints the message, not the fields, because `fn main() -> Result<(), Error>` prints errors with `Debug`.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// Conversion for a `main` that returns [`std::io::Result`]. If the source is an [`std::io::Error`], its kind
/// is kept.
impl From<Error> for std::io::Error {
    fn from(error: Error) -> std::io::Error {
        let below = error.source.as_deref().and_then(|it| it.downcast_ref::<std::io::Error>());
        let kind = below.map_or(std::io::ErrorKind::Other, std::io::Error::kind);
        std::io::Error::new(kind, error)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|e| e as &(dyn StdError + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conversion_to_io_error_keeps_kind_and_message() {
        let denied = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
        let error = std::io::Error::from(Error::io("cannot open /x", denied));
        assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
        assert!(error.to_string().starts_with("cannot open /x: "), "{error}");
        let error = std::io::Error::from(Error::config("wrong"));
        assert_eq!((error.kind(), error.to_string()), (std::io::ErrorKind::Other, "wrong".into()));
    }
}
