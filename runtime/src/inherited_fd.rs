//! Descriptors that stay open across an exec, written by number into the state for the next image.
//!
//! An [`FdTable`] collects them while a state is written; the next image turns each [`InheritedFd`] into a
//! descriptor of its own.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use crate::error::{Error, ErrorKind, Result};
use crate::json::{FromJson, ToJson};
use crate::sys::descriptors;

/// A descriptor that the next image finds open under this number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ToJson, FromJson)]
pub(crate) struct InheritedFd(RawFd);

/// The descriptors that a state refers to.
#[derive(Debug, Default)]
pub(crate) struct FdTable {
    numbers: Vec<RawFd>,
}

impl FdTable {
    /// Adds a descriptor; returns what to write into the state.
    pub(crate) fn add(&mut self, fd: impl AsFd) -> InheritedFd {
        let number = fd.as_fd().as_raw_fd();
        self.numbers.push(number);
        InheritedFd(number)
    }

    /// All numbers that were added: the exec keeps them open, and the next image closes them after its
    /// takeover.
    pub(crate) fn numbers(self) -> Vec<RawFd> {
        self.numbers
    }
}

impl InheritedFd {
    /// Duplicates the descriptor. The number itself stays open, because the previous image may have to resume
    /// with it. `what` names the descriptor in the error.
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
