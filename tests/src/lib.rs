//! The harness of the tests: real processes, real sockets, and a client that counts every request.
//!
//! - [`Sandbox`] is a temporary directory for one daemon. It runs verbs, replaces the binary, reads
//!   `status --json`, and kills every process of the daemon when it is dropped.
//! - [`Load`] sends requests to a server and records the outcome of each in a
//!   [`Ledger`](load::Ledger).
//! - [`http::Connection`] is one HTTP connection that the test drives byte by byte.
//! - [`FakeServiceManager`] plays the service manager: it passes sockets to the daemon and stores some for it.
//! - [`Control`] is one connection to the control socket that the test drives packet by packet.
//! - [`Process`] is a process held by a pidfd; [`Terminal`] a pseudo terminal with a child on it.
//! - [`SystemdHost`] is a Debian with a real systemd, in namespaces of its own.
//! - [`Container`](container::Container) runs a daemon as PID 1 in a nearly empty root directory.
//! - [`Browser`] is a headless Chromium.
//! - [`eventually`] polls a condition, within a time limit, where there is no event to wait for.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used)]

pub mod accepted;
#[cfg(doctest)]
mod book;
pub mod browser;
pub mod child;
pub mod container;
pub mod control;
pub mod example;
pub mod fake_service_manager;
pub mod figures;
pub mod http;
pub mod load;
pub mod process;
pub mod program;
pub mod report;
pub mod sandbox;
mod skip;
pub mod systemd_host;
pub mod terminal;
mod wait;

pub use browser::Browser;
pub use child::{Child, Output};
pub use control::Control;
pub use fake_service_manager::FakeServiceManager;
pub use load::Load;
pub use process::Process;
pub use report::{Report, Status};
pub use rustix::process::Signal;
pub use sandbox::{Bad, Sandbox};
pub use skip::skip;
pub use systemd_host::SystemdHost;
pub use terminal::Terminal;
pub use wait::eventually;
