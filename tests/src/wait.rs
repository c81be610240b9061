use std::time::{Duration, Instant};

/// Asks again and again until it is so. For what announces itself in no other way.
///
/// # Panics
///
/// If it is not so in time.
#[track_caller]
pub fn eventually(what: &str, within: Duration, mut is: impl FnMut() -> bool) {
    let deadline = Instant::now() + within;
    while !is() {
        assert!(Instant::now() < deadline, "not within {within:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
