//! The harness of the tests: real processes, real sockets, and a client that loses count of
//! nothing.
//!
//! - [`Bed`] is a directory in which one daemon lives. It runs verbs, swaps the binary, reads
//!   `status --json`, and leaves no process behind, whatever happens to the test.
//! - [`Load`] asks a server many things and accounts for every request in a [`Ledger`].
//! - [`http::Connection`] is one connection in the test's own hands, byte by byte.
//! - [`Process`] is a process held by a pidfd; [`Terminal`] a pseudo terminal with a child on it.
//! - [`eventually`] waits, with a bound, for what announces itself in no other way.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used)]

pub mod http;
pub mod load;
