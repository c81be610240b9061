//! One attribute turns a program into a production daemon.

#[cfg(not(target_os = "linux"))]
compile_error!("unbroken needs Linux 5.10 or later: it is built on pidfds, signalfd and memfds");

mod cli;
mod config;
mod control;
mod counters;
mod error;
mod image;
mod launch;
mod link;
mod listener;
mod logs;
mod marker;
mod pidfile;
mod reporter;
mod solo;
mod spec;
mod supervisor;
mod sys;
mod worker;

pub use error::{Error, ErrorKind, Result};
pub use unbroken_macros::daemon;
pub use worker::daemon::{Daemon, Draining};
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
