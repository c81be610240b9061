//! Programs and scripts that a test installs.
//!
//! Only child processes write them. A file that the test process itself has open for writing may be inherited
//! by a child that another test forks at that moment, and then executing the file fails with ETXTBSY.

use std::path::Path;
use std::process::Command;

use crate::Child;
use crate::sandbox::PATIENCE;

/// Runs a script for sh(1) that makes the program `to`, its `$2`, from `from`, its `$1`.
pub(crate) fn made_by(script: &str, from: &Path, to: &Path) {
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh"]).arg(from).arg(to);
    Child::spawn(&mut command).wait(PATIENCE).expect_code(0);
}

/// Copies a program, with its permissions.
pub fn copy(from: &Path, to: &Path) {
    made_by("cp --reflink=auto \"$1\" \"$2\"", from, to);
}

/// Writes an executable script.
pub fn script(to: &Path, text: &str) {
    made_by("printf %s \"$1\" > \"$2\" && chmod 755 \"$2\"", Path::new(text), to);
}
