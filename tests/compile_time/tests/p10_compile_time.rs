//! P10: the compiler reports mistakes in the attribute, with the span on the mistake and the fix in the
//! message.
//!
//! The expected output is that of one release of rustc. After a change of messages, run with
//! `TRYBUILD=overwrite` and read the difference.

use std::io::{Write, stderr};
use std::process::Command;

/// The release of rustc whose output the files in `ui` contain.
const RUSTC: &str = "1.95.0";

#[test]
fn mistakes_are_caught_at_compile_time() {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).arg("--version").output().expect("rustc runs");
    let version = String::from_utf8_lossy(&output.stdout);
    let version = version.trim();
    if version.split_whitespace().nth(1) != Some(RUSTC) {
        let reason =
            format!("ui/*.stderr holds the output of rustc {RUSTC}, and this is {version}");
        assert!(std::env::var_os("CI").is_none(), "{reason}");
        // `eprintln!` would be captured, and not shown for a test that passes.
        writeln!(stderr(), "SKIPPED: {reason}").expect("stderr takes a line");
        return;
    }
    let cases = trybuild::TestCases::new();
    cases.pass("ui/pass/*.rs");
    cases.compile_fail("ui/*.rs");
}
