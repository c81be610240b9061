//! The programs in `examples/`.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Builds an example as its README describes, in the profile of the tests, and returns the program's path.
///
/// # Panics
///
/// If the example cannot be built.
pub fn built(package: &str) -> PathBuf {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut build = Command::new(cargo);
    build.args(["build", "-p", package, "--message-format", "json"]).current_dir(workspace);
    let output = build.output().expect("cargo");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let messages = String::from_utf8_lossy(&output.stdout);
    let executable = messages.lines().find_map(|line| {
        let message: Value = serde_json::from_str(line).ok()?;
        message["executable"].as_str().map(PathBuf::from)
    });
    executable.unwrap_or_else(|| panic!("cargo names no program of `{package}`\n{messages}"))
}
