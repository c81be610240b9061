//! Workers whose supervisor was killed (orphans), and the next supervisor that takes them over.
//!
//! - [`protocol`]: the socket at which an orphan waits, by its path in the runtime directory.
//! - [`worker`]: the worker's side.
//! - [`orphans`]: the supervisor's side.

pub(crate) mod orphans;
pub(crate) mod protocol;
pub(crate) mod worker;
