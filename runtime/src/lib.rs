//! One attribute turns a program into a production daemon.
//!
//! ```no_run
//! use unbroken::{Daemon, daemon};
//!
//! #[daemon(graceful_restart, drain_timeout = "20s", listen(http = "0.0.0.0:8080"))]
//! async fn main(daemon: Daemon) -> anyhow::Result<()> {
//!     let app = axum::Router::new().route("/", axum::routing::get(|| async { "hello" }));
//!     daemon.serve("http", app).await?;
//!     Ok(())
//! }
//! ```
//!
//! The program, say `hello`, runs in the foreground when it is started without a verb. The verbs are:
//!
//! | command | does |
//! |---|---|
//! | `hello start` | starts the daemon in the background; returns when it serves or has failed |
//! | `hello restart` | replaces the running code with the program on disk |
//! | `hello status` | shows the supervisor, its workers and their connections |
//! | `hello stop` | drains the daemon and stops it |
//! | `hello logs` | shows the daemon's output, from its log file or the journal |
//! | `hello check` | shows the effective configuration and the source of each value |
//! | `hello unit` | prints or installs a systemd unit |
//!
//! - [`daemon`]: the attribute, with all its keys.
//! - [`Daemon`]: the handle that `main` receives: listeners, readiness, draining, configuration.
//! - [`net`]: listeners and connections; [`net::blocking`]: the same for a `main` without async.
//! - [`CommandLine`], [`OneShot`] and [`Overrides`]: the program's own arguments, commands and settings.
//! - [`handoff`]: handing off an application's own connections to the next generation.
#![cfg_attr(feature = "http", doc = "- [`http`] says how HTTP is served.")]
//! - [`Error`]: the error type; [`ErrorKind`]: its classes.
//!
//! # What happens at a restart
//!
//! With `graceful_restart` the program runs as two processes: the **supervisor**, which has one thread,
//! keeps its PID and owns the listening sockets, and a **worker**, in which `main` runs. The worker accepts
//! connections directly. At a restart:
//!
//! 1. The supervisor opens the program on disk and starts a worker of the next **generation** from it. This
//!    worker reads the configuration and receives the listening sockets from the supervisor.
//! 2. The new worker runs `main` until it is **ready**: every listener is polled for accept, or the program
//!    has called [`Daemon::ready`]. If it fails before that or is not ready in time, the supervisor kills
//!    it, the old worker keeps serving, and `restart` prints the reason and fails.
//! 3. The supervisor tells the old worker to stop accepting and, immediately after, the new worker to start.
//!    Connections that arrive in between queue in the kernel because the sockets stay open.
//! 4. The old worker **drains**: it finishes what is in flight and exits, at the drain deadline at the
//!    latest. The ledger counts what became of each of its connections.
//! 5. The supervisor re-executes itself from the new image under the same PID. If that fails, it returns to
//!    the old image and reports the reason.
//!
//! A program has three duties: to end its accept loop when [`Listener::next`](net::Listener::next) returns
//! `None`, to run tasks that must be finished with [`Daemon::spawn`], and to end connections that would
//! never end by themselves when [`Daemon::draining`] completes.
#![cfg_attr(feature = "http", doc = "[`Daemon::serve`] does all of that for HTTP.")]
//! A server that accepts by itself gets a [raw listener](Daemon::raw_listener), with other duties.
//!
//! A crashed worker is respawned from the image and with the settings of its generation.
//!
//! Without `graceful_restart` the daemon is **solo**: one process without a supervisor, with the same
//! pidfile, listeners, signals and drain.
//!
//! # Configuration
//!
//! Each key of the attribute can be overridden by a TOML file, by an environment variable such as
//! `DAEMON_DRAIN_TIMEOUT`, and by `--set drain_timeout=10s` after a verb; later ones take precedence. The
//! section `[app]` of the same layers belongs to the program:
//!
//! ```no_run
//! use unbroken::{Daemon, daemon};
//!
//! #[derive(serde::Deserialize)]
//! struct App {
//!     greeting: String,
//! }
//!
//! #[daemon(config = "/etc/hello.toml")]
//! async fn main(daemon: Daemon) -> unbroken::Result<()> {
//!     let app: App = daemon.config()?;
//!     println!("{}", app.greeting);
//!     Ok(())
//! }
//! ```
//!
//! # Features
//!
//! - **`http`** (default): [`Daemon`]'s `serve`, HTTP/1.1 for any tower service.
//! - **`http2`** (default): HTTP/2 with prior knowledge (without TLS) in `serve`.
//! - **`axum`**: implements `axum::serve::Listener` for [`net::Listener`], and makes axum's
//!   `ConnectInfo<SocketAddr>` available in handlers. [`Daemon`]'s `serve` takes an axum `Router` without
//!   this feature, because a `Router` is a tower service.
//! - **`clap`**: `clap::Parser` types as the second argument of `main`, see [`CommandLine`].
//! - **`log`** (default): a subscriber for [`tracing`], installed if the key `log_format` asks for one.
//!   Without this feature that key accepts only `none`.
//!
//! The crate emits its events with [`tracing`]. Without `log_format` it installs no subscriber, so the
//! program can install its own.
//!
//! # Platform
//!
//! Linux 5.10 or later; on other systems the crate fails to compile with a message that says so. `#[daemon]`
//! cannot be combined with `#[tokio::main]` and similar attributes because it starts the runtime itself.

#[cfg(not(target_os = "linux"))]
compile_error!("unbroken needs Linux 5.10 or later: it is built on pidfds, signalfd and memfds");

mod claim;
mod cli;
#[cfg(test)]
mod compat;
mod config;
mod control;
mod counters;
mod daemon_io;
mod error;
#[cfg(not(feature = "failpoints"))]
mod failpoint;
#[cfg(feature = "failpoints")]
#[doc(hidden)]
pub mod failpoint;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzz;
mod image;
mod inherited_fd;
pub(crate) use unbroken_core::json;
mod launch;
mod link;
mod listener;
mod logs;
mod owned_files;
mod pidfile;
mod privileges;
mod probe;
mod program;
mod reattach;
mod solo;
mod spec;
mod supervisor;
mod sys;
mod systemd;
mod timestamp;
mod worker;

pub use error::{Error, ErrorKind, Result};
pub use launch::is_verb;
pub use program::{CommandLine, CommandLineExit, OneShot, Overrides};
pub use unbroken_macros::daemon;
pub use worker::daemon::{Daemon, Draining};
pub use worker::handoff;
#[cfg(feature = "http")]
pub use worker::http;
pub use worker::net;

/// The items that the crate `unbroken-test` refers to. Not public API: they may change in any release.
#[cfg(feature = "test")]
#[doc(hidden)]
pub mod __test {
    pub use crate::worker::in_process::InProcess;
}

/// The items that the expansion of [`daemon`] refers to. Not public API: they may change in any release.
#[doc(hidden)]
pub mod __private {
    pub use crate::launch::{run_async, run_async_with, run_sync, run_sync_with};
    pub use crate::program::{ConfigureResult, Program};
    pub use crate::spec::{Flavor, Literal, Spec};

    /// A `main` for a program whose attribute is on another item: the macro imports it so that the missing
    /// `main` does not add a second compile error.
    pub mod fallback {
        /// Never runs, because the program does not compile.
        pub fn main() {}
    }
}
