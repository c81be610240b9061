//! The supervisor: the process with the stable PID.
//!
//! [`machine`] decides and [`driver`] does; [`fleet`] holds the processes, [`generations`] what each
//! generation was started with.

mod adoption;
pub(crate) mod driver;
pub(crate) mod event;
mod fleet;
mod generations;
mod machine;
mod orphans;
mod report;
mod tenure;
pub(crate) mod upgrade;
