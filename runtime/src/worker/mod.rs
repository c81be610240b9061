//! The worker: the process in which `main` runs.

mod conductor;
pub(crate) mod daemon;
#[cfg(feature = "http")]
pub(crate) mod http;
pub(crate) mod lifecycle;
pub(crate) mod net;
mod state;
