//! The interfaces of systemd, or another service manager with the same protocols.
//!
//! - [`activation`]: `sd_listen_fds(3)`: sockets passed to the daemon.
//! - [`notify`]: `sd_notify(3)`: readiness, reloading, the watchdog, and the fd store.
//! - [`journal`]: the native protocol of journald.

pub(crate) mod activation;
pub(crate) mod journal;
pub(crate) mod notify;
