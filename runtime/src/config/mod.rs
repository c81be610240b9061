//! Configuration: attribute, file, environment and command line become [`Settings`].

mod settings;

pub(crate) use settings::*;
