//! Random histories, checked against the [`invariants`](super::invariants).
//!
//! There are two kinds: [`any_order`] and [`solo`] send events in any order, also impossible ones, and [`host`]
//! simulates a host whose workers react to actions, but may crash, hang or misbehave. [`simulation`] lives
//! through a million steps of the second kind, reproducible by seed.

mod any_order;
mod host;
mod simulation;
mod solo;

use std::time::Duration;

use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::invariants::Watch;
use crate::Exit;
use crate::Ledger;
use crate::event::Event;
use crate::policy::{Policy, RestartPolicy};

/// Runs `default` cases, unless the environment variable `PROPTEST_CASES` has another number.
fn cases(default: u32) -> ProptestConfig {
    let cases = match std::env::var("PROPTEST_CASES") {
        Ok(_) => ProptestConfig::default().cases,
        Err(_) => default,
    };
    ProptestConfig {
        cases,
        max_shrink_iters: 4000,
        failure_persistence: None,
        ..Default::default()
    }
}

fn millis(choices: &'static [u64]) -> impl Strategy<Value = Duration> {
    select(choices).prop_map(Duration::from_millis)
}

/// Generates policies whose times are short enough for everything to happen within seconds; zero is among
/// them.
fn policy() -> impl Strategy<Value = Policy> {
    let restart = select(&[RestartPolicy::OnFailure, RestartPolicy::Always, RestartPolicy::No][..]);
    let waits = (
        millis(&[0, 100, 300, 300]),
        millis(&[0, 50, 400, 3000]),
        millis(&[0, 30, 200]),
        millis(&[0, 0, 100, 1500]),
        millis(&[0, 0, 60, 700]),
    );
    let healing = (
        restart,
        millis(&[0, 10, 40]),
        millis(&[40, 500]),
        select(&[0, 1, 2, 5][..]),
        millis(&[0, 200, 10_000]),
    );
    let watchdog = select(vec![None, None, Some(Duration::from_millis(150))]);
    (waits, healing, watchdog).prop_map(
        |((ready, drain, kill, confirm, lame_duck), (restart, min, max, burst, span), watchdog)| {
            Policy {
                ready_timeout: ready,
                drain_timeout: drain,
                kill_timeout: kill,
                lame_duck,
                confirm_window: confirm,
                exclusive: false,
                watchdog,
                restart,
                backoff_min: min,
                backoff_max: max,
                start_limit_burst: burst,
                start_limit_interval: span,
            }
        },
    )
}

fn exit() -> impl Strategy<Value = Exit> {
    select(&[Exit::Code(0), Exit::Code(3), Exit::Code(256), Exit::Signal(11)][..])
}
