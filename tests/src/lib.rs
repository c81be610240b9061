//! The harness of the tests: real processes, real sockets, and a client that loses count of
//! nothing.
//!
//! - [`Bed`] is a directory in which one daemon lives. It runs verbs, swaps the binary, reads
//!   `status --json`, and leaves no process behind, whatever happens to the test.
//! - [`Load`] asks a server many things and accounts for every request in a
//!   [`Ledger`](load::Ledger).
//! - [`http::Connection`] is one connection in the test's own hands, byte by byte.
//! - [`Manager`] is a service manager that passes sockets and keeps some.
//! - [`Control`] is one connection to the control socket, packet by packet.
//! - [`Process`] is a process held by a pidfd; [`Terminal`] a pseudo terminal with a child on it.
//! - [`Machine`] is one with a real systemd, in namespaces of its own.
//! - [`Container`](container::Container) has a daemon as its first process, and little else.
//! - [`Browser`] is a Chromium without a window.
//! - [`eventually`] waits, with a bound, for what announces itself in no other way.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used)]

pub mod accepted;
pub mod bed;
#[cfg(doctest)]
mod book;
pub mod browser;
pub mod child;
pub mod container;
pub mod control;
pub mod example;
pub mod figures;
pub mod http;
pub mod load;
pub mod machine;
pub mod manager;
pub mod process;
pub mod program;
pub mod report;
mod skip;
pub mod terminal;
mod wait;

pub use bed::{Bad, Bed};
pub use browser::Browser;
pub use child::{Child, Output};
pub use control::Control;
pub use load::Load;
pub use machine::Machine;
pub use manager::Manager;
pub use process::Process;
pub use report::{Report, Status};
pub use rustix::process::Signal;
pub use skip::skip;
pub use terminal::Terminal;
pub use wait::eventually;
