//! The time as an argument.

use std::ops::{Add, AddAssign, Sub};
use std::time::Duration;

use crate::json::{FromJson, Mistake, ToJson, Writer};
use serde_json::Value;

/// A moment on `CLOCK_MONOTONIC` (`clock_gettime(2)`), which all processes of a host share and `exec` does not
/// change. This crate never reads that clock.
///
/// Arithmetic saturates: a deadline too far away to be written down is as good as none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant {
    nanos: u64,
}

impl Instant {
    /// The moment so many nanoseconds after the clock began.
    pub const fn from_nanos(nanos: u64) -> Instant {
        Instant { nanos }
    }

    /// Nanoseconds since the clock began.
    pub const fn as_nanos(self) -> u64 {
        self.nanos
    }

    /// Returns the time since `earlier`; zero if that is later.
    pub const fn saturating_duration_since(self, earlier: Instant) -> Duration {
        Duration::from_nanos(self.nanos.saturating_sub(earlier.nanos))
    }
}

/// Returns the duration in nanoseconds, at most `u64::MAX`.
pub fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Add<Duration> for Instant {
    type Output = Instant;

    fn add(self, later: Duration) -> Instant {
        Instant { nanos: self.nanos.saturating_add(nanos(later)) }
    }
}

impl AddAssign<Duration> for Instant {
    fn add_assign(&mut self, later: Duration) {
        *self = *self + later;
    }
}

impl Sub<Duration> for Instant {
    type Output = Instant;

    fn sub(self, earlier: Duration) -> Instant {
        Instant { nanos: self.nanos.saturating_sub(nanos(earlier)) }
    }
}

impl Sub for Instant {
    type Output = Duration;

    fn sub(self, earlier: Instant) -> Duration {
        self.saturating_duration_since(earlier)
    }
}

impl ToJson for Instant {
    fn write(&self, out: &mut Writer) {
        self.nanos.write(out);
    }
}

impl FromJson for Instant {
    fn read(value: Value) -> Result<Instant, Mistake> {
        u64::read(value).map(Instant::from_nanos)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_saturates() {
        let (first, last) = (Instant::from_nanos(0), Instant::from_nanos(u64::MAX));
        assert_eq!(last + Duration::MAX, last);
        assert_eq!(first - Duration::from_secs(1), first);
        assert_eq!(first - last, Duration::ZERO);
        assert_eq!(first + Duration::from_nanos(7), Instant::from_nanos(7));
    }
}
