//! A minimal HTTP/1.1 client. It is written here because a library may retry a request on its own, which
//! would hide the loss that the tests look for.

mod connection;
mod response;
mod target;

pub use connection::Connection;
pub use response::{Malformed, Parser, Response};
pub use target::Target;
