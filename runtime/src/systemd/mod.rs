//! What a service manager such as systemd gives the daemon, keeps for it and is notified of.
//!
//! - [`activation`]: sockets passed by `sd_listen_fds(3)`.
//! - [`notify`]: `sd_notify(3)`: readiness, reloading, the watchdog, and its store of descriptors.
//! - [`journal`]: the native protocol of journald.

pub(crate) mod activation;
pub(crate) mod journal;
pub(crate) mod notify;
