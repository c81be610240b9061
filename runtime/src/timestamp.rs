//! Timestamps as in RFC 3339, in UTC.

use std::time::{SystemTime, UNIX_EPOCH};

/// The last second of the year 9999, beyond which the format has no years.
const LAST: u64 = 253_402_300_799;

/// `2026-05-01T10:00:00.123Z`, with so many digits of a second, up to 9.
pub(crate) fn rfc3339(time: SystemTime, digits: usize) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = since.as_secs().min(LAST);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let mut day = seconds / 86_400;
    let mut year = 1970;
    while day >= 365 + leap_day(year) {
        day -= 365 + leap_day(year);
        year += 1;
    }
    let mut month = 1;
    for length in [31, 28 + leap_day(year), 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if day < length {
            break;
        }
        day -= length;
        month += 1;
    }
    let date = format!("{year:04}-{month:02}-{:02}T{hour:02}:{minute:02}:{second:02}", day + 1);
    match digits {
        0 => date + "Z",
        _ => format!("{date}.{}Z", &format!("{:09}", since.subsec_nanos())[..digits.min(9)]),
    }
}

fn leap_day(year: u64) -> u64 {
    u64::from(year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400)))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn years_end_at_9999() {
        let far = UNIX_EPOCH + Duration::from_secs(LAST + 1);
        assert_eq!(rfc3339(far, 0), "9999-12-31T23:59:59Z");
        assert_eq!(rfc3339(UNIX_EPOCH - Duration::from_secs(1), 3), "1970-01-01T00:00:00.000Z");
    }

    proptest! {
        #[test]
        fn timestamps_are_those_of_humantime(seconds in 0..=LAST, nanos in 0..1_000_000_000_u32) {
            let time = UNIX_EPOCH + Duration::new(seconds, nanos);
            prop_assert_eq!(rfc3339(time, 0), humantime::format_rfc3339_seconds(time).to_string());
            prop_assert_eq!(rfc3339(time, 3), humantime::format_rfc3339_millis(time).to_string());
            prop_assert_eq!(rfc3339(time, 6), humantime::format_rfc3339_micros(time).to_string());
        }
    }
}
