//! What a process does that a shell or a service manager started: it runs the verb of its command line, or
//! becomes the daemon.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use nix::sys::signal::Signal;

use super::begin::{LaunchContext, become_daemon};
use super::role::LaunchOrigin;
use super::startup_pipe::StartupNotifier;
use super::{detach, print_error, surroundings};
use crate::cli::{self, Command, Line, Parsed};
use crate::config::{Configuration, LOCATION};
use crate::error::{Error, ErrorKind, Result};
use crate::program::{Configure, NotConfiguring, OneShot, Program};
use crate::spec::Spec;
use crate::sys::{process, signals};
use crate::systemd::activation;

/// Runs the verb of the command line, or the daemon where there is none.
pub(super) fn run_command<A>(spec: &Spec, program: &Program<A>) -> ExitCode {
    let traits = cli::ProgramTraits {
        has_command_line: program.has_command_line(),
        has_commands: program.has_commands(),
        configures: program.configures(),
    };
    let done = cli::parse(spec, process::arguments(), traits).and_then(|line| match line {
        Line::Command(parsed) => run_verb(spec, program, parsed),
        Line::Help(text) => cli::print(&text).map(|()| ExitCode::SUCCESS),
    });
    done.unwrap_or_else(|error| {
        print_error(spec, &error);
        ExitCode::from(error.exit_code())
    })
}

fn run_verb<A>(spec: &Spec, program: &Program<A>, mut parsed: Parsed) -> Result<ExitCode> {
    // Before anything that can fail: the program's own `--help` is answered at any time.
    let args = match program.parse(parsed.args.clone(), &cli::verb_list()) {
        Ok(args) => Some(args),
        // The other verbs can do without the arguments, but not with wrong ones.
        Err(exit) if parsed.args.len() > 1 || parsed.command.runs_program() => {
            let code = exit.print();
            if let Some(verb) = parsed.meant_verb().filter(|_| exit.is_mistake()) {
                eprintln!("did you mean the verb `{verb}` of the daemon?");
            }
            return Ok(code);
        }
        Err(_) => None,
    };
    let start_dir = start_dir()?;
    let overrides = std::mem::take(&mut parsed.overrides);
    let origin = LaunchOrigin { exe: process::initial_exe_path(), start_dir, overrides };
    let around = surroundings(&origin);
    let configured = args.as_ref().map(|args| program.with(args));
    let configure: &dyn Configure = match &configured {
        Some(configured) => configured,
        None => &NotConfiguring,
    };
    match parsed.command {
        Command::Run { detach } => {
            let context = OneShot { spec, around: &around, program: configure };
            let one_shot = args.as_ref().and_then(|args| program.run_one_shot(args, &context));
            if let Some(code) = one_shot {
                return Ok(code);
            }
            let configuration = Configuration::load(spec, &around, configure)?;
            let detach = detach.unwrap_or(configuration.settings.detach);
            let given = activation::take(!detach)?;
            if detach && !given.is_empty() {
                return Err(cannot_detach(given.len()));
            }
            Ok(run(spec, configuration, origin, parsed.args, given, detach))
        }
        Command::Client(inquiry) => {
            refuse_settings(&around.overrides, &LOCATION)?;
            let settings = Configuration::locate(spec, &around, configure, &LOCATION)?;
            cli::client::run(&settings, &inquiry)
        }
        Command::Logs(options) => {
            let keys = &cli::logs::KEYS;
            refuse_settings(&around.overrides, keys)?;
            let settings = Configuration::locate(spec, &around, configure, keys)?;
            cli::logs::run(&settings, &options)
        }
        Command::Check { json } => {
            cli::check(&Configuration::load(spec, &around, configure)?, json)
        }
        Command::Unit(options) => cli::unit::run(spec, &around, configure, &parsed.args, options),
    }
}

/// The error of a detached start with passed sockets: systemd passes them to the process that it watches, and
/// that process is the launcher, which exits.
fn cannot_detach(given: usize) -> Error {
    Error::config(format!(
        "the service manager passed {given} sockets, but a daemon that goes to the background \
         loses them; use `run`, and Type=notify in its unit"
    ))
}

/// Refuses `--set` options other than those in `location`: a command cannot change the settings of a running
/// daemon, its options can only help to find it.
fn refuse_settings(overrides: &[String], location: &[&str]) -> Result<()> {
    let keys = overrides.iter().filter_map(|text| Some(text.split_once('=')?.0.trim()));
    match keys.into_iter().find(|key| !location.contains(key)) {
        None => Ok(()),
        Some(key) => Err(Error::new(
            ErrorKind::Usage,
            format!(
                "`--set {key}` has no effect on a running daemon; write it to its configuration \
                 file and `restart`, or `stop` it and `start` it with the option"
            ),
        )),
    }
}

fn start_dir() -> Result<PathBuf> {
    process::current_directory().map_err(|error| {
        Error::io("the current directory no longer exists; change to one that does", error)
    })
}

/// Becomes the daemon, in this process or in a detached one.
fn run(
    spec: &Spec,
    configuration: Configuration,
    origin: LaunchOrigin,
    args: Vec<OsString>,
    given: Vec<activation::Named>,
    detach: bool,
) -> ExitCode {
    // The parent may have left SIGCHLD ignored, and the children of a process that ignores it leave no exit
    // code (wait(2)).
    if let Err(error) = signals::default_action(&[Signal::SIGCHLD]) {
        let error = Error::io("cannot reset signals", error);
        print_error(spec, &error);
        return ExitCode::from(error.exit_code());
    }
    let log = configuration.settings.log_path(detach).map(std::path::Path::to_owned);
    let outset = LaunchContext { configuration, origin, args, given, log, detached: detach };
    if detach {
        return match detach::detach(outset) {
            Ok(code) => code,
            Err(error) => {
                print_error(spec, &error);
                ExitCode::from(error.exit_code())
            }
        };
    }
    ExitCode::from(become_daemon(outset, StartupNotifier::default()))
}
