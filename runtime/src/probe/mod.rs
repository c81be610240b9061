//! Probes: whether the daemon is alive, ready or started, as Kubernetes asks.
//!
//! They are asked by `status --probe` through the control socket, or by HTTP at the address in the key
//! `probe`. The process that answers computes a [`ProbeResult`]; [`Server`] is the HTTP server for it.

mod http;
mod server;

use crate::json::{FromJson, ToJson};

#[cfg(any(test, fuzzing))]
pub(crate) use http::{ParsedProbe, parse, response};
pub(crate) use server::{ProbeServerState, ProbeSource, Server};

/// The kinds of probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ToJson, FromJson)]
#[json(rename_all = "kebab-case")]
pub(crate) enum Probe {
    /// Passes if the supervisor answers, and no worker hangs without being replaced.
    Live,
    /// Passes if a worker accepts, and the daemon is not stopping.
    Ready,
    /// Passes once the first generation has been ready.
    Startup,
}

impl Probe {
    pub(crate) const ALL: [Probe; 3] = [Probe::Live, Probe::Ready, Probe::Startup];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Probe::Live => "live",
            Probe::Ready => "ready",
            Probe::Startup => "startup",
        }
    }

    /// The path of the probe in HTTP.
    fn path(self) -> &'static [u8] {
        match self {
            Probe::Live => b"/livez",
            Probe::Ready => b"/readyz",
            Probe::Startup => b"/startupz",
        }
    }
}

/// The answer to a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ProbeResult {
    pub(crate) ok: bool,
    /// The reason in a few words.
    pub(crate) text: &'static str,
}

impl ProbeResult {
    pub(crate) fn passes(text: &'static str) -> ProbeResult {
        ProbeResult { ok: true, text }
    }

    pub(crate) fn fails(text: &'static str) -> ProbeResult {
        ProbeResult { ok: false, text }
    }
}
