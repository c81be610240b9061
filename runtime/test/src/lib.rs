//! Tests for daemons built with [`unbroken`].
//!
//! A test of the whole program: a new build is deployed while clients send requests, and nothing is lost.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! #[test]
//! fn a_deploy_loses_nothing() {
//!     let hello = unbroken_test::program(env!("CARGO_BIN_EXE_hello")).start();
//!     let load = hello.load("http").start();
//!     hello.restart();
//!     load.finish().assert_nothing_lost();
//!     hello.stop().assert_drained_within(Duration::from_secs(1));
//! }
//! ```
//!
//! It belongs in `tests/`, where Cargo sets `CARGO_BIN_EXE_<name>` for the programs of the package. It needs
//! no other setup: each daemon has a temporary directory and ports of its own, so tests run beside each other
//! and beside a daemon of the same program. At the end, also by a panic, all its processes are killed and the
//! directory is removed; when a test fails, the daemon's log and the load's report are printed.
//!
//! - [`program`] sets arguments, environment and configuration, and starts the daemon.
//! - [`TestDaemon`] restarts it, with the same program or [another](TestDaemon::restart_with), stops it, kills
//!   [its worker](TestDaemon::kill_worker) or [its supervisor](TestDaemon::kill_supervisor), and gives its
//!   [addresses](TestDaemon::addr), [status](TestDaemon::status) and [log](TestDaemon::log).
//! - [`Load`] keeps a listener under load: HTTP/1.1 with kept and new connections, or
//!   [another protocol](Load::exchange). [`LoadReport`] has the results.
//! - [`in_process`] gives a unit test a [`Daemon`](unbroken::Daemon) without any other process.
//!
//! Methods panic with a message that gives the reason, as assertions do. Where a failure is what a test looks
//! for, there is a variant that returns it, such as [`TestDaemon::try_restart`]:
//!
//! ```no_run
//! # let hello = unbroken_test::program("").start();
//! let error = hello.try_restart_with("/bin/false").unwrap_err();
//! assert!(error.reason().contains("exited with code 1 before it was ready"), "{error}");
//! assert_eq!(hello.generation(), 1);
//! ```

#![forbid(unsafe_code)]
#![allow(clippy::test_attr_in_doctest, reason = "the subject of this crate")]

mod address;
mod daemon;
mod dir;
mod drain;
mod error;
mod in_process;
mod load;
mod process;
mod program;
mod verb;

pub use address::Address;
pub use daemon::TestDaemon;
pub use drain::{DrainReport, Ledger};
pub use error::{Error, Result};
pub use in_process::{InProcess, InProcessBuilder, in_process};
pub use load::{Connection, Failure, Load, LoadReport, Response, RunningLoad};
pub use program::{Program, program};
