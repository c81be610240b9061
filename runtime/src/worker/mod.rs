//! The worker: the process in which `main` runs.
//!
//! [`lifecycle`] takes it from *hello* to its exit. [`control_thread`] receives the supervisor's messages and
//! sets the phase in [`state`], which all other parts read. [`daemon`] is the program's handle, [`net`] has
//! the listeners, `http` serves them, and [`handoff`] moves live connections to the serving generation.

mod connection;
mod control_thread;
pub(crate) mod daemon;
mod environment;
pub mod handoff;
mod health_checks;
#[cfg(feature = "http")]
pub mod http;
#[cfg(feature = "test")]
pub(crate) mod in_process;
pub(crate) mod lifecycle;
pub mod net;
mod panics;
pub(crate) mod state;

pub(crate) use control_thread::SignalOwner;
