use std::io::{self, Write};

/// Says that a test is skipped for lack of something.
///
/// # Panics
///
/// If `UNBROKEN_REQUIRE_ALL` is set: where everything is installed nothing may be missing.
#[track_caller]
pub fn skip(why: &str) {
    assert!(std::env::var_os("UNBROKEN_REQUIRE_ALL").is_none(), "{why}");
    let at = std::panic::Location::caller();
    // Not by a macro, whose output a test that passes does not show. What it says is for people alone.
    let _ = writeln!(io::stderr(), "\n!!! SKIPPED: {why} (from {at})");
}
