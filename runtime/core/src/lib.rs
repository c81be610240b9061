//! The decisions of the [unbroken](https://docs.rs/unbroken) supervisor, without I/O, clock or system calls.
//!
//! [`Machine`] takes one [`Event`] and the time, and returns the [`Action`]s that follow from it, in order.
//! The driver in the crate `unbroken` turns what happens to processes and sockets into events, and carries the
//! actions out. Everything that the supervisor can decide wrongly is tested here, without a process.
//!
//! Not for use by hand: it changes with every release of `unbroken`.

#![allow(missing_docs, reason = "an internal crate: its names document it")]

pub mod event;
mod exit;
pub mod health;
pub mod json;
pub mod ledger;
pub mod machine;
pub mod policy;
mod remaining;
pub mod sorted;
mod time;

pub use event::{Action, Event};
pub use exit::Exit;
pub use ledger::Ledger;
pub use machine::Machine;
pub use remaining::Remaining;
pub use time::{Instant, nanos};
