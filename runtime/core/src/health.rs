//! How the daemon is: for its service manager, and for probes.

use std::time::Duration;

use crate::json::{FromJson, ToJson};

/// The daemon's state, as far as a service manager is notified of it.
#[derive(Debug, Clone, PartialEq, Eq, ToJson, FromJson)]
pub struct Health {
    pub phase: ServicePhase,
    /// One line for people, shown by `systemctl status`.
    pub text: String,
    /// The new generation, during a restart.
    #[json(default)]
    pub reload: Option<u32>,
    /// How long a stop that has begun may take.
    pub ends_within: Duration,
}

/// The phases that the protocol distinguishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ToJson, FromJson)]
pub enum ServicePhase {
    Starting,
    Running,
    /// A restart is in progress.
    Reloading,
    Stopping,
}

/// The kinds of probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ToJson, FromJson)]
#[json(rename_all = "kebab-case")]
pub enum Probe {
    /// Passes if the supervisor answers, and no worker hangs without being replaced.
    Live,
    /// Passes if a worker accepts, and the daemon is not stopping.
    Ready,
    /// Passes once the first generation has been ready.
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

    /// The path of the probe in HTTP.
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
    /// The reason in a few words.
    pub text: &'static str,
}

impl ProbeResult {
    pub const fn passes(text: &'static str) -> ProbeResult {
        ProbeResult { ok: true, text }
    }

    pub const fn fails(text: &'static str) -> ProbeResult {
        ProbeResult { ok: false, text }
    }
}
