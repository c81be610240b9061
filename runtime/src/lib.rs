//! One attribute turns a program into a production daemon.

mod config;
mod counters;
mod error;
mod image;
mod pidfile;
mod spec;
mod supervisor;
mod sys;

pub use error::{Error, ErrorKind, Result};
