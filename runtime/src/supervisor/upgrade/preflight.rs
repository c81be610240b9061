//! The preflight of an upgrade: a child with the new image shows that it could take over, while the
//! supervisor goes on.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::state::{MAX_BYTES, SupervisorState};
use crate::error::{Error, ErrorKind, Result};
use crate::failpoint::{self, Step};
use crate::image::Image;
use crate::launch::role::{Role, RoleMarker, VARIABLE};
use crate::supervisor::driver::Driver;
use crate::sys::exec::{self, Program};
use crate::sys::process::{self, Child, Forked};
use crate::sys::{descriptors, memory};
use unbroken_core::event::Generation;

/// How long the preflight may take, in seconds. It takes milliseconds; the rest is for a machine
/// under load. A longer one delays the answer to `restart` when the new image hangs, a shorter one
/// keeps the old supervisor for no reason.
const PREFLIGHT_TIMEOUT: Duration = Duration::from_secs(10);

/// A preflight in progress. Dropping it kills the child.
pub(crate) struct Preflight {
    pub(super) generation: Generation,
    child: Child,
    /// The state that the child was given.
    state: Vec<u8>,
    /// The memfd to which the child writes the state as it has understood it, or an error.
    echo: OwnedFd,
    deadline: Instant,
}

impl Preflight {
    /// Forks a child that executes `image` with the current state.
    pub(super) fn begin(
        driver: &Driver,
        generation: Generation,
        image: Arc<Image>,
    ) -> Result<Preflight> {
        let cannot =
            |error| Error::io("cannot share the supervisor's state with the preflight", error);
        let now = Instant::now();
        let bytes = SupervisorState::of(driver, now)?;
        let mut kept = SupervisorState::read(&bytes)?.descriptors;
        let memfd = memory::sealed_file("unbroken-state", &bytes).map_err(cannot)?;
        let echo = memory::empty_file("unbroken-echo").map_err(cannot)?;
        kept.extend([memfd.as_raw_fd(), echo.as_raw_fd()]);
        failpoint::try_hit(Step::SupervisorBeforeRehearsal, generation).map_err(cannot)?;
        match process::fork()? {
            Forked::Child => {
                let error = rehearse_as(driver, &image, &memfd, &echo, &kept);
                write(&echo, error.to_string().as_bytes());
                process::exit_now(127);
            }
            Forked::Parent(child) => Ok(Preflight {
                generation,
                child,
                state: bytes,
                echo,
                deadline: now + PREFLIGHT_TIMEOUT,
            }),
        }
    }

    /// Returns whether the image passed; `None` while the preflight is in progress.
    pub(super) fn outcome(&mut self, now: Instant) -> Option<Result<()>> {
        let exit = match self.child.try_wait() {
            Ok(Some(exit)) => exit,
            Ok(None) if now < self.deadline => return None,
            Ok(None) => {
                let limit = PREFLIGHT_TIMEOUT.as_secs();
                let text = format!("the preflight took longer than {limit} s");
                return Some(Err(Error::new(ErrorKind::Timeout, text)));
            }
            Err(error) => return Some(Err(Error::io("cannot wait for the preflight", error))),
        };
        let failed = |text| Err(Error::new(ErrorKind::Image, text));
        let echo = memory::contents(&self.echo, MAX_BYTES).unwrap_or_default();
        if !exit.success() {
            let output = String::from_utf8_lossy(&echo);
            let output = output.trim().to_owned();
            return Some(failed(match output.is_empty() || output.starts_with('{') {
                true => format!("the preflight {exit}"),
                false => format!("the preflight failed: {output}"),
            }));
        }
        // Compared after a round trip through this release: a later one may write more fields, and this one
        // must be able to read them, in case the old image has to resume.
        let again = SupervisorState::read(&echo).and_then(|state| state.written());
        Some(match again {
            Ok(again) if again == self.state => Ok(()),
            Ok(_) => {
                failed("the new image did not understand all of the supervisor's state".into())
            }
            Err(error) => failed(format!("the preflight wrote an invalid state: {error}")),
        })
    }

    /// Returns when the preflight has failed for lack of an outcome.
    pub(crate) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Returns whether its child is this process.
    pub(crate) fn is(&self, pid: i32) -> bool {
        self.child.pid() == pid
    }
}

impl AsFd for Preflight {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.child.as_fd()
    }
}

impl Drop for Preflight {
    fn drop(&mut self) {
        // In most cases the child has ended already. One that is killed here is reaped as an unknown child.
        let _ = self.child.signal(rustix::process::Signal::KILL);
    }
}

/// Becomes the image, in the forked child. Returns only if this fails.
fn rehearse_as(
    driver: &Driver,
    image: &Image,
    state: &OwnedFd,
    echo: &OwnedFd,
    kept: &[i32],
) -> Error {
    let attempt = || -> Result<std::convert::Infallible> {
        image.verify()?;
        let marker =
            RoleMarker::text(Role::Preflight { state: state.as_raw_fd(), echo: echo.as_raw_fd() })?;
        descriptors::set_kept(kept, true);
        process::set_pdeathsig(PREFLIGHT_TIMEOUT)
            .map_err(|error| Error::io("cannot limit the time of the preflight", error))?;
        let program = Program {
            image: image.as_fd(),
            args: &driver.io.args,
            vars: &driver.io.vars,
            marker: (VARIABLE, &marker),
        };
        exec::exec(&program)
            .map_err(|error| Error::os(ErrorKind::Image, "cannot execute the new image", error))
    };
    match attempt() {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

/// Runs in the child's new image: does everything that a takeover would do, and writes the state or an
/// error to `echo`.
pub(crate) fn rehearse(state: i32, echo: i32) -> ExitCode {
    let rehearsed = || -> Result<Vec<u8>> {
        let cannot = |error| Error::io("cannot read the supervisor's state", error);
        failpoint::try_hit(Step::SupervisorInRehearsal, u32::MAX).map_err(cannot)?;
        let state = descriptors::duplicate(state).map_err(cannot)?;
        let state = SupervisorState::read(&memory::contents(state, MAX_BYTES).map_err(cannot)?)?;
        let written = state.written()?;
        super::takeover::self_test(&state.driver()?)?;
        Ok(written)
    };
    let Ok(echo) = descriptors::duplicate(echo) else { return ExitCode::FAILURE };
    match rehearsed() {
        Ok(written) if write(&echo, &written) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            write(&echo, error.to_string().as_bytes());
            ExitCode::FAILURE
        }
    }
}

/// Writes all bytes; returns whether that succeeded.
fn write(to: &OwnedFd, bytes: &[u8]) -> bool {
    let mut left = bytes;
    while !left.is_empty() {
        match rustix::io::retry_on_intr(|| rustix::io::write(to, left)) {
            Ok(n @ 1..) => left = &left[n..],
            _ => return false,
        }
    }
    true
}
