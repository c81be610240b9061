//! System calls, with safe interfaces in the types of this crate. This is the only module with `unsafe` code.
//!
//! The first line of each file names the calls or files of the kernel that it wraps.

pub(crate) mod alarm;
pub(crate) mod capabilities;
pub(crate) mod clock;
pub(crate) mod descriptors;
pub(crate) mod exec;
pub(crate) mod guard;
pub(crate) mod holders;
pub(crate) mod limits;
pub(crate) mod memory;
pub(crate) mod page;
pub(crate) mod peer;
pub(crate) mod privileges;
pub(crate) mod process;
pub(crate) mod readiness;
pub(crate) mod seqpacket;
pub(crate) mod signals;
pub(crate) mod threads;
