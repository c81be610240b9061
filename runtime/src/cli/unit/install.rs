//! `unit --install`: shows what would change, asks, writes the files, and has systemd read and enable them.

use std::fs;
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::super::usage;
use super::{DIRECTORY, Unit, diff};
use crate::config::Prefix;
use crate::error::{Error, ErrorKind, Result};

pub(super) fn install(units: &[Unit], prefix: Prefix<'_>, yes: bool) -> Result<()> {
    let refused = |message: String| Err(Error::new(ErrorKind::Refused, message));
    if !rustix::process::geteuid().is_root() {
        return refused(format!(
            "`unit --install` writes to {DIRECTORY} and needs root; run it as root (sudo drops \
             {}_* variables by default), or give the output of `unit` to an administrator",
            prefix.word()
        ));
    }
    if !Path::new("/run/systemd/system").is_dir() {
        return refused(
            "systemd is not running on this host; `unit` prints the unit without installing it"
                .into(),
        );
    }
    let changes = units.iter().map(|unit| Change::of(unit, Path::new(DIRECTORY)));
    let changes = changes.collect::<Result<Vec<_>>>()?;
    let changes: Vec<&Change<'_>> = changes.iter().filter(|change| change.is_one()).collect();
    for change in &changes {
        super::super::print(&change.diff())?;
    }
    if !changes.is_empty() && !yes && !agreed(changes.len())? {
        return refused("nothing was written".into());
    }
    for change in &changes {
        change.write()?;
    }
    let names: Vec<&str> = units.iter().map(|unit| unit.name.as_str()).collect();
    systemctl(&["daemon-reload"])?;
    systemctl(&[&["enable", "--"], names.as_slice()].concat())?;
    let done = if changes.is_empty() { "was already installed" } else { "is installed" };
    super::super::print(&format!(
        "{} {done} and starts at boot; to start it now: systemctl start {}\n",
        names[0],
        names.join(" ")
    ))
}

/// The old and the new content of a file.
struct Change<'a> {
    path: PathBuf,
    old: Option<String>,
    new: &'a str,
}

impl Change<'_> {
    fn of<'a>(unit: &'a Unit, directory: &Path) -> Result<Change<'a>> {
        let path = directory.join(&unit.name);
        if fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_symlink()) {
            return Err(Error::new(
                ErrorKind::Refused,
                format!(
                    "{} is a symbolic link, which may mask the unit; remove it",
                    path.display()
                ),
            ));
        }
        let old = match fs::read_to_string(&path) {
            Ok(old) => Some(old),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(Error::io(format!("cannot read {}", path.display()), error)),
        };
        Ok(Change { path, old, new: &unit.text })
    }

    /// Returns whether the content differs.
    fn is_one(&self) -> bool {
        self.old.as_deref() != Some(self.new)
    }

    fn diff(&self) -> String {
        let path = self.path.display().to_string();
        let before = if self.old.is_some() { &path } else { "/dev/null" };
        diff::unified(self.old.as_deref().unwrap_or(""), self.new, before, &path)
    }

    /// Writes to a temporary file and renames it: a reader never sees half a unit.
    fn write(&self) -> Result<()> {
        let mut name = std::ffi::OsString::from(".");
        name.push(self.path.file_name().unwrap_or_default());
        name.push(format!(".{}", std::process::id()));
        let aside = self.path.with_file_name(name);
        let written = write(&aside, self.new).and_then(|()| fs::rename(&aside, &self.path));
        written.map_err(|error| {
            // The temporary file may not exist, if creating it was what failed.
            let _ = fs::remove_file(&aside);
            Error::io(format!("cannot write {}", self.path.display()), error)
        })
    }
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o644).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// Asks for consent on the terminal; fails if there is none.
fn agreed(files: usize) -> Result<bool> {
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        return Err(usage("nothing was written because there is no terminal to ask on; add --yes"));
    }
    let what = if files == 1 { "this file" } else { "these files" };
    eprint!("write {what} to {DIRECTORY}? [y/N] ");
    let mut answer = String::new();
    stdin.read_line(&mut answer).map_err(|error| Error::io("cannot read the answer", error))?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

fn systemctl(arguments: &[&str]) -> Result<()> {
    let called = format!("systemctl {}", arguments.join(" "));
    let status = Command::new("systemctl")
        .args(arguments)
        .status()
        .map_err(|error| Error::io(format!("cannot run `{called}`"), error))?;
    match status.success() {
        true => Ok(()),
        false => Err(Error::new(ErrorKind::Io, format!("`{called}` failed ({status})"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_file_is_replaced_atomically() {
        let dir = tempfile::tempdir().unwrap();
        let unit = |text: &str| Unit { name: "a.service".into(), text: text.into() };
        let old = unit("[Unit]\nDescription=a\n");
        let change = Change::of(&old, dir.path()).unwrap();
        assert!(
            change.is_one() && change.diff().starts_with("--- /dev/null\n+++ /"),
            "{}",
            change.diff()
        );
        change.write().unwrap();
        assert!(!Change::of(&old, dir.path()).unwrap().is_one());

        let new = unit("[Unit]\nDescription=b\n");
        let change = Change::of(&new, dir.path()).unwrap();
        assert!(change.diff().ends_with("-Description=a\n+Description=b\n"), "{}", change.diff());
        change.write().unwrap();
        let left: Vec<_> =
            fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["a.service"]);
        assert_eq!(fs::read_to_string(dir.path().join("a.service")).unwrap(), new.text);
    }

    #[test]
    fn masked_unit_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/dev/null", dir.path().join("a.service")).unwrap();
        let unit = Unit { name: "a.service".into(), text: String::new() };
        assert!(Change::of(&unit, dir.path()).is_err());
    }
}
