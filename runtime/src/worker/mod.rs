//! The worker: the process in which `main` runs.

mod connection;
mod control_thread;
pub(crate) mod daemon;
mod environment;
pub mod handoff;
mod health_checks;
#[cfg(feature = "http")]
pub mod http;
pub(crate) mod lifecycle;
pub mod net;
mod panics;
pub(crate) mod state;

pub(crate) use control_thread::SignalOwner;
