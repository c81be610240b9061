//! The supervisor: the process with the stable PID.
//!
//! [`machine`] decides and [`driver`] does; [`fleet`] holds the processes, [`generations`] what each
//! generation was started with.

pub(crate) mod driver;
mod generation_times;
mod generations;
mod policy;
mod report;
pub(crate) mod upgrade;
mod workers;
