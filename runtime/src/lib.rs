//! One attribute turns a program into a production daemon.

mod config;
mod error;
mod image;
mod link;
mod listener;
mod logs;
mod pidfile;
mod spec;
mod supervisor;
mod sys;

pub use error::{Error, ErrorKind, Result};
