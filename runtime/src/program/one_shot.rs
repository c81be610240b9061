//! Commands of a program that run without its daemon.

use std::fmt;
use std::future::Future;

use serde::de::DeserializeOwned;

use super::Configure;
use crate::config::{Configuration, Surroundings, Variables};
use crate::error::{Error, Result};
use crate::spec::Spec;
use crate::worker::lifecycle;

/// What a command that runs without the daemon has at hand: the argument of the function that the
/// attribute's key `oneshot` names.
///
/// The function decides whether the command line asks for such a command, such as `hello migrate`, and if so
/// runs it: it returns `None` to run the daemon, or the result of the command. `run`, `start` and a command
/// line without a verb call it, in the foreground, with no pidfile locked and no listener bound, so it also
/// works while the daemon runs.
///
/// ```no_run
/// use std::ffi::OsString;
/// use unbroken::{CommandLine, CommandLineExit, Daemon, OneShot, daemon};
///
/// struct Args {
///     migrate: bool,
/// }
/// # impl CommandLine for Args {
/// #     fn parse(args: Vec<OsString>, _: &str) -> Result<Args, CommandLineExit> {
/// #         Ok(Args { migrate: args.len() > 1 })
/// #     }
/// # }
///
/// #[derive(serde::Deserialize)]
/// struct App {
///     database: String,
/// }
///
/// fn oneshot(args: &Args, context: &OneShot<'_>) -> Option<anyhow::Result<()>> {
///     args.migrate.then(|| {
///         let app: App = context.config()?;
///         context.block_on(migrate(&app.database))?
///     })
/// }
///
/// async fn migrate(database: &str) -> anyhow::Result<()> {
///     println!("migrating {database}");
///     Ok(())
/// }
///
/// #[daemon(graceful_restart, oneshot = oneshot)]
/// async fn main(daemon: Daemon, args: Args) {
///     daemon.draining().await;
/// }
/// ```
///
/// The result is any type that `main` can return. If `main` takes no command line, the function takes only
/// the context, and finds the arguments with [`std::env::args_os`].
pub struct OneShot<'a> {
    pub(crate) spec: &'a Spec,
    pub(crate) around: &'a Surroundings,
    pub(crate) program: &'a dyn Configure,
}

impl OneShot<'_> {
    /// Returns the application's section of the configuration, like
    /// [`Daemon::config`](crate::Daemon::config). The configuration is read now.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) if the configuration has mistakes, or if a value does
    /// not fit `T`.
    pub fn config<T: DeserializeOwned>(&self) -> Result<T> {
        Configuration::load(self.spec, self.around, self.program)?.app()
    }

    /// Returns an environment variable as the daemon's workers have it, which includes the files of the key
    /// `env_file`; `None` if it is not set or is not UTF-8.
    pub fn var(&self, name: &str) -> Option<String> {
        Variables::of_service(self.spec, self.around).find(name)
    }

    /// Runs a future to completion on a Tokio runtime of the kind that the attribute declares.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind::Io) if the runtime cannot be built.
    pub fn block_on<F: Future>(&self, future: F) -> Result<F::Output> {
        let runtime = lifecycle::build_runtime(self.spec)
            .map_err(|error| Error::io("cannot build the Tokio runtime", error))?;
        Ok(runtime.block_on(future))
    }
}

impl fmt::Debug for OneShot<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OneShot").finish_non_exhaustive()
    }
}
