//! The supervisor: the process with the stable PID.
//!
//! [`machine`] decides, the driver does.

pub(crate) mod event;
pub(crate) mod machine;
