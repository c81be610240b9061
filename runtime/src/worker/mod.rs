//! The worker: the process in which `main` runs.

mod conductor;
mod connection;
pub(crate) mod daemon;
mod environment;
#[cfg(feature = "http")]
pub mod http;
pub(crate) mod lifecycle;
pub mod net;
mod orphan;
mod panics;
pub mod passing;
mod probation;
mod state;

pub(crate) use conductor::SignalOwner;
