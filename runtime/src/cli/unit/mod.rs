//! `unit`: generates the systemd units of this program from its effective configuration.
//!
//! [`plan`] derives what a unit has to provide for, [`service`] and [`socket`] write the units as [`text`],
//! and [`install`] puts them in place.

mod diff;
mod environment;
mod install;
mod plan;
mod service;
mod socket;
#[cfg(test)]
mod tests;
mod text;

use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};
use std::process::ExitCode;

use super::usage;
use crate::config::{self, Address, Configuration, Surroundings};
use crate::error::{Error, ErrorKind, Result};
use crate::program::Configure;
use crate::spec::Spec;

use environment::ServiceEnvironment;
use plan::UnitPlan;

/// The directory of the administrator's units.
const DIRECTORY: &str = "/etc/systemd/system";

/// The options of the verb.
#[derive(Debug, Clone, Default)]
pub(crate) struct UnitOptions {
    pub(crate) sockets: bool,
    pub(crate) notify_reload: bool,
    /// The files for `EnvironmentFile=`, with `-` before those that may be missing.
    pub(crate) environment_files: Vec<String>,
    pub(crate) install: bool,
    pub(crate) yes: bool,
}

/// A unit file.
#[derive(Debug, PartialEq, Eq)]
struct Unit {
    name: String,
    text: String,
}

/// Prints or installs the units of the program that runs with these arguments.
pub(crate) fn run(
    spec: &Spec,
    around: &Surroundings,
    program: &dyn Configure,
    args: &[OsString],
    options: UnitOptions,
) -> Result<ExitCode> {
    let environment = ServiceEnvironment::new(spec, around, &options.environment_files)?;
    let service = Surroundings { vars: environment.vars.clone(), uid: 0, ..around.clone() };
    let configuration = Configuration::load(spec, &service, program)?;
    let arguments = args.iter().skip(1).map(|argument| {
        argument.to_str().map(str::to_owned).ok_or_else(|| {
            usage(format!(
                "argument {} is not UTF-8, which a unit file requires",
                argument.display()
            ))
        })
    });
    let image = configuration.settings.exe.as_deref().unwrap_or(&around.exe);
    let plan = UnitPlan {
        settings: configuration.settings.clone(),
        image: without_parents(image)?,
        variables: configuration.variables(&environment.of_unit),
        environment_files: environment.files.clone(),
        overrides: configuration.options(&around.overrides),
        arguments: arguments.collect::<Result<_>>()?,
        sockets: options.sockets,
        notify_reload: options.notify_reload,
    };
    let units = units(&plan)?;
    if options.install {
        install::install(&units, configuration.settings.prefix(), options.yes)?;
    } else {
        super::print(&printed(&units))?;
    }
    let asked = config::variables_of_program(spec, around, program);
    let missing = environment.missing(&configuration, around, &asked);
    if !missing.is_empty() {
        eprintln!(
            "{}: advice: the unit does not contain these variables of the program: {}; write them \
             to a file, and pass its path with `--environment-file`",
            configuration.settings.name,
            missing.join(", ")
        );
    }
    Ok(ExitCode::SUCCESS)
}

/// The units one after the other, each below its file name.
fn printed(units: &[Unit]) -> String {
    let files = units.iter().map(|unit| format!("# {DIRECTORY}/{}\n{}", unit.name, unit.text));
    files.collect::<Vec<_>>().join("\n")
}

/// The `.service` and, where systemd is to bind the listeners, a `.socket` for each.
fn units(plan: &UnitPlan) -> Result<Vec<Unit>> {
    let settings = &plan.settings;
    if plan.notify_reload && !settings.graceful_restart {
        return Err(usage(
            "`--notify-reload` needs graceful_restart in the attribute; leave it out, because \
             nothing can be reloaded without a supervisor",
        ));
    }
    let image = plan.image.to_string_lossy();
    if image.contains(|c: char| "\"'\\".contains(c) || c.is_control()) {
        return Err(Error::new(
            ErrorKind::Image,
            format!(
                "systemd cannot run a program whose path contains quotes, backslashes or control \
                 characters; rename {image}"
            ),
        ));
    }
    let name = text::escape(&settings.name);
    let service = format!("{name}.service");
    let mut sockets = Vec::new();
    if plan.sockets {
        if settings.listen.is_empty() {
            return Err(usage("`--socket` needs a listener, but none is declared; leave it out"));
        }
        for (listener, at) in &settings.listen {
            if at.addrs().iter().any(|at| matches!(at, Address::Tcp(addr) if addr.port() == 0)) {
                return Err(usage(format!(
                    "`--socket` needs a fixed port, but the port of listener `{listener}` is 0; \
                     set one"
                )));
            }
            let text = socket::socket(&service, &settings.name, listener, at);
            sockets.push(Unit { name: format!("{name}-{listener}.socket"), text });
        }
    }
    let names: Vec<String> = sockets.iter().map(|unit| unit.name.clone()).collect();
    let text = service::service(plan, &names);
    Ok(std::iter::once(Unit { name: service, text }).chain(sockets).collect())
}

/// Resolves `..` in a path, which systemd refuses. Symbolic links after the last `..` stay unresolved.
fn without_parents(path: &Path) -> Result<PathBuf> {
    let parts: Vec<Component<'_>> = path.components().collect();
    let Some(last) = parts.iter().rposition(|part| *part == Component::ParentDir) else {
        return Ok(parts.iter().collect());
    };
    let front: PathBuf = parts[..=last].iter().collect();
    let real = std::fs::canonicalize(&front).map_err(|error| {
        Error::os(ErrorKind::Image, format!("cannot resolve {}", front.display()), error)
    })?;
    Ok(real.iter().chain(parts[last + 1..].iter().map(|part| part.as_os_str())).collect())
}
