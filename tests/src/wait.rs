use std::time::{Duration, Instant};

/// Polls `is` until it returns true, every 5 ms. For conditions that no event announces; `what` names the
/// condition in the message.
///
/// # Panics
///
/// If `is` does not return true in time.
#[track_caller]
pub fn eventually(what: &str, within: Duration, mut is: impl FnMut() -> bool) {
    let deadline = Instant::now() + within;
    while !is() {
        assert!(Instant::now() < deadline, "not within {within:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
