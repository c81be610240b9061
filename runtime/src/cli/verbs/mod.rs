//! The table of verbs, and the parser of command lines.
//!
//! A command line without a verb runs the daemon with all arguments as the program's. After a verb, arguments
//! up to `--` are its options, and those after `--` are the program's.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use super::options::{self, Given, Opt};
use super::unit::UnitOptions;
use super::{help, logs, mistake, shell, synonyms, usage};
use crate::config::Prefix;
use crate::error::Result;
use crate::probe::Probe;
use crate::spec::Spec;

/// A parsed command line.
#[derive(Debug)]
pub(crate) enum Line {
    Command(Parsed),
    /// A request for help: the text to print.
    Help(String),
}

/// A command with everything that belongs to it.
#[derive(Debug)]
pub(crate) struct Parsed {
    pub(crate) command: Command,
    /// The `--set` options.
    pub(crate) overrides: Vec<String>,
    /// The program's own arguments, its name first.
    pub(crate) args: Vec<OsString>,
}

/// The commands.
#[derive(Debug)]
pub(crate) enum Command {
    /// `run` (`Some(false)`), `start` (`Some(true)`), or no verb (`None`: the key `detach` decides).
    Run {
        detach: Option<bool>,
    },
    /// A verb that talks to a running daemon.
    Client(ClientCommand),
    Check {
        json: bool,
    },
    Logs(logs::LogsOptions),
    Unit(UnitOptions),
}

/// The verbs that talk to a running daemon and read no settings but where to find it.
#[derive(Debug)]
pub(crate) enum ClientCommand {
    Stop {
        json: bool,
    },
    Restart {
        json: bool,
        wait: bool,
        /// The path of the new image, if it is another one than before.
        exe: Option<PathBuf>,
    },
    Status {
        json: bool,
    },
    Probe {
        json: bool,
        probe: Probe,
    },
}

impl Command {
    /// Whether the program runs, now or as a service, with the arguments of this command line: then none of
    /// those that it requires may be missing.
    pub(crate) fn runs_program(&self) -> bool {
        matches!(self, Command::Run { .. } | Command::Unit(_))
    }
}

impl Parsed {
    /// The verb that was probably meant by the first word of a command line without a verb.
    pub(crate) fn meant_verb(&self) -> Option<&'static str> {
        let word = match self.command {
            Command::Run { detach: None } => self.args.get(1)?.to_str()?,
            _ => return None,
        };
        meant(word, self.args.get(2..).unwrap_or_default())
    }
}

/// A verb, for the parser and for the help.
pub(super) struct Verb {
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    pub(super) options: &'static [Opt],
    pub(super) behind: Behind,
    /// The text at the end of its help.
    pub(super) notes: fn(Prefix<'_>) -> String,
    command: fn(&Given) -> Command,
}

/// What a verb does with arguments after `--`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Behind {
    /// Passes them to the program.
    Program,
    /// Refuses them: the running daemon has its arguments already.
    Running,
    /// Refuses them unless the program sets keys by its arguments: no `main` is called.
    Settings,
}

/// What the parser of command lines has to know of the program.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ProgramTraits {
    /// Whether the program's arguments are parsed before anything else happens.
    pub(crate) has_command_line: bool,
    /// Whether the program has commands that run without the daemon.
    pub(crate) has_commands: bool,
    /// Whether the program sets keys of the configuration.
    pub(crate) configures: bool,
}

