//! Helpers that the benchmarks share.

use std::fmt::Display;
use std::str::FromStr;

/// Returns the number in an environment variable, or `default` if the variable is not set.
///
/// # Panics
///
/// If the variable is not a number.
pub fn knob<T: FromStr<Err: Display>>(name: &str, default: T) -> T {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|error| panic!("{name}={text}: {error}")),
        Err(_) => default,
    }
}

/// Returns the quantile of `values` at `share`; 0.5 is the median. Without values the result is NaN.
#[must_use]
pub fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let index = (share * sorted.len().saturating_sub(1) as f64).round();
    sorted.get(index as usize).copied().unwrap_or(f64::NAN)
}
