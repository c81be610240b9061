//! The supervisor: the process with the stable PID.
//!
//! [`machine`] decides and [`driver`] does; [`fleet`] holds the processes, [`generations`] what each
//! generation was started with.

pub(crate) mod driver;
pub(crate) mod event;
mod generation_times;
mod generations;
mod machine;
mod report;
pub(crate) mod upgrade;
mod workers;