/// All verbs except [`HELP`], which has no options.
pub(super) static VERBS: [Verb; 8] = [
    Verb {
        name: "run",
        about: "Run the daemon in the foreground",
        options: &[options::SET],
        behind: Behind::Program,
        notes: |_| PROGRAM_ARGUMENTS.into(),
        command: |_| Command::Run { detach: Some(false) },
    },
    Verb {
        name: "start",
        about: "Start the daemon in the background; return when it serves",
        options: &[options::SET],
        behind: Behind::Program,
        notes: |_| PROGRAM_ARGUMENTS.into(),
        command: |_| Command::Run { detach: Some(true) },
    },
    Verb {
        name: "stop",
        about: "Drain and stop the daemon; return when it has exited",
        options: &[options::SET, options::JSON],
        behind: Behind::Running,
        notes: |_| String::new(),
        command: |given| Command::Client(ClientCommand::Stop { json: given.json }),
    },
    Verb {
        name: "restart",
        about: "Replace the running code with the program on disk, without dropping connections",
        options: &[options::SET, options::JSON, options::NO_WAIT, options::EXE],
        behind: Behind::Running,
        notes: |_| String::new(),
        command: |given| {
            let (json, wait, exe) = (given.json, !given.no_wait, given.exe.clone());
            Command::Client(ClientCommand::Restart { json, wait, exe })
        },
    },
    Verb {
        name: "status",
        about: "Show the state of the daemon. Exit code: 0 running, 1 dead, 3 not running",
        options: &[options::SET, options::JSON, options::PROBE],
        behind: Behind::Running,
        notes: |_| String::new(),
        command: |given| {
            Command::Client(match given.probe {
                Some(probe) => ClientCommand::Probe { json: given.json, probe },
                None => ClientCommand::Status { json: given.json },
            })
        },
    },
    Verb {
        name: "logs",
        about: "Show what the daemon wrote, from its log file or the journal",
        options: &[options::SET, options::FOLLOW, options::LINES],
        behind: Behind::Running,
        notes: |_| String::new(),
        command: |given| {
            let lines = given.lines.unwrap_or(LINES);
            Command::Logs(logs::LogsOptions { lines, follow: given.follow })
        },
    },
    Verb {
        name: "check",
        about: "Show the effective configuration and the source of each value",
        options: &[options::SET, options::JSON],
        behind: Behind::Settings,
        notes: |prefix| {
            format!(
                "Keys, for the file and for --set; as variables, they are named like {} or {}:\n\
                 {}",
                prefix.variable(&["drain_timeout"]),
                prefix.variable(&["listen", "http", "mode"]),
                unbroken_schema::reference()
            )
        },
        command: |given| Command::Check { json: given.json },
    },
    Verb {
        name: "unit",
        about: "Print the systemd unit for the effective configuration",
        options: &[
            options::SET,
            options::SOCKET,
            options::NOTIFY_RELOAD,
            options::ENVIRONMENT_FILE,
            options::INSTALL,
            options::YES,
        ],
        behind: Behind::Program,
        notes: |prefix| {
            format!(
                "{}_* variables, --set options and the program's own arguments after `--` become \
                 part of the unit. Other variables of the program do not: write them to a file, \
                 and name it with --environment-file.",
                prefix.word()
            )
        },
        command: |given| {
            Command::Unit(UnitOptions {
                sockets: given.socket,
                notify_reload: given.notify_reload,
                environment_files: given.environment_files.clone(),
                install: given.install,
                yes: given.yes,
            })
        },
    },
];

/// The verb that shows all verbs, or one of them.
pub(super) const HELP: &str = "help";

const PROGRAM_ARGUMENTS: &str = "Arguments after `--` go to the program.";

/// The number of lines that `logs` shows by default, the same as tail(1).
const LINES: u32 = 10;

/// Parses the arguments, the program's name first.
///
/// # Errors
/// [`ErrorKind::Usage`](crate::ErrorKind::Usage) if the arguments are wrong.
pub(crate) fn parse(spec: &Spec, args: Vec<OsString>, program: ProgramTraits) -> Result<Line> {
    let name = spec.bin.unwrap_or("daemon");
    let Some(first) = args.get(1).and_then(|arg| arg.to_str()) else {
        return Ok(plain(args));
    };
    let (ours, theirs) = split(args.get(2..).unwrap_or_default());
    if first == HELP {
        return match program.has_command_line && is_of_program(ours) {
            true if ours.is_empty() => {
                Ok(plain(args.into_iter().take(1).chain(["--help".into()]).collect()))
            }
            true => Ok(plain(args)),
            false => asked(name, spec, ours, theirs).map(Line::Help),
        };
    }
    let Some(verb) = verb(first) else {
        if program.has_command_line {
            return Ok(plain(args));
        }
        if args.len() == 2
            && let Some(text) = standard_option(first, name, spec)
        {
            return Ok(Line::Help(text));
        }
        return match meant(first, ours).filter(|_| !program.has_commands) {
            Some(verb) => Err(usage(format!(
                "there is no verb `{first}`; did you mean `{name} {verb}`? To pass it to the program: \
                 `{name} run -- {first}`"
            ))),
            None => Ok(plain(args)),
        };
    };
    let given = match options::read(verb.options, ours) {
        Ok(given) => given,
        Err(wrong) => return Err(mistake::explain(&wrong, name, verb, ours, theirs)),
    };
    if given.help {
        return Ok(Line::Help(help::of_verb(name, verb, Prefix::of(spec))));
    }
    refuse(verb, theirs, program)?;
    Ok(Line::Command(Parsed {
        command: (verb.command)(&given),
        overrides: given.overrides,
        args: args.first().into_iter().chain(theirs).cloned().collect(),
    }))
}

