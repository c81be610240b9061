//! What a program contributes to its daemon before `main` runs: its command line, settings from its own
//! sources, and commands that run without the daemon.
//!
//! The attribute names the functions, and its expansion puts them into a [`Program`]. The configuration sees
//! it as [`Configure`], without the types of the program.

mod command_line;
mod one_shot;
mod overrides;

use std::error::Error as StdError;
use std::ffi::OsString;
use std::fmt;
use std::process::ExitCode;

pub use command_line::{CommandLine, CommandLineExit};
pub use one_shot::OneShot;
pub(crate) use overrides::Override;
pub use overrides::Overrides;

/// A failure of the program's own `configure` function.
pub(crate) type ConfigureError = Box<dyn StdError + Send + Sync>;

/// A function that sets keys of the configuration.
type ConfigureFn<A> = fn(&A, &mut Overrides<'_>) -> Result<(), ConfigureError>;

/// A function that runs a command without the daemon, if the arguments ask for one.
type OneShotFn<A> = fn(&A, &OneShot<'_>) -> Option<ExitCode>;

/// The functions of the attribute. `A` is the type of the second argument of `main`, or `()`.
pub struct Program<A> {
    has_command_line: bool,
    parse: fn(Vec<OsString>, &str) -> Result<A, CommandLineExit>,
    configure: Option<ConfigureFn<A>>,
    one_shot: Option<OneShotFn<A>>,
}

impl Program<()> {
    /// A program without a command line of its own.
    pub const fn plain() -> Program<()> {
        let parse = |_, _: &str| Ok(());
        Program { has_command_line: false, parse, configure: None, one_shot: None }
    }
}

impl<A> Program<A> {
    /// A program whose `main` takes its parsed command line.
    pub const fn with_command_line() -> Program<A>
    where
        A: CommandLine,
    {
        Program { has_command_line: true, parse: A::parse, configure: None, one_shot: None }
    }

    /// Sets the function of the key `configure`.
    pub const fn configure(mut self, function: ConfigureFn<A>) -> Self {
        self.configure = Some(function);
        self
    }

    /// Sets the function of the key `oneshot`.
    pub const fn one_shot(mut self, function: OneShotFn<A>) -> Self {
        self.one_shot = Some(function);
        self
    }

    /// Whether the program has a command line of its own.
    pub(crate) fn has_command_line(&self) -> bool {
        self.has_command_line
    }

    /// Whether the program has commands that run without the daemon.
    pub(crate) fn has_commands(&self) -> bool {
        self.one_shot.is_some()
    }

    /// Whether the program sets keys of the configuration.
    pub(crate) fn configures(&self) -> bool {
        self.configure.is_some()
    }

    /// Parses the program's arguments, its name first. `verbs` is the list of verbs for its help.
    pub(crate) fn parse(&self, args: Vec<OsString>, verbs: &str) -> Result<A, CommandLineExit> {
        (self.parse)(args, verbs)
    }

    /// The program with its parsed command line, as a source of the configuration.
    pub(crate) fn with<'a>(&'a self, args: &'a A) -> impl Configure + 'a {
        ConfiguredBy { program: self, args }
    }

    /// Runs the command that the arguments ask for, if it needs no daemon.
    pub(crate) fn run_one_shot(&self, args: &A, context: &OneShot<'_>) -> Option<ExitCode> {
        self.one_shot?(args, context)
    }
}

impl<A> fmt::Debug for Program<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Program")
            .field("has_command_line", &self.has_command_line)
            .field("configure", &self.configure.is_some())
            .field("one_shot", &self.one_shot.is_some())
            .finish()
    }
}

/// What the function of the key `configure` may return: nothing, or a result.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not what the function of `configure` returns",
    label = "returns `{Self}`; return nothing or a `Result<(), E>`"
)]
pub trait ConfigureResult {
    /// Returns the failure, if there is one.
    fn into_result(self) -> Result<(), Box<dyn StdError + Send + Sync>>;
}

impl ConfigureResult for () {
    fn into_result(self) -> Result<(), Box<dyn StdError + Send + Sync>> {
        Ok(())
    }
}

impl<E: Into<Box<dyn StdError + Send + Sync>>> ConfigureResult for Result<(), E> {
    fn into_result(self) -> Result<(), Box<dyn StdError + Send + Sync>> {
        self.map_err(Into::into)
    }
}

/// The program as a source of the configuration.
pub(crate) trait Configure {
    /// Whether the program sets keys at all.
    fn is_source(&self) -> bool;

    /// Sets keys of the configuration.
    fn configure(&self, overrides: &mut Overrides<'_>) -> Result<(), ConfigureError>;
}

/// A program that sets no keys, or whose function cannot be called without arguments.
pub(crate) struct NotConfiguring;

impl Configure for NotConfiguring {
    fn is_source(&self) -> bool {
        false
    }

    fn configure(&self, _: &mut Overrides<'_>) -> Result<(), ConfigureError> {
        Ok(())
    }
}

struct ConfiguredBy<'a, A> {
    program: &'a Program<A>,
    args: &'a A,
}

impl<A> Configure for ConfiguredBy<'_, A> {
    fn is_source(&self) -> bool {
        self.program.configures()
    }

    fn configure(&self, overrides: &mut Overrides<'_>) -> Result<(), ConfigureError> {
        self.program.configure.map_or(Ok(()), |function| function(self.args, overrides))
    }
}
