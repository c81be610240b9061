//! Probes: is the daemon alive, ready, started? Asked over the control socket by `status --probe`, or by
//! HTTP at the address that `probe` names.

mod http;
mod server;

pub(crate) use unbroken_core::health::{Probe, ProbeResult};

#[cfg(any(test, fuzzing))]
pub(crate) use http::{ParsedProbe, parse, response};
pub(crate) use server::{ProbeServerState, ProbeSource, Server};
