//! One attribute turns a program into a production daemon.

mod config;
mod error;
mod spec;

pub use error::{Error, ErrorKind, Result};
