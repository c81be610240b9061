//! Descriptors by number, in what a program writes down for the one it is about to become.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use crate::error::{Error, ErrorKind, Result};
use crate::json::{FromJson, ToJson};
use crate::sys::descriptors;

/// One descriptor that the next program finds open under this number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ToJson, FromJson)]
pub(crate) struct InheritedFd(RawFd);

/// Writes down descriptors, and remembers all of them.
#[derive(Debug, Default)]
pub(crate) struct FdTable {
    numbers: Vec<RawFd>,
}

impl FdTable {
    pub(crate) fn add(&mut self, fd: impl AsFd) -> InheritedFd {
        let number = fd.as_fd().as_raw_fd();
        self.numbers.push(number);
        InheritedFd(number)
    }

    /// Everything that was handed, for the exec and for whoever puts it away afterwards.
    pub(crate) fn numbers(self) -> Vec<RawFd> {
        self.numbers
    }
}

impl InheritedFd {
    /// A duplicate: the number itself stays open, for a program that may have to be begun again.
    pub(crate) fn duplicate(self, what: &str) -> Result<OwnedFd> {
        descriptors::duplicate(self.0).map_err(|error: io::Error| {
            Error::os(
                ErrorKind::Protocol,
                format!("descriptor {}, {what}, was not inherited", self.0),
                error,
            )
        })
    }
}
