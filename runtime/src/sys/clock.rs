//! `clock_gettime(2)`: deadlines as `CLOCK_MONOTONIC`, valid in every process and across an exec, unlike
//! [`Instant`].

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use unbroken_core::nanos;

/// `CLOCK_MONOTONIC` in nanoseconds.
fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

/// `CLOCK_MONOTONIC` in microseconds, for the protocol of sd_notify(3).
pub(crate) fn monotonic_us() -> u64 {
    monotonic_ns() / 1000
}

/// One moment on both clocks, fixed for the life of this process: converting an instant repeatedly gives the
/// same number each time.
fn anchor() -> (Instant, u64) {
    static ANCHOR: OnceLock<(Instant, u64)> = OnceLock::new();
    *ANCHOR.get_or_init(|| (Instant::now(), monotonic_ns()))
}

/// An instant as nanoseconds of `CLOCK_MONOTONIC`.
pub(crate) fn to_monotonic_ns(at: Instant) -> u64 {
    let (here, ns) = anchor();
    match at.checked_duration_since(here) {
        Some(after) => ns.saturating_add(nanos(after)),
        None => ns.saturating_sub(nanos(here.duration_since(at))),
    }
}

/// Nanoseconds of `CLOCK_MONOTONIC` as an instant; about now for a number that no instant can represent.
pub(crate) fn from_monotonic_ns(ns: u64) -> Instant {
    let (here, here_ns) = anchor();
    match ns.checked_sub(here_ns) {
        Some(after) => here.checked_add(Duration::from_nanos(after)),
        None => here.checked_sub(Duration::from_nanos(here_ns - ns)),
    }
    .unwrap_or(here)
}

/// Now, as the supervisor's machine takes it.
pub(crate) fn now() -> unbroken_core::Instant {
    to_core(Instant::now())
}

/// An instant as the supervisor's machine takes it.
pub(crate) fn to_core(at: Instant) -> unbroken_core::Instant {
    unbroken_core::Instant::from_nanos(to_monotonic_ns(at))
}

/// An instant that the machine returned.
pub(crate) fn from_core(at: unbroken_core::Instant) -> Instant {
    from_monotonic_ns(at.as_nanos())
}

/// Writes instants to JSON and reads them: as nanoseconds of `CLOCK_MONOTONIC`, which all processes share.
pub(crate) mod instant {
    use serde_json::Value;

    use super::{Instant, from_monotonic_ns, to_monotonic_ns};
    use crate::json::{FromJson, Mistake, ToJson, Writer};

    pub(crate) fn write(at: &Instant, out: &mut Writer) {
        to_monotonic_ns(*at).write(out);
    }

    pub(crate) fn read(value: Value) -> Result<Instant, Mistake> {
        u64::read(value).map(from_monotonic_ns)
    }
}

/// Writes instants that may be absent, as [`instant`] does.
pub(crate) mod optional_instant {
    use serde_json::Value;

    use super::{Instant, from_monotonic_ns, to_monotonic_ns};
    use crate::json::{FromJson, Mistake, ToJson, Writer};

    pub(crate) fn write(at: &Option<Instant>, out: &mut Writer) {
        at.map(to_monotonic_ns).write(out);
    }

    pub(crate) fn read(value: Value) -> Result<Option<Instant>, Mistake> {
        Ok(Option::<u64>::read(value)?.map(from_monotonic_ns))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn number_survives_round_trip() {
        let now = to_monotonic_ns(Instant::now());
        for ns in [now, now + 30_000_000_123, now - 1_234_567] {
            assert_eq!(to_monotonic_ns(from_monotonic_ns(ns)), ns);
        }
    }

    #[test]
    fn instant_survives_round_trip() {
        for offset in [0, 1, 1_000, 30_000] {
            let at = Instant::now() + Duration::from_millis(offset);
            let back = from_monotonic_ns(to_monotonic_ns(at));
            let error = back.max(at) - back.min(at);
            assert!(error < Duration::from_millis(50), "{error:?}");
        }
    }
}
