//! Probes: is the daemon alive, ready, started? Asked over the control socket by `status --probe`, or by
//! HTTP at the address that `probe` names.

mod http;
mod server;

use crate::json::{FromJson, ToJson};

#[cfg(any(test, fuzzing))]
pub(crate) use http::{ParsedProbe, parse, response};
pub(crate) use server::{ProbeServerState, ProbeSource, Server};

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ToJson, FromJson)]
#[json(rename_all = "kebab-case")]
pub(crate) enum Probe {
    /// The supervisor answers, and no worker hangs of which nobody has taken the place.
    Live,
    /// A worker accepts, and the daemon does not stop.
    Ready,
    /// The first generation was ready once.
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

    /// Where it is asked by HTTP.
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
    /// Why, in a few words.
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
