use std::io::{self, Write};

/// Reports on stderr that a test is skipped, and why.
///
/// # Panics
///
/// If `UNBROKEN_REQUIRE_ALL` is set, as on a machine on which everything is installed.
#[track_caller]
pub fn skip(why: &str) {
    assert!(std::env::var_os("UNBROKEN_REQUIRE_ALL").is_none(), "{why}");
    let at = std::panic::Location::caller();
    // `eprintln!` would be captured, and not shown for a test that passes.
    let _ = writeln!(io::stderr(), "\n!!! SKIPPED: {why} (from {at})");
}
