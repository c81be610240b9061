//! Programs that a test puts somewhere. A file that the test process has open for writing may be inherited by
//! a child that another test forks at that moment, and executing it fails then (ETXTBSY of execve(2)): only
//! children write programs.

use std::path::Path;
use std::process::Command;

use crate::Child;
use crate::bed::PATIENCE;

/// Runs a script for sh(1) that makes the program `to` of `from`: its `$2` and `$1`.
pub(crate) fn made_by(script: &str, from: &Path, to: &Path) {
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh"]).arg(from).arg(to);
    Child::spawn(&mut command).wait(PATIENCE).expect_code(0);
}

/// Copies a program, with its permissions.
pub fn copy(from: &Path, to: &Path) {
    made_by("cp --reflink=auto \"$1\" \"$2\"", from, to);
}

/// Writes a script that can be executed.
pub fn script(to: &Path, text: &str) {
    made_by("printf %s \"$1\" > \"$2\" && chmod 755 \"$2\"", Path::new(text), to);
}
