//! The marker: how a process that execs the program tells it its role.
//!
//! One environment variable, bound to the process id so that nothing leaks to the program's own
//! children, and removed before user code runs.

use std::ffi::OsStr;
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use crate::error::{Error, ErrorKind, Result};
use crate::json::{self, FromJson, ToJson};
use crate::sys::{descriptors, process};

/// The variable's name.
pub(crate) const VARIABLE: &str = "UNBROKEN_ROLE";

/// What a freshly exec'd program is told.
#[derive(Debug, ToJson, FromJson)]
pub(crate) struct RoleMarker {
    /// The process it is meant for.
    pub(crate) pid: u32,
    #[json(flatten)]
    pub(crate) role: Role,
}

/// The roles of a program that is about to run `main`.
#[derive(Debug, ToJson, FromJson)]
#[json(tag = "role", rename_all = "kebab-case")]
pub(crate) enum Role {
    /// A worker of a supervisor.
    Worker {
        /// The number of the link's descriptor.
        link: RawFd,
        /// Gets its generation's settings and computes none.
        respawn: bool,
        #[json(flatten)]
        origin: LaunchOrigin,
    },
    /// A supervisor that takes over from the image before it. Descriptors by number.
    Supervisor {
        /// All that the supervisor before knew.
        state: RawFd,
        /// The image to go back to.
        back: RawFd,
        /// Whose image this is.
        generation: u32,
    },
    /// A supervisor that begins again, as the image after it did not take over.
    Restored {
        state: RawFd,
        /// Why.
        undone: String,
        /// The signal by which it ended, if any.
        by: String,
    },
    /// A rehearsal of the takeover, in a child of the supervisor.
    Preflight {
        state: RawFd,
        /// To write what was understood to.
        echo: RawFd,
    },
    /// A solo daemon, after its sockets were bound.
    Solo {
        /// The number of the descriptor with everything else, see `solo::Luggage`.
        luggage: RawFd,
    },
}

/// What relative paths and overrides refer to, carried on through all restarts.
#[derive(Debug, Clone, ToJson, FromJson)]
pub(crate) struct LaunchOrigin {
    /// The path of start.
    pub(crate) exe: PathBuf,
    /// The starting directory.
    pub(crate) start_dir: PathBuf,
    /// The `--set` options of the command that started the daemon.
    pub(crate) overrides: Vec<String>,
}

impl RoleMarker {
    /// Takes the marker meant for this process out of its environment.
    ///
    /// One for another process is removed and ignored: it leaked.
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

    /// The variable's value for this process, which is about to exec.
    pub(crate) fn text(role: Role) -> Result<String> {
        let marker = RoleMarker { pid: std::process::id(), role };
        json::to_string(&marker).map_err(|error| Error::io("cannot write the marker", error))
    }
}

/// The marker in a variable's value; `None` if it is none of this release.
pub(crate) fn parse(text: &OsStr) -> Option<RoleMarker> {
    json::from_slice(text.as_bytes()).ok()
}

/// Takes a descriptor that the marker names.
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
