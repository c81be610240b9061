//! Re-attaching orphans: workers whose supervisor was killed are taken over by the next one.
//!
//! - [`protocol`]: the socket at which an orphan waits, by its path in the runtime directory.
//! - [`worker`]: the side of the worker, which accepts a supervisor and sends it what it needs.
//! - [`orphans`]: the side of the supervisor, which finds orphans at its start and drains them.

pub(crate) mod orphans;
pub(crate) mod protocol;
pub(crate) mod worker;
