//! Parsing: which verb, with what options, and what is left for the program.

use std::ffi::{OsStr, OsString};
use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgMatches};

use super::logs;
use super::unit::Options;
use crate::config::reference;
use crate::probe::Probe;
use crate::spec::Spec;

/// What the command line asks for.
pub(crate) struct Parsed {
    pub(crate) command: Command,
    /// The `--set` options.
    pub(crate) overrides: Vec<String>,
    /// The program's own arguments, its name first.
    pub(crate) args: Vec<OsString>,
}

/// The verbs.
pub(crate) enum Command {
    /// `run` (`Some(false)`), `start` (`Some(true)`), or no verb: as the configuration says.
    Run {
        detach: Option<bool>,
    },
    /// A verb for a daemon that runs.
    Client(Inquiry),
    Check {
        json: bool,
    },
    /// What a daemon wrote, whether it runs or not.
    Logs(logs::Options),
    /// The units for systemd.
    Unit(Options),
}

/// What is asked of a running daemon.
pub(crate) enum Inquiry {
    Stop { json: bool },
    Restart { json: bool, wait: bool },
    Status { json: bool },
    Probe { json: bool, probe: Probe },
}

const VERBS: [&str; 9] =
    ["run", "start", "stop", "restart", "status", "logs", "check", "unit", "help"];

/// The lines that `logs` shows, as tail(1) does.
const LINES: u32 = 10;

/// Parses the arguments. `Err`: help was shown or the arguments are wrong, and this is the exit code.
pub(crate) fn parse(spec: &Spec, args: Vec<OsString>) -> Result<Parsed, ExitCode> {
    let program = args.first().cloned().unwrap_or_default();
    let name = spec.bin.unwrap_or("daemon");
    let Some(first) = args.get(1).and_then(|arg| arg.to_str()) else {
        return Ok(plain(args));
    };
    if !VERBS.contains(&first) {
        if let Some(verb) = misspelt(first).filter(|_| args[2..].iter().all(|arg| is_option(arg))) {
            eprintln!(
                "{name}: there is no verb `{first}`; did you mean `{name} {verb}`? \
                 To pass it to the program: `{name} run -- {first}`"
            );
            return Err(ExitCode::from(2));
        }
        return Ok(plain(args));
    }
    let (ours, theirs) = split(&args);
    let matches = match command(name, spec).try_get_matches_from(ours) {
        Ok(matches) => matches,
        Err(error) => {
            // Nothing is left to do where the streams are closed.
            let _ = error.print();
            return Err(ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2)));
        }
    };
    let Some((verb, options)) = matches.subcommand() else { return Ok(plain(args)) };
    let json = flag(options, "json");
    let command = match verb {
        "start" => Command::Run { detach: Some(true) },
        "stop" => Command::Client(Inquiry::Stop { json }),
        "restart" => Command::Client(Inquiry::Restart { json, wait: !flag(options, "no-wait") }),
        "status" => Command::Client(match options.get_one::<Probe>("probe") {
            Some(&probe) => Inquiry::Probe { json, probe },
            None => Inquiry::Status { json },
        }),
        "check" => Command::Check { json },
        "logs" => Command::Logs(logs::Options {
            lines: options.get_one::<u32>("lines").copied().unwrap_or(LINES),
            follow: flag(options, "follow"),
        }),
        "unit" => Command::Unit(Options {
            sockets: flag(options, "socket"),
            notify_reload: flag(options, "notify-reload"),
            install: flag(options, "install"),
            yes: flag(options, "yes"),
        }),
        _ => Command::Run { detach: Some(false) },
    };
    let overrides = options.get_many::<String>("set").into_iter().flatten().cloned().collect();
    let args = std::iter::once(program).chain(theirs).collect();
    Ok(Parsed { command, overrides, args })
}

fn plain(args: Vec<OsString>) -> Parsed {
    Parsed { command: Command::Run { detach: None }, overrides: Vec::new(), args }
}

/// Ours up to `--`, the program's after it.
fn split(args: &[OsString]) -> (Vec<OsString>, Vec<OsString>) {
    match args.iter().position(|arg| arg == OsStr::new("--")) {
        Some(at) => (args[..at].to_vec(), args[at + 1..].to_vec()),
        None => (args.to_vec(), Vec::new()),
    }
}

fn key_value(text: &str) -> Result<String, String> {
    match text.split_once('=') {
        Some((key, _)) if !key.is_empty() => Ok(text.to_owned()),
        _ => Err(format!("write it as KEY=VALUE, as in {text}=…")),
    }
}

fn probe(text: &str) -> Result<Probe, String> {
    let found = Probe::ALL.into_iter().find(|probe| probe.word() == text);
    found.ok_or_else(|| "expected live, ready or startup".into())
}

fn flag(options: &ArgMatches, name: &str) -> bool {
    options.try_get_one::<bool>(name).ok().flatten().copied().unwrap_or(false)
}

/// Whether it is an option of a verb: a misspelt verb may have some.
fn is_option(arg: &OsStr) -> bool {
    let arg = arg.to_string_lossy();
    matches!(&*arg, "--json" | "--no-wait" | "--follow" | "-f") || arg.starts_with("--set=")
}

