//! The worker: the process in which `main` runs.

mod conductor;
pub(crate) mod daemon;
#[cfg(feature = "http")]
pub mod http;
pub(crate) mod lifecycle;
pub mod net;
#[cfg(feature = "http")]
pub(crate) mod passing;
mod state;

pub(crate) use conductor::SignalDuty;
