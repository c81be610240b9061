//! From the configuration to what decisions depend on.

use unbroken_core::policy::Policy;

use crate::config::Settings;

/// The settings that the machine's decisions depend on.
pub(crate) fn policy(settings: &Settings) -> Policy {
    Policy {
        ready_timeout: settings.ready_timeout,
        drain_timeout: settings.drain_timeout,
        kill_timeout: settings.kill_timeout,
        lame_duck: settings.lame_duck,
        confirm_window: settings.confirm_window,
        exclusive: settings.exclusive,
        watchdog: Some(settings.watchdog).filter(|limit| !limit.is_zero()),
        restart: settings.restart,
        backoff_min: settings.backoff_min,
        backoff_max: settings.backoff_max,
        start_limit_burst: settings.start_limit_burst,
        start_limit_interval: settings.start_limit_interval,
    }
}
