//! The settings that decisions depend on.

use std::time::Duration;

use crate::json::{FromJson, ToJson};

/// The settings that decisions depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ToJson, FromJson)]
pub struct Policy {
    pub ready_timeout: Duration,
    pub drain_timeout: Duration,
    pub kill_timeout: Duration,
    #[json(default)]
    pub lame_duck: Duration,
    pub confirm_window: Duration,
    /// Two generations must not run beside each other.
    pub exclusive: bool,
    /// How long the worker's runtime may be silent, if anybody minds.
    pub watchdog: Option<Duration>,
    pub restart: RestartPolicy,
    pub backoff_min: Duration,
    pub backoff_max: Duration,
    pub start_limit_burst: u32,
    pub start_limit_interval: Duration,
}

/// What the exit of a worker leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ToJson, FromJson)]
#[json(rename_all = "kebab-case")]
pub enum RestartPolicy {
    /// The daemon ends with the worker's code.
    No,
    /// A crash is respawned; exit code 0 ends the daemon.
    OnFailure,
    /// Every exit is respawned.
    Always,
}
