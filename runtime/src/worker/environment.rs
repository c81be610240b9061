//! The environment of user code: without the configuration's variables, and with those of the worker's user.

use std::ffi::{OsStr, OsString};

use crate::config::Configuration;
use crate::error::Result;
use crate::privileges::Login;
use crate::sys::process;

/// Changes the environment of this process to the one that the program should see.
///
/// The configuration's variables are removed: a child process that also uses this crate would take them for
/// its own configuration. The supervisor keeps them for the next generation. If the key `user` is set,
/// `HOME`, `USER`, `LOGNAME` and `SHELL` are set to those of the user.
pub(super) fn apply(configuration: &Configuration, login: Option<&Login>) -> Result<()> {
    let vars = process::variables();
    let changes = changes(configuration, login, &vars, is_of_unit(&vars));
    process::change_environment(&changes.removed, &changes.set)
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Changes {
    removed: Vec<OsString>,
    set: Vec<(OsString, OsString)>,
}

fn changes(
    configuration: &Configuration,
    login: Option<&Login>,
    vars: &[(OsString, OsString)],
    is_of_unit: bool,
) -> Changes {
    let mut changes = Changes::default();
    let read = vars.iter().filter(|(name, value)| configuration.has_read(name, value));
    changes.removed.extend(read.map(|(name, _)| name.clone()));
    let declared = configuration.environment.iter();
    changes.set.extend(declared.map(|(name, value)| (name.into(), value.into())));
    let Some(Login { name, home, shell }) = login else { return changes };
    let name = name.as_deref().map(OsStr::new);
    let shell = shell.as_ref().map(|shell| shell.as_os_str());
    for (variable, value) in
        [("HOME", Some(home.as_os_str())), ("USER", name), ("LOGNAME", name), ("SHELL", shell)]
    {
        let is_set = vars.iter().any(|(set, _)| set == variable);
        if configuration.environment.iter().any(|(declared, _)| declared == variable) {
            continue;
        }
        match value {
            // systemd does not set these variables in a unit without User=, so the unit sets them on purpose.
            _ if is_of_unit && is_set => {}
            Some(value) => changes.set.push((variable.into(), value.to_owned())),
            None => changes.removed.push(variable.into()),
        }
    }
    changes
}

/// Returns whether systemd started this daemon, so that the variables are those of a unit and not of a login
/// (systemd.exec(5)).
fn is_of_unit(vars: &[(OsString, OsString)]) -> bool {
    let var = vars.iter().find(|(name, _)| name == "SYSTEMD_EXEC_PID");
    let started = var.and_then(|(_, value)| value.to_str()?.parse::<u32>().ok());
    // systemd sets the PID of the process that it started: a solo daemon, or the supervisor of this worker.
    started.is_some_and(|pid| pid == std::process::id() || pid == process::parent())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::place::Place;
    use crate::spec::Literal;

    fn os(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
        pairs.iter().map(|(name, value)| (name.into(), value.into())).collect()
    }

    fn nobody() -> Login {
        let (home, shell) = ("/nonexistent".into(), Some("/usr/sbin/nologin".into()));
        Login { name: Some("nobody".into()), home, shell }
    }

    #[test]
    fn only_configuration_variables_are_removed() {
        let vars = os(&[
            ("DAEMON_LOG", "a.log"),
            ("DAEMON_APP__PORT", "80"),
            ("DAEMON_UMASK", ""),
            ("DAEMON_API_SERVICE_HOST", "10.0.0.1"),
            ("HELLO_LOG", "b.log"),
            ("HELLO_TITLE", "hello"),
            ("HOME", "/root"),
        ]);
        let removed = |place: Place| changes(&place.load(), None, &vars, false).removed;
        let ours = removed(Place::new(&[]));
        assert_eq!(ours, ["DAEMON_LOG", "DAEMON_APP__PORT", "DAEMON_UMASK"]);
        let own = removed(Place::new(&[("env_prefix", Literal::Str("HELLO"))]));
        assert_eq!(own, ["HELLO_LOG"]);
    }

    #[test]
    fn login_variables_are_those_of_the_user() {
        let configuration = Place::new(&[]).load();
        let vars = os(&[("HOME", "/root"), ("USER", "root")]);
        let set =
            |login: &Login, is_of_unit| changes(&configuration, Some(login), &vars, is_of_unit);
        let all = os(&[
            ("HOME", "/nonexistent"),
            ("USER", "nobody"),
            ("LOGNAME", "nobody"),
            ("SHELL", "/usr/sbin/nologin"),
        ]);
        assert_eq!(set(&nobody(), false), Changes { removed: vec![], set: all.clone() });
        assert_eq!(set(&nobody(), true).set, all[2..]);
        let number = Login { name: None, home: "/".into(), shell: None };
        let expected = Changes {
            removed: ["USER", "LOGNAME", "SHELL"].map(OsString::from).to_vec(),
            set: os(&[("HOME", "/")]),
        };
        assert_eq!(set(&number, false), expected);
    }
}
