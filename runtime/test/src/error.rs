use std::{fmt, io};

/// The result of a `try_` method.
pub type Result<T> = std::result::Result<T, Error>;

/// A verb of the program that failed, such as a restart that was aborted.
#[derive(Debug)]
pub struct Error {
    pub(crate) command: String,
    pub(crate) code: Option<i32>,
    pub(crate) reason: String,
    pub(crate) output: Vec<String>,
    pub(crate) source: Option<io::Error>,
}

impl Error {
    /// Creates the error for what the test itself could not do.
    pub(crate) fn io(what: impl Into<String>, source: io::Error) -> Self {
        let (command, output) = (String::new(), Vec::new());
        Error { command, code: None, reason: what.into(), output, source: Some(source) }
    }

    /// The reason: of an aborted restart its `reason`, otherwise the message of the verb.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// The exit code of the verb; 128 + n if signal n killed it, `None` if it did not run.
    #[must_use]
    pub fn code(&self) -> Option<i32> {
        self.code
    }

    /// The last lines that the worker of an aborted restart wrote.
    #[must_use]
    pub fn output(&self) -> &[String] {
        &self.output
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.command.is_empty() {
            write!(f, "`{}` failed", self.command)?;
            if let Some(code) = self.code {
                write!(f, " with exit code {code}")?;
            }
            f.write_str(": ")?;
        }
        f.write_str(&self.reason)?;
        if let Some(source) = &self.source {
            write!(f, ": {source}")?;
        }
        self.output.iter().try_for_each(|line| write!(f, "\n  {line}"))
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| source as _)
    }
}
