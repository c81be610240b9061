//! HTTP/1.1 as a client sees it, written here so that no library's retry can hide a loss.

mod connection;
mod response;
mod target;

pub use connection::Connection;
pub use response::{Malformed, Parser, Response};
pub use target::Target;