/// Whether `help` with these words after it is for the program's own parser: alone, because the program's help
/// lists the verbs as well, or with the name of one of its commands.
fn is_of_program(behind: &[OsString]) -> bool {
    match behind.first() {
        Some(word) => word.to_str().is_none_or(|word| word != HELP && verb(word).is_none()),
        None => true,
    }
}

/// The answer to an option that every program has. A program that answers it by itself parses its command
/// line in the second argument of `main` or in a `main` written by hand.
fn standard_option(option: &str, name: &str, spec: &Spec) -> Option<String> {
    match option {
        "-h" | "--help" => Some(help::of_program(name, spec.version)),
        "-V" | "--version" => Some(format!("{name} {}", spec.version.unwrap_or("(no version)"))),
        _ => None,
    }
}

/// Whether a word is a verb.
pub(crate) fn is_verb(word: &OsStr) -> bool {
    word.to_str().is_some_and(|word| word == HELP || verb(word).is_some())
}

/// A command line without a verb: all arguments are the program's.
fn plain(args: Vec<OsString>) -> Line {
    let command = Command::Run { detach: None };
    Line::Command(Parsed { command, overrides: Vec::new(), args })
}

fn verb(name: &str) -> Option<&'static Verb> {
    VERBS.iter().find(|verb| verb.name == name)
}

/// Returns the verb that is most likely meant by a first word that is none; `None` if the word is the
/// program's.
fn meant(word: &str, behind: &[OsString]) -> Option<&'static str> {
    if let Some(verb) = synonyms::of_others(word) {
        return Some(verb);
    }
    let name = synonyms::misspelt(word, VERBS.iter().map(|verb| verb.name).chain([HELP]))?;
    // If the words after it are no options of that verb, they and the word itself are probably the program's.
    let fits = verb(name).is_none_or(|verb| options::read(verb.options, behind).is_ok());
    fits.then_some(name)
}

/// Splits arguments at `--` into ours and the program's.
fn split(args: &[OsString]) -> (&[OsString], &[OsString]) {
    match args.iter().position(|arg| arg == OsStr::new("--")) {
        Some(at) => (&args[..at], &args[at + 1..]),
        None => (args, &[]),
    }
}

/// The text that `help` shows, for these words after it.
fn asked(name: &str, spec: &Spec, ours: &[OsString], theirs: &[OsString]) -> Result<String> {
    let words: Vec<&str> =
        ours.iter().chain(theirs).map(|word| word.to_str().unwrap_or_default()).collect();
    match words[..] {
        [] | [HELP | "--help" | "-h"] => Ok(help::of_program(name, spec.version)),
        [word] => match verb(word) {
            Some(verb) => Ok(help::of_verb(name, verb, Prefix::of(spec))),
            None => Err(usage(format!(
                "there is no verb `{}`; `{name} help` lists the verbs",
                shell::words(ours.iter().chain(theirs))
            ))),
        },
        [_, ..] => Err(usage(format!(
            "`help` takes one verb, not {}; `{name} help` lists the verbs",
            words.len()
        ))),
    }
}

/// Refuses arguments after `--` that would have no effect.
fn refuse(verb: &Verb, theirs: &[OsString], program: ProgramTraits) -> Result<()> {
    let given = shell::words(theirs);
    match verb.behind {
        Behind::Running if !theirs.is_empty() => Err(usage(format!(
            "`-- {given}` has no effect on a running daemon; `stop` it and `start` it with these \
             arguments"
        ))),
        Behind::Settings if !theirs.is_empty() && !program.configures => Err(usage(format!(
            "`{}` does not run the program, so `-- {given}` has no effect; leave it out",
            verb.name
        ))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
