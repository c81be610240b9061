//! System calls with the types of this crate. The only `unsafe` code lives here.

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
