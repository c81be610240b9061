//! The environment of the service that a unit describes, which is not the one of the caller.

use std::ffi::OsString;

use crate::config::{self, Configuration, EnvFile, Surroundings};
use crate::error::Result;
use crate::spec::Spec;

/// The variables of the service.
#[derive(Debug)]
pub(super) struct ServiceEnvironment {
    /// Those of the caller that are configuration: they become part of the unit.
    pub(super) of_unit: Vec<(OsString, OsString)>,
    /// All of them, with those in the files.
    pub(super) vars: Vec<(OsString, OsString)>,
    /// The files, absolute, with `-` before those that may be missing.
    pub(super) files: Vec<EnvFile>,
}

impl ServiceEnvironment {
    /// Reads the files. A variable in a file overrides one of the unit, as with systemd.
    pub(super) fn new(
        spec: &Spec,
        around: &Surroundings,
        files: &[String],
    ) -> Result<ServiceEnvironment> {
        let mut of_unit: Vec<_> =
            around.vars.iter().filter(|(name, _)| configures(spec, name)).cloned().collect();
        let mut environment = Vec::new();
        let files: Vec<EnvFile> =
            files.iter().map(|file| EnvFile::from(file.clone()).below(&around.start_dir)).collect();
        for (name, value) in config::read_env_files(&files, "`--environment-file`")? {
            let (name, value) = (OsString::from(name), OsString::from(value));
            environment.retain(|(other, _)| *other != name);
            of_unit.retain(|(other, _)| *other != name);
            environment.push((name, value));
        }
        let vars = of_unit.iter().cloned().chain(environment).collect();
        Ok(ServiceEnvironment { of_unit, vars, files })
    }

    /// Returns the variables of the program that the caller has and the service will not have, neither from the
    /// unit nor from a file. `asked` are those that the program reads while it sets keys; all with its own
    /// prefix are its variables too.
    pub(super) fn missing(
        &self,
        configuration: &Configuration,
        around: &Surroundings,
        asked: &[String],
    ) -> Vec<String> {
        let prefix = configuration.settings.prefix();
        let is_set = |name: &str| {
            self.vars.iter().any(|(other, _)| other == name)
                || configuration.environment.iter().any(|(other, _)| other == name)
        };
        let is_programs = |name: &str| {
            asked.iter().any(|it| it == name)
                || !prefix.is_ours_alone() && prefix.strip(name).is_some()
        };
        let names = around.vars.iter().filter_map(|(name, _)| name.to_str());
        names.filter(|name| is_programs(name) && !is_set(name)).map(str::to_owned).collect()
    }
}

/// Whether a variable of the caller is configuration, which becomes part of the unit.
fn configures(spec: &Spec, name: &OsString) -> bool {
    let name = name.to_string_lossy();
    config::is_variable_of(spec, &name)
}
