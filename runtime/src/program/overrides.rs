//! Keys that a program sets from its own sources.

use std::cell::RefCell;
use std::fmt;

/// Sets keys of the configuration from the program's own sources: the argument of the function that the
/// attribute's key `configure` names.
///
/// The function runs in every process that reads the configuration: at `run` and `start`, in the first
/// worker of each generation, and for `check` and `unit`. Its values take precedence over the attribute and
/// the configuration file; variables of the daemon (`DAEMON_*`) and `--set` take precedence over them.
/// `check` shows them with the source `the program`.
///
/// `stop`, `restart`, `status` and `logs` call the function as well, to find the running daemon. If `main`
/// takes a command line, it is the one of a call without arguments there; if that is not a valid one, the
/// function is not called. So set `name`, `pidfile` and `runtime_dir` here only if they do not depend on
/// arguments.
///
/// ```no_run
/// use unbroken::{Daemon, Overrides, daemon};
///
/// fn configure(overrides: &mut Overrides<'_>) {
///     if let Some(address) = overrides.var("WASTEBIN_ADDRESS_PORT") {
///         overrides.set("listen.http", address);
///     }
/// }
///
/// #[daemon(graceful_restart, configure = configure, listen(http = "0.0.0.0:8088"))]
/// async fn main(daemon: Daemon) {
///     daemon.draining().await;
/// }
/// ```
///
/// With a command line as the second argument of `main`, the function takes a reference to it first:
/// `fn configure(args: &Args, overrides: &mut Overrides<'_>)`. It returns nothing, or a `Result<(), E>` whose
/// error is a mistake in the configuration: the start fails with exit code 78, a restart is aborted.
pub struct Overrides<'a> {
    /// Finds a variable.
    find: &'a dyn Fn(&str) -> Option<String>,
    values: Vec<Override>,
    asked: RefCell<Vec<String>>,
}

/// One key that the program sets, as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Override {
    pub(crate) key: String,
    pub(crate) value: String,
}

impl<'a> Overrides<'a> {
    pub(crate) fn new(find: &'a dyn Fn(&str) -> Option<String>) -> Overrides<'a> {
        Overrides { find, values: Vec::new(), asked: RefCell::new(Vec::new()) }
    }

    /// Sets a key, such as `listen.http`, `drain_timeout` or `app.title`. The value is text, as after
    /// `--set`: `127.0.0.1:8080`, `30s`, `true`; the items of a list are separated by commas. The last value
    /// of a key counts.
    ///
    /// A key that does not exist and a value that it does not take are mistakes in the configuration, which
    /// name the program as their source.
    pub fn set(&mut self, key: &str, value: impl fmt::Display) -> &mut Self {
        self.values.push(Override { key: key.to_owned(), value: value.to_string() });
        self
    }

    /// Returns an environment variable of the service; `None` if it is not set or is not UTF-8.
    ///
    /// It is preferable to [`std::env::var`] here: it also finds variables in the files of the key
    /// `env_file`, unless only the configuration file names them, and `unit` knows which variables the
    /// program reads.
    pub fn var(&self, name: &str) -> Option<String> {
        let mut asked = self.asked.borrow_mut();
        if !asked.iter().any(|it| it == name) {
            asked.push(name.to_owned());
        }
        (self.find)(name)
    }

    pub(crate) fn into_values(self) -> Vec<Override> {
        self.values
    }

    /// The variables that the program asked for.
    pub(crate) fn into_asked(self) -> Vec<String> {
        self.asked.into_inner()
    }
}

impl fmt::Debug for Overrides<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Overrides").field("values", &self.values).finish_non_exhaustive()
    }
}
