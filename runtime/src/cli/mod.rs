//! The command line: verbs in the first argument, everything else is the program's.

pub(crate) mod client;
mod show;
pub(crate) mod unit;
mod verbs;

use std::io::Write;
use std::process::ExitCode;

pub(crate) use verbs::{Command, parse};

use crate::config::Configuration;
use crate::error::{Error, Result};

/// `check`: the effective configuration with the source of each value.
pub(crate) fn check(configuration: &Configuration, json: bool) -> Result<ExitCode> {
    if json {
        print_json(&configuration.json())?;
    } else {
        print(&configuration.text())?;
    }
    Ok(ExitCode::SUCCESS)
}

fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| if text.ends_with('\n') { Ok(()) } else { out.write_all(b"\n") })
        .and_then(|()| out.flush())
        .map_err(|error| Error::io("cannot write to stdout", error))
}

fn print_json(value: &impl serde::Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| Error::io("cannot write JSON", error))?;
    print(&text)
}
