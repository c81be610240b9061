//! How the daemon is: for its service manager, and for probes.

use std::time::Duration;

use crate::json::{FromJson, ToJson};

/// How a daemon is, in the eyes of a service manager.
#[derive(Debug, Clone, PartialEq, Eq, ToJson, FromJson)]
pub struct Health {
    pub phase: ServicePhase,
    /// For people.
    pub text: String,
    /// The generation that a restart tries, while it does.
    #[json(default)]
    pub reload: Option<u32>,
    /// How long a stop may take that has begun.
    pub ends_within: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ToJson, FromJson)]
pub enum ServicePhase {
    Starting,
    Running,
    /// A restart is in progress.
    Reloading,
    Stopping,
}

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ToJson, FromJson)]
#[json(rename_all = "kebab-case")]
pub enum Probe {
    /// The supervisor answers, and no worker hangs of which nobody has taken the place.
    Live,
    /// A worker accepts, and the daemon does not stop.
    Ready,
    /// The first generation was ready once.
    Startup,
}

impl Probe {
    pub const ALL: [Probe; 3] = [Probe::Live, Probe::Ready, Probe::Startup];

    pub fn as_str(self) -> &'static str {
        match self {
            Probe::Live => "live",
            Probe::Ready => "ready",
            Probe::Startup => "startup",
        }
    }

    /// Where it is asked by HTTP.
    pub fn path(self) -> &'static [u8] {
        match self {
            Probe::Live => b"/livez",
            Probe::Ready => b"/readyz",
            Probe::Startup => b"/startupz",
        }
    }
}

/// The answer to a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProbeResult {
    pub ok: bool,
    /// Why, in a few words.
    pub text: &'static str,
}

impl ProbeResult {
    pub fn passes(text: &'static str) -> ProbeResult {
        ProbeResult { ok: true, text }
    }

    pub fn fails(text: &'static str) -> ProbeResult {
        ProbeResult { ok: false, text }
    }
}
