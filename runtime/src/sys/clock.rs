//! `clock_gettime(2)`: deadlines that mean the same in every process and across `exec`.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// `CLOCK_MONOTONIC` in nanoseconds.
fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

/// An instant as nanoseconds of `CLOCK_MONOTONIC`.
pub(crate) fn to_monotonic_ns(at: Instant) -> u64 {
    let (now, now_ns) = (Instant::now(), monotonic_ns());
    match at.checked_duration_since(now) {
        Some(ahead) => now_ns.saturating_add(nanos(ahead)),
        None => now_ns.saturating_sub(nanos(now.duration_since(at))),
    }
}

/// Nanoseconds of `CLOCK_MONOTONIC` as an instant; one before this process' reach is now.
pub(crate) fn from_monotonic_ns(ns: u64) -> Instant {
    let (now, now_ns) = (Instant::now(), monotonic_ns());
    if ns >= now_ns {
        now.checked_add(Duration::from_nanos(ns - now_ns)).unwrap_or(now)
    } else {
        now.checked_sub(Duration::from_nanos(now_ns - ns)).unwrap_or(now)
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_the_round_trip() {
        for offset in [0, 1, 1_000, 30_000] {
            let at = Instant::now() + Duration::from_millis(offset);
            let back = from_monotonic_ns(to_monotonic_ns(at));
            let error = back.max(at) - back.min(at);
            assert!(error < Duration::from_millis(50), "{error:?}");
        }
    }
}
