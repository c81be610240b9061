//! The role marker: the environment variable by which a process that execs the program gives it a role.
//!
//! The marker names the process it is meant for, and is removed before user code runs: a child of the program
//! that inherits the environment all the same does not take itself for a worker.

use std::ffi::OsStr;
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use crate::error::{Error, ErrorKind, Result};
use crate::json::{self, FromJson, ToJson};
use crate::sys::{descriptors, process};

/// The name of the environment variable.
pub(crate) const VARIABLE: &str = "UNBROKEN_ROLE";

/// The content of the variable.
#[derive(Debug, ToJson, FromJson)]
pub(crate) struct RoleMarker {
    /// The process that the marker is meant for.
    pub(crate) pid: u32,
    #[json(flatten)]
    pub(crate) role: Role,
}

/// The roles of an exec'd program. Descriptors are given by number; they are open across the exec.
#[derive(Debug, ToJson, FromJson)]
#[json(tag = "role", rename_all = "kebab-case")]
pub(crate) enum Role {
    /// A worker.
    Worker {
        /// The link to the supervisor.
        link: RawFd,
        /// Whether it replaces a crashed worker: then it gets the settings of its generation and computes
        /// none.
        respawn: bool,
        #[json(flatten)]
        origin: LaunchOrigin,
    },
    /// A supervisor that takes over from the previous image in the same process.
    Supervisor {
        /// The state of the supervisor, as written by the previous image.
        state: RawFd,
        /// The previous image, to roll back to.
        back: RawFd,
        /// The generation whose image this is.
        generation: u32,
    },
    /// A supervisor that resumes in its old image because the new one failed to take over.
    Restored {
        /// The state of the supervisor, as written before the new image was tried.
        state: RawFd,
        /// The error of the new image; empty if a signal stopped it.
        failure: String,
        /// The number of the signal that stopped the new image, or zeros. The guard's signal handler writes
        /// it into the marker in place.
        by: String,
    },
    /// A rehearsal of the takeover, in a child of the supervisor.
    Preflight {
        /// The state of the supervisor.
        state: RawFd,
        /// The pipe for the answer: what this image understood of the state.
        echo: RawFd,
    },
    /// A solo daemon whose sockets are bound.
    Solo {
        /// A file with everything else, see `solo::SoloState`.
        state: RawFd,
    },
}

/// What relative paths refer to and what the first command line overrode; kept through all restarts.
#[derive(Debug, Clone, ToJson, FromJson)]
pub(crate) struct LaunchOrigin {
    /// The path that the program was started by: the image of the next generation is found there.
    pub(crate) exe: PathBuf,
    /// The directory that the daemon was started in.
    pub(crate) start_dir: PathBuf,
    /// The `--set` options of the command that started the daemon.
    pub(crate) overrides: Vec<String>,
}

impl RoleMarker {
    /// Takes the marker out of the environment; returns the role if it is meant for this process.
    ///
    /// A marker for another process has leaked, and is removed and ignored.
    pub(crate) fn take() -> Result<Option<Role>> {
        let Some(text) = std::env::var_os(VARIABLE) else { return Ok(None) };
        process::remove_variable(VARIABLE)?;
        let Some(marker) = parse(&text) else {
            return Err(Error::new(
                ErrorKind::Protocol,
                format!("cannot parse {VARIABLE}, which is private to this library; unset it"),
            ));
        };
        Ok((marker.pid == std::process::id()).then_some(marker.role))
    }

    /// The variable's value that gives this process the role after its next exec.
    pub(crate) fn text(role: Role) -> Result<String> {
        let marker = RoleMarker { pid: std::process::id(), role };
        json::to_string(&marker).map_err(|error| Error::io("cannot write the marker", error))
    }
}

/// Parses the variable's value; `None` if this release does not understand it.
pub(crate) fn parse(text: &OsStr) -> Option<RoleMarker> {
    json::from_slice(text.as_bytes()).ok()
}

/// Takes ownership of a descriptor that the marker names.
pub(crate) fn adopt(number: RawFd) -> Result<OwnedFd> {
    descriptors::adopt(number).map_err(|error| {
        Error::os(
            ErrorKind::Protocol,
            format!(
                "descriptor {number}, named by {VARIABLE}, is not open; the variable is private to \
                 this library: unset it"
            ),
            error,
        )
    })
}
