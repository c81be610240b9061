//! The command line: if the first argument is a verb, it and its options are ours; all other arguments are
//! the program's.
//!
//! [`verbs`] has the table of verbs and parses command lines by it, with [`options`], [`help`] and, for wrong
//! ones, [`mistake`] and [`synonyms`]. [`client`] talks to a running daemon and [`render`] prints what it
//! answers; [`logs`], [`unit`], and `check` with its [`host_checks`] need no running daemon.

pub(crate) mod client;
mod find_daemon;
mod follow;
mod help;
pub(crate) mod host_checks;
pub(crate) mod logs;
mod mistake;
mod options;
mod pretty;
mod render;
mod shell;
mod synonyms;
pub(crate) mod unit;
mod verbs;

use std::io::Write;
use std::process::ExitCode;

pub(crate) use help::verb_list;
pub(crate) use verbs::{Command, Line, Parsed, ProgramTraits, is_verb, parse};

use crate::config::Configuration;
use crate::error::{Error, ErrorKind, Result};
use crate::json::{self, ToJson};

/// Runs `check`: prints the effective configuration with the source of each value; fails if the daemon could
/// not run with it on this host.
pub(crate) fn check(configuration: &Configuration, json: bool) -> Result<ExitCode> {
    if json {
        print_json(&configuration.json())?;
    } else {
        print(&configuration.text())?;
    }
    let findings = host_checks::examine(configuration);
    let name = &configuration.settings.name;
    for advice in &findings.advice {
        eprintln!("{name}: advice: {advice}");
    }
    match findings.errors.is_empty() {
        true => Ok(ExitCode::SUCCESS),
        false => Err(Error::config(findings.errors.join("\n"))),
    }
}

/// Prints text to stdout, and a line end if it has none.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| if text.ends_with('\n') { Ok(()) } else { out.write_all(b"\n") })
        .and_then(|()| out.flush())
        .map_err(|error| Error::io("cannot write to stdout", error))
}

fn print_json(value: &dyn ToJson) -> Result<()> {
    let text = json::to_string(value).map_err(|error| Error::io("cannot write JSON", error))?;
    print(&pretty::pretty(&text))
}

fn usage(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Usage, message)
}
