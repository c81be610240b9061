//! The settings that decisions depend on.

use std::time::Duration;

use crate::json::{FromJson, ToJson};

/// The settings of a generation on which the machine's decisions depend.
///
/// The fields are named after their configuration keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ToJson, FromJson)]
pub struct Policy {
    /// The time from the *hello* of a worker to its *ready*; a worker that takes longer is killed.
    pub ready_timeout: Duration,
    /// The time that a draining worker has to finish its connections before it gets SIGTERM.
    pub drain_timeout: Duration,
    /// The time from SIGTERM to SIGKILL for a worker that missed its drain deadline.
    pub kill_timeout: Duration,
    /// The time for which a daemon that is asked to stop keeps accepting while it reports not ready; zero
    /// for none.
    #[json(default)]
    pub lame_duck: Duration,
    /// The time after the commit during which a restart can still be aborted; zero confirms at the commit.
    pub confirm_window: Duration,
    /// Whether the old worker must be gone before the `main` of a new one begins.
    pub exclusive: bool,
    /// The time within which the runtime of a worker must answer a [`Ping`](crate::event::WorkerCommand::Ping); `None` if
    /// workers are not watched.
    pub watchdog: Option<Duration>,
    /// Which exits of a worker lead to a respawn.
    pub restart: RestartPolicy,
    /// The delay before the respawn after the first crash; each further crash within
    /// `start_limit_interval` doubles it.
    pub backoff_min: Duration,
    /// The longest delay before a respawn.
    pub backoff_max: Duration,
    /// The number of crashes within `start_limit_interval` after which a worker is still respawned. One
    /// more uses up the start limit.
    pub start_limit_burst: u32,
    /// The period over which crashes are counted.
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
