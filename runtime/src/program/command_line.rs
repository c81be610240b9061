//! A program's own command line as the second argument of `main`.

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

/// A parsed command line, which `main` takes as its second argument.
///
/// With the feature `clap`, every `clap::Parser` implements this trait. Implement it by hand for another
/// parser.
///
/// The arguments are parsed in the process that the command line starts, before the pidfile is locked,
/// before a listener is bound and before the configuration is read: `--help`, `--version` and mistakes are
/// answered there, also while the daemon runs. Each worker parses the same arguments again, so `main` gets
/// an equal value in each generation. Arguments that a new release of the program refuses abort its restart.
///
/// ```no_run
/// use std::ffi::OsString;
/// use unbroken::{CommandLine, CommandLineExit, Daemon, daemon};
///
/// struct Args {
///     verbose: bool,
/// }
///
/// impl CommandLine for Args {
///     fn parse(args: Vec<OsString>, verbs: &str) -> Result<Args, CommandLineExit> {
///         let mut parsed = Args { verbose: false };
///         for arg in args.into_iter().skip(1) {
///             match arg.to_str() {
///                 Some("-v" | "--verbose") => parsed.verbose = true,
///                 Some("-h" | "--help") => {
///                     let help = format!("Usage: hello [-v]\n\n{verbs}");
///                     return Err(CommandLineExit::answer(help));
///                 }
///                 _ => {
///                     let text = format!("unexpected argument {arg:?}; see hello --help");
///                     return Err(CommandLineExit::mistake(text));
///                 }
///             }
///         }
///         Ok(parsed)
///     }
/// }
///
/// #[daemon]
/// async fn main(daemon: Daemon, args: Args) {
///     println!("verbose: {}", args.verbose);
///     daemon.draining().await;
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a command line",
    label = "the second argument of `main` is the program's parsed command line",
    note = "derive `clap::Parser` for it and enable the feature `clap` of `unbroken`, or implement \
            `unbroken::CommandLine`"
)]
pub trait CommandLine: Sized {
    /// Parses the program's arguments, its name first.
    ///
    /// `verbs` is a list of the daemon's verbs, one per line, for the end of the help text.
    ///
    /// # Errors
    /// What to print and the exit code, if the arguments are wrong or ask only for a text.
    fn parse(args: Vec<OsString>, verbs: &str) -> Result<Self, CommandLineExit>;
}

/// The end of a process that printed an answer to its command line instead of running the program.
#[derive(Debug)]
pub struct CommandLineExit {
    text: String,
    code: u8,
    is_mistake: bool,
    /// Prints the text with colors on a terminal.
    #[cfg(feature = "clap")]
    clap: Option<clap::Error>,
}

impl CommandLineExit {
    /// An answer such as a help text or a version: printed to stdout, exit code 0.
    pub fn answer(text: impl Into<String>) -> CommandLineExit {
        CommandLineExit::new(text.into(), 0, false)
    }

    /// A mistake in the arguments: printed to stderr, exit code 2.
    pub fn mistake(text: impl Into<String>) -> CommandLineExit {
        CommandLineExit::new(text.into(), 2, true)
    }

    fn new(text: String, code: u8, is_mistake: bool) -> CommandLineExit {
        CommandLineExit {
            text,
            code,
            is_mistake,
            #[cfg(feature = "clap")]
            clap: None,
        }
    }

    /// Changes the exit code.
    #[must_use]
    pub fn with_code(mut self, code: u8) -> CommandLineExit {
        self.code = code;
        self
    }

    /// The text to print.
    pub fn text(&self) -> &str {
        &self.text
    }

    pub(crate) fn is_mistake(&self) -> bool {
        self.is_mistake
    }

    /// Prints the text, and returns the exit code of the process.
    pub(crate) fn print(&self) -> ExitCode {
        #[cfg(feature = "clap")]
        if let Some(error) = &self.clap {
            return self.printed(error.print());
        }
        let end = if self.text.ends_with('\n') { "" } else { "\n" };
        let printed = match self.is_mistake {
            true => write!(std::io::stderr(), "{}{end}", self.text),
            false => write!(std::io::stdout(), "{}{end}", self.text),
        };
        self.printed(printed)
    }

    fn printed(&self, result: std::io::Result<()>) -> ExitCode {
        match result {
            Ok(()) => ExitCode::from(self.code),
            // A reader that has left (`hello --help | head -1`) has what it wanted.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {
                ExitCode::from(self.code)
            }
            Err(_) => ExitCode::FAILURE,
        }
    }
}

#[cfg(feature = "clap")]
impl<T: clap::Parser> CommandLine for T {
    fn parse(args: Vec<OsString>, verbs: &str) -> Result<T, CommandLineExit> {
        let mut command = with_verbs(T::command(), verbs);
        let parsed = command
            .try_get_matches_from_mut(args)
            .and_then(|mut matches| T::from_arg_matches_mut(&mut matches));
        parsed.map_err(|error| error.format(&mut command).into())
    }
}

/// Adds the list of verbs to the end of the help, after the program's own text.
#[cfg(feature = "clap")]
fn with_verbs(command: clap::Command, verbs: &str) -> clap::Command {
    let after = |own: Option<&clap::builder::StyledStr>| match own {
        Some(own) => format!("{}\n\n{verbs}", own),
        None => verbs.to_owned(),
    };
    let (short, long) = (command.get_after_help().cloned(), command.get_after_long_help().cloned());
    let command = command.after_help(after(short.as_ref()));
    match long {
        Some(long) => command.after_long_help(after(Some(&long))),
        None => command,
    }
}

#[cfg(feature = "clap")]
impl From<clap::Error> for CommandLineExit {
    fn from(error: clap::Error) -> CommandLineExit {
        CommandLineExit {
            text: error.render().to_string(),
            code: u8::try_from(error.exit_code()).unwrap_or(1),
            is_mistake: error.use_stderr(),
            clap: Some(error),
        }
    }
}