/// The verb that is one slip of the finger away.
fn misspelt(word: &str) -> Option<&'static str> {
    VERBS.into_iter().find(|verb| strsim::osa_distance(word, verb) == 1)
}

fn command(name: &'static str, spec: &Spec) -> clap::Command {
    let set = Arg::new("set")
        .long("set")
        .value_name("KEY=VALUE")
        .action(ArgAction::Append)
        .value_parser(key_value)
        .help("Overrides a configuration key, as in --set drain_timeout=10s");
    let json = Arg::new("json").long("json").action(ArgAction::SetTrue).help("Prints JSON");
    let verb = |verb: &'static str, about: &'static str| {
        clap::Command::new(verb).about(about).arg(set.clone())
    };
    let switch = |name: &'static str, help: &'static str| {
        Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)
    };
    let program_args = "What follows `--` are the program's own arguments.";
    clap::Command::new(name)
        .version(spec.version.unwrap_or(""))
        .about("Without a verb the daemon runs in the foreground, and all arguments are the program's.")
        .subcommand_required(true)
        .subcommands([
            verb("run", "Runs the daemon in the foreground").after_help(program_args),
            verb("start", "Starts the daemon in the background; returns when it serves")
                .after_help(program_args),
            verb("stop", "Drains and ends the daemon; returns when it is gone").arg(json.clone()),
            verb("restart", "Replaces the running code by what is on disk, losing nothing")
                .arg(json.clone())
                .arg(
                    Arg::new("no-wait")
                        .long("no-wait")
                        .action(ArgAction::SetTrue)
                        .help("Returns when the new generation serves, not when the old is gone"),
                ),
            verb("status", "Shows what runs. Exit code: 0 running, 1 dead, 3 not running")
                .arg(json.clone())
                .arg(
                    Arg::new("probe")
                        .long("probe")
                        .value_name("PROBE")
                        .value_parser(probe)
                        .help("Asks only this: live, ready or startup. Exit code: 0 yes, 1 no"),
                ),
            verb("logs", "Shows what the daemon wrote, wherever that goes")
                .arg(
                    Arg::new("follow")
                        .short('f')
                        .long("follow")
                        .action(ArgAction::SetTrue)
                        .help("Goes on with what is written, until it is interrupted"),
                )
                .arg(
                    Arg::new("lines")
                        .short('n')
                        .long("lines")
                        .value_name("N")
                        .value_parser(clap::value_parser!(u32))
                        .help("The last lines to begin with; 10 if not said"),
                ),
            verb("check", "Shows the effective configuration and where each value is from")
                .arg(json)
                .after_help(format!(
                    "Keys, in the file and in --set; as a variable DAEMON_DRAIN_TIMEOUT or \
                     DAEMON_LISTEN_HTTP__MODE:\n{}",
                    reference()
                )),
            verb("unit", "Prints the unit for systemd, from the effective configuration")
                .arg(switch("socket", "With a .socket unit for each listener"))
                .arg(switch("notify-reload", "Reloads by signal (Type=notify-reload, systemd 253)"))
                .arg(switch("install", "Writes to /etc/systemd/system, and enables it"))
                .arg(switch("yes", "Does not ask").requires("install"))
                .after_help(
                    "DAEMON_* variables and --set options become part of the unit, and so do the \
                     program's own arguments, behind `--`.",
                ),
        ])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(words: &[&str]) -> Parsed {
        let spec = Spec {
            bin: Some("app"),
            version: None,
            location: "src/main.rs:1",
            keys: &[],
            graceful_restart: true,
            takes_daemon: true,
            flavor: crate::spec::Flavor::MultiThread,
            worker_threads: None,
        };
        let args = std::iter::once("app").chain(words.iter().copied()).map(OsString::from);
        parse(&spec, args.collect()).unwrap_or_else(|_| panic!("{words:?} not parsed"))
    }

    #[test]
    fn without_a_verb_everything_is_the_programs() {
        let it = parsed(&["--port", "80", "start"]);
        assert!(matches!(it.command, Command::Run { detach: None }));
        assert_eq!(it.args, ["app", "--port", "80", "start"]);
    }

    #[test]
    fn after_a_verb_only_what_follows_the_dashes() {
        let it = parsed(&["start", "--set", "a=b", "--set=c=d", "--", "stop", "--", "x"]);
        assert!(matches!(it.command, Command::Run { detach: Some(true) }));
        assert_eq!(it.overrides, ["a=b", "c=d"]);
        assert_eq!(it.args, ["app", "stop", "--", "x"]);
    }

    #[test]
    fn a_slip_is_noticed() {
        assert_eq!(misspelt("strat"), Some("start"));
        assert_eq!(misspelt("restar"), Some("restart"));
        assert_eq!(misspelt("serve"), None);
    }

    #[test]
    fn options_of_a_verb_are_known() {
        assert!(is_option("--no-wait".as_ref()) && is_option("--set=a=b".as_ref()));
        assert!(!is_option("--port".as_ref()) && !is_option("80".as_ref()));
    }

    #[test]
    fn the_command_is_consistent() {
        let spec = Spec {
            bin: None,
            version: None,
            location: "",
            keys: &[],
            graceful_restart: true,
            takes_daemon: true,
            flavor: crate::spec::Flavor::MultiThread,
            worker_threads: None,
        };
        command("app", &spec).debug_assert();
    }
}
