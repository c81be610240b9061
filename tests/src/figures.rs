//! What the benchmarks have in common.

use std::fmt::Display;
use std::str::FromStr;

/// The number that an environment variable sets.
///
/// # Panics
///
/// If it sets something else.
pub fn knob<T: FromStr<Err: Display>>(name: &str, default: T) -> T {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|error| panic!("{name}={text}: {error}")),
        Err(_) => default,
    }
}

/// The value below which this share of the others is; 0.5 is the median. Without any there is no number.
#[must_use]
pub fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let index = (share * sorted.len().saturating_sub(1) as f64).round();
    sorted.get(index as usize).copied().unwrap_or(f64::NAN)
}
