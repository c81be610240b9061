//! Probes: whether the daemon is alive, ready or started, as Kubernetes asks.
//!
//! They are asked by `status --probe` through the control socket, or by HTTP at the address in the key
//! `probe`. The process that answers computes a [`ProbeResult`]; [`Server`] is the HTTP server for it.

mod http;
mod server;

pub(crate) use unbroken_core::health::{Probe, ProbeResult};

#[cfg(any(test, fuzzing))]
pub(crate) use http::{ParsedProbe, parse, response};
pub(crate) use server::{ProbeServer, ProbeServerState, ProbeSource};
