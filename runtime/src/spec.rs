//! The content of the attribute: a constant in the program, the lowest layer of the configuration.

/// The attribute's content, written by `#[daemon]` and read at every start.
#[derive(Debug, Clone, Copy)]
pub struct Spec {
    /// The binary's name (`CARGO_BIN_NAME`); `None` if it was not compiled by Cargo.
    pub bin: Option<&'static str>,
    /// The version of the annotated program (`CARGO_PKG_VERSION`); `None` if it was not compiled by Cargo.
    pub version: Option<&'static str>,
    /// The place of the attribute: `src/main.rs:3`.
    pub location: &'static str,
    /// The configuration keys by their paths: `["listen", "http", "addr"]`.
    pub keys: &'static [(&'static [&'static str], Literal)],
    /// Whether the daemon runs under a supervisor, or solo.
    pub graceful_restart: bool,
    /// Whether `main` takes a `Daemon`.
    pub takes_daemon: bool,
    /// The runtime of an `async fn main`.
    pub flavor: Flavor,
    /// The number of threads of a multi-thread runtime. `None`: Tokio's default.
    pub worker_threads: Option<usize>,
}

/// The value of a key in the attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Literal {
    /// `"text"`
    Str(&'static str),
    /// `17` (octal where the key is a mode: `0o022`)
    Int(i64),
    /// `true`, or a flag without a value
    Bool(bool),
    /// `["text", "more"]`
    List(&'static [&'static str]),
}

/// The kinds of Tokio runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Flavor {
    /// One thread runs everything.
    CurrentThread,
    /// A pool of threads with work stealing.
    #[default]
    MultiThread,
}
