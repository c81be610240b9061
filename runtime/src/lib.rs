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
//! The program, say `hello`, runs in the foreground when it is called by its name alone, and has verbs:
//!
//! | command | does |
//! |---|---|
//! | `hello start` | goes to the background, and returns when it serves or has failed |
//! | `hello restart` | replaces the running code by the program on disk |
//! | `hello status` | shows what runs |
//! | `hello stop` | drains and ends it |
//! | `hello logs` | shows what it wrote, wherever that goes |
//! | `hello check` | shows the effective configuration, and where each value is from |
//! | `hello unit` | prints a unit for systemd, or installs it |
//!
//! - [`daemon`] is the attribute, with all its keys.
//! - [`Daemon`] is what `main` gets: listeners, readiness, draining, configuration.
//! - [`net`] has the listeners and connections, [`net::blocking`] those of a `main` without async.
//! - [`handoff`] hands an application's own connections to the next generation.
#![cfg_attr(feature = "http", doc = "- [`http`] says how HTTP is served.")]
//! - [`Error`] is what can go wrong, by [`ErrorKind`].
//!
//! # What happens at a restart
//!
//! With `graceful_restart` the program runs as a **supervisor**, a process of one thread that keeps its
//! process id and owns the listening sockets, and a **worker**, a process in which `main` runs. Workers
//! accept connections themselves. At a restart
//!
//! 1. the supervisor opens the program on disk and starts a worker of the next **generation** from it,
//!    which reads its configuration and is handed the sockets;
//! 2. the new worker runs `main` until it is **ready**: every listener is polled for accept, or the
//!    program has said so by [`Daemon::ready`]. Should it fail before that, or not be ready in time, it
//!    is killed, the old worker goes on, and whoever asked for the restart gets the reason;
//! 3. the old worker is told to stop accepting and the new one to go, in one breath. What arrives in
//!    between waits in the kernel, as the sockets stay open;
//! 4. the old worker **drains**: it finishes what is in flight, at the latest at the drain deadline, and
//!    exits. What became of its connections is counted and told;
//! 5. the supervisor becomes the new program as well, in its own process. Should that fail, it is the
//!    old one again, and says why.
//!
//! What a program has to do for it: end its accept loop when [`Listener::next`](net::Listener::next)
//! does, hand tasks that should be finished to [`Daemon::spawn`], and end connections that would never
//! end by themselves when [`Daemon::draining`] completes.
#![cfg_attr(feature = "http", doc = "[`Daemon::serve`] does all of that for HTTP.")]
//!
//! A worker that crashes is respawned from the image and with the settings of its generation.
//!
//! Without `graceful_restart` the daemon is **solo**: one process, with the same pidfile, listeners,
//! signals and drain.
//!
//! # Configuration
//!
//! Each key of the attribute can be overridden: by a TOML file, by a variable such as
//! `DAEMON_DRAIN_TIMEOUT`, and by `--set drain_timeout=10s` behind a verb. Section `[app]` of the same
//! layers is the program's own:
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
//! - **`http2`** (default): HTTP/2 with prior knowledge in `serve`.
//! - **`axum`**: implements `axum::serve::Listener` for [`net::Listener`], and makes axum's
//!   `ConnectInfo<SocketAddr>` available in handlers. Axum's `Router` needs neither: it is a tower
//!   service.
//!
//! - **`log`** (default): a subscriber for [`tracing`], installed where the configuration asks for one by
//!   `log_format`. Without the feature that key takes only `none`.
//!
//! Events are emitted by [`tracing`]; without `log_format` no subscriber is installed, and the program's own
//! `init()` finds none.
//!
//! # Platform
//!
//! Linux 5.10 or later. Elsewhere it does not compile, and says so. `#[daemon]` does not compile beside
//! `#[tokio::main]` and its like: it starts the runtime itself.

#[cfg(not(target_os = "linux"))]
compile_error!("unbroken needs Linux 5.10 or later: it is built on pidfds, signalfd and memfds");

mod claim;
mod cli;
#[cfg(test)]
mod compat;
mod config;
mod control;
mod counters;
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
mod reattach;
mod solo;
mod spec;
mod supervisor;
mod sys;
mod systemd;
mod timestamp;
mod worker;

pub use error::{Error, ErrorKind, Result};
pub use unbroken_macros::daemon;
pub use worker::daemon::{Daemon, Draining};
pub use worker::handoff;
#[cfg(feature = "http")]
pub use worker::http;
pub use worker::net;

/// What the attribute expands into. Not for use by hand; it may change in any release.
#[doc(hidden)]
pub mod __private {
    pub use crate::launch::{run_async, run_sync};
    pub use crate::spec::{Flavor, Literal, Spec};

    /// A `main` for programs whose attribute stands on something else.
    pub mod fallback {
        /// Never runs: the program does not compile.
        pub fn main() {}
    }
}
