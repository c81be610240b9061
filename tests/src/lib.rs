//! The harness of the tests: real processes, real sockets, and a client that counts every request.
//!
//! - [`Bed`] is a temporary directory for one daemon. It runs verbs, replaces the binary, reads
//!   `status --json`, and kills every process of the daemon when it is dropped.
//! - [`Load`] sends requests to a server and records the outcome of each in a
//!   [`Ledger`](load::Ledger).
//! - [`http::Connection`] is one HTTP connection that the test drives byte by byte.
//! - [`Manager`] plays the service manager: it passes sockets to the daemon and stores some for it.
//! - [`Control`] is one connection to the control socket that the test drives packet by packet.
//! - [`Process`] is a process held by a pidfd; [`Terminal`] a pseudo terminal with a child on it.
//! - [`Machine`] is a Debian with a real systemd, in namespaces of its own.
//! - [`Container`](container::Container) runs a daemon as PID 1 in a nearly empty root directory.
//! - [`Browser`] is a headless Chromium.
//! - [`eventually`] polls a condition, within a time limit, where there is no event to wait for.

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
