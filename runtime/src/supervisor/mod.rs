//! The supervisor: the process with the stable PID.
//!
//! [`machine`] makes all decisions and performs no I/O. [`driver`] runs the event loop: it turns what happens
//! into [`event`]s for the machine and carries out the actions that the machine returns. [`workers`] holds
//! the processes, [`generations`] the image, settings and listeners of each generation, and [`upgrade`]
//! replaces the supervisor's own image.

pub(crate) mod driver;
mod generation_times;
mod generations;
pub(crate) mod policy;
mod report;
pub(crate) mod upgrade;
mod workers;
