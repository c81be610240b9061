//! Defaults that are found at start: the name, and where runtime files and logs go.

use std::path::{Path, PathBuf};

use super::{Surroundings, env};
use crate::spec::Spec;

/// A default, and the words for where it came from.
pub(super) type FoundDefault = (PathBuf, String);

/// The binary's name.
pub(super) fn name(spec: &Spec, exe: &Path) -> String {
    match (spec.bin, exe.file_stem()) {
        (Some(bin), _) => bin.to_owned(),
        (None, Some(stem)) => stem.to_string_lossy().into_owned(),
        (None, None) => "daemon".to_owned(),
    }
}

/// Where pidfile and control socket are: the service manager's directory, the system's or the user's.
pub(super) fn runtime_dir(around: &Surroundings, name: &str) -> FoundDefault {
    if let Some(found) = directory(around, "RUNTIME_DIRECTORY") {
        return found;
    }
    if around.uid == 0 {
        return fixed(format!("/run/{name}"));
    }
    match directory(around, "XDG_RUNTIME_DIR") {
        Some((dir, source)) => (dir.join(name), source),
        None => fixed(format!("/tmp/{name}-{}", around.uid)),
    }
}

/// The log of a detached daemon.
pub(super) fn detached_log(around: &Surroundings, name: &str, runtime_dir: &Path) -> PathBuf {
    let directory = |variable| directory(around, variable).map(|(dir, _)| dir);
    let dir = match directory("LOGS_DIRECTORY") {
        Some(dir) => dir,
        None if around.uid == 0 => Path::new("/var/log").join(name),
        None => directory("XDG_STATE_HOME")
            .or_else(|| directory("HOME").map(|home| home.join(".local/state")))
            .map_or_else(|| runtime_dir.to_owned(), |state| state.join(name)),
    };
    dir.join(format!("{name}.log"))
}

/// The directory a variable names: the first, where systemd lists several.
fn directory(around: &Surroundings, variable: &str) -> Option<FoundDefault> {
    let list = env::var(&around.vars, variable)?;
    let first = match variable.ends_with("_DIRECTORY") {
        true => list.split(':').next().unwrap_or(list),
        false => list,
    };
    let dir = Path::new(first);
    dir.is_absolute().then(|| (dir.to_owned(), format!("default, from {variable}")))
}

fn fixed(dir: String) -> FoundDefault {
    (PathBuf::from(dir), "default".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn around(uid: u32, vars: &[(&str, &str)]) -> Surroundings {
        Surroundings {
            start_dir: "/srv".into(),
            vars: vars.iter().map(|(n, v)| (n.into(), v.into())).collect(),
            uid,
            overrides: vec![],
            exe: "/usr/bin/hello".into(),
        }
    }

    #[test]
    fn runtime_dir_is_the_service_managers_the_systems_or_the_users() {
        let xdg = ("XDG_RUNTIME_DIR", "/run/user/7");
        for (uid, vars, dir) in [
            (0, vec![("RUNTIME_DIRECTORY", "/run/a:/run/b"), xdg], "/run/a"),
            (7, vec![("RUNTIME_DIRECTORY", "/run/a"), xdg], "/run/a"),
            (0, vec![xdg], "/run/hello"),
            (7, vec![xdg], "/run/user/7/hello"),
            (7, vec![("XDG_RUNTIME_DIR", "relative")], "/tmp/hello-7"),
            (7, vec![("RUNTIME_DIRECTORY", ""), ("XDG_RUNTIME_DIR", "")], "/tmp/hello-7"),
        ] {
            assert_eq!(
                runtime_dir(&around(uid, &vars), "hello").0,
                Path::new(dir),
                "{uid} {vars:?}"
            );
        }
    }

    #[test]
    fn detached_log_is_found_in_the_same_order() {
        let (logs, state, home) =
            (("LOGS_DIRECTORY", "/l:/m"), ("XDG_STATE_HOME", "/s"), ("HOME", "/h"));
        for (uid, vars, log) in [
            (0, vec![logs, state, home], "/l/hello.log"),
            (7, vec![logs, state, home], "/l/hello.log"),
            (0, vec![state, home], "/var/log/hello/hello.log"),
            (7, vec![state, home], "/s/hello/hello.log"),
            (7, vec![home], "/h/.local/state/hello/hello.log"),
            (7, vec![], "/tmp/hello-7/hello.log"),
        ] {
            let found = detached_log(&around(uid, &vars), "hello", Path::new("/tmp/hello-7"));
            assert_eq!(found, Path::new(log), "{uid} {vars:?}");
        }
    }
}
