//! Durations as people write them: `30s`, `500ms`, `1m 30s`, `1.5h`.

use std::time::Duration;

use crate::Error;

/// The longest duration that a key takes. Deadlines of this length do not overflow a clock.
pub const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// The nanoseconds and the spellings of each unit. [`format`] uses the first spelling.
const UNITS: [(u128, &[&str]); 10] = [
    (31_557_600_000_000_000, &["year", "years", "yr", "yrs", "y"]),
    (2_630_016_000_000_000, &["month", "months", "M"]),
    (604_800_000_000_000, &["week", "weeks", "wk", "wks", "w"]),
    (86_400_000_000_000, &["day", "days", "d"]),
    (3_600_000_000_000, &["h", "hr", "hrs", "hour", "hours"]),
    (60_000_000_000, &["m", "min", "mins", "minute", "minutes"]),
    (1_000_000_000, &["s", "sec", "secs", "second", "seconds"]),
    (1_000_000, &["ms", "msec", "millis"]),
    (1_000, &["us", "usec", "µs"]),
    (1, &["ns", "nsec", "nanos"]),
];

/// Parses a sequence of numbers with units; `0` needs none.
pub fn parse(text: &str) -> Result<Duration, Error> {
    let mut rest = text.trim();
    if rest.bytes().all(|b| b.is_ascii_digit()) && !rest.is_empty() {
        let is_zero = rest.bytes().all(|b| b == b'0');
        return if is_zero { Ok(Duration::ZERO) } else { Err(Error::NoUnit(rest.to_owned())) };
    }
    let mut nanos: u128 = 0;
    loop {
        let (number, behind) = split(rest, |c| c.is_ascii_digit() || c == '.');
        let (unit, behind) = split(behind.trim_start(), char::is_alphabetic);
        let part = part(number, unit).ok_or(Error::NotADuration)?;
        nanos = nanos.checked_add(part).ok_or(Error::TooLong)?;
        rest = behind.trim_start();
        if rest.is_empty() {
            break;
        }
    }
    let seconds = u64::try_from(nanos / 1_000_000_000).map_err(|_| Error::TooLong)?;
    Ok(Duration::new(seconds, (nanos % 1_000_000_000) as u32))
}

fn split(text: &str, is_inside: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(|c| !is_inside(c)).unwrap_or(text.len()))
}

/// The nanoseconds of a number and its unit. A fraction of a nanosecond is a mistake.
fn part(number: &str, unit: &str) -> Option<u128> {
    let (nanos, _) = UNITS.iter().find(|(_, spellings)| spellings.contains(&unit))?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let scale = 10_u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let fraction = u128::from(fraction.parse::<u64>().ok()?) * nanos;
    let whole = u128::from(whole.parse::<u64>().ok()?) * nanos;
    (fraction % scale == 0).then_some(whole + fraction / scale)
}

/// The text of a duration, from its largest unit to its smallest.
pub fn format(duration: Duration) -> String {
    let mut rest = duration.as_nanos();
    let mut parts = Vec::new();
    for (nanos, spellings) in UNITS {
        let count = rest / nanos;
        // Months are no whole number of weeks.
        if count == 0 || spellings[0] == "week" {
            continue;
        }
        rest %= nanos;
        let plural = if spellings[0].len() > 2 && count > 1 { "s" } else { "" };
        parts.push(format!("{count}{}{plural}", spellings[0]));
    }
    if parts.is_empty() { "0s".to_owned() } else { parts.join(" ") }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn texts_and_their_durations() {
        for (text, millis) in [
            ("0", 0),
            ("0s", 0),
            ("250ms", 250),
            ("1m 30s", 90_000),
            ("1min30s", 90_000),
            (" 2 days ", 172_800_000),
            ("1.5h", 5_400_000),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        assert_eq!(parse("30"), Err(Error::NoUnit("30".to_owned())));
        for text in ["", "soon", "s", "1m 30", "-1s", "1.s", ".5s", "1.2.3s", "0.1ns", "1fortnight"]
        {
            assert_eq!(parse(text), Err(Error::NotADuration), "{text}");
        }
        assert_eq!(parse("999999999999999y"), Err(Error::TooLong));
    }

    proptest! {
        #[test]
        fn a_duration_is_read_as_humantime_reads_it(
            parts in prop::collection::vec(
                ("[0-9]{1,6}", "(\\.[0-9]{1,3})?", " ?",
                 "(ns|nsec|us|usec|ms|msec|millis|s|sec|secs|second|m|min|mins|minutes|h|hr|hours|d|day|days|w|weeks|M|months|y|years|x)",
                 " ?"),
                1..4,
            ),
        ) {
            let text: String = parts.iter().map(|(a, b, c, d, e)| format!("{a}{b}{c}{d}{e}")).collect();
            match humantime::parse_duration(&text) {
                Ok(duration) => prop_assert_eq!(parse(&text), Ok(duration), "{}", text),
                // It refuses 0.0001h, as no whole number of seconds.
                Err(_) => prop_assert!(parse(&text).is_err() || text.contains('.'), "{}", text),
            }
        }

        #[test]
        fn any_text_is_answered_as_by_humantime(text in "[0-9smh. dayµ-]{0,12}") {
            if let Ok(duration) = parse(&text) && !text.contains('.') {
                // It has spaces at both ends of a text, but none around a bare 0.
                prop_assert_eq!(humantime::parse_duration(text.trim()).ok(), (!text.trim().starts_with("00") || duration != Duration::ZERO).then_some(duration));
            }
        }

        #[test]
        fn a_duration_is_written_as_humantime_writes_it(nanos in 0..u64::MAX, cut in 0..19u32) {
            let duration = Duration::from_nanos(nanos / 10_u64.pow(cut));
            prop_assert_eq!(format(duration), humantime::format_duration(duration).to_string());
            prop_assert_eq!(parse(&format(duration)), Ok(duration));
            let whole = Duration::from_secs(duration.as_secs());
            prop_assert_eq!(format(whole), humantime::format_duration(whole).to_string());
        }
    }
}
