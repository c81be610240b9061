//! The rehearsal: whether the new image could take over, tried out by a child while the supervisor goes on.

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

/// A rehearsal that is under way.
pub(crate) struct Preflight {
    pub(super) generation: Generation,
    child: Child,
    /// What it was given.
    state: Vec<u8>,
    /// Where it writes the same, as it has understood it.
    echo: OwnedFd,
    deadline: Instant,
}

impl Preflight {
    /// Forks a child that execs `image` with the state of now.
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

    /// `None` while it is under way.
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
            let said = String::from_utf8_lossy(&echo);
            let said = said.trim().to_owned();
            return Some(failed(match said.is_empty() || said.starts_with('{') {
                true => format!("the preflight {exit}"),
                false => format!("the preflight failed: {said}"),
            }));
        }
        // In our words: a later release may know more, and what it writes we must be able to read, should
        // it come to that.
        let again = SupervisorState::read(&echo).and_then(|state| state.written());
        Some(match again {
            Ok(again) if again == self.state => Ok(()),
            Ok(_) => {
                failed("the new image did not understand all of the supervisor's state".into())
            }
            Err(error) => failed(format!("the preflight wrote an invalid state: {error}")),
        })
    }

    pub(crate) fn deadline(&self) -> Instant {
        self.deadline
    }

    pub(crate) fn is(&self, pid: i32) -> bool {
        self.child.pid() == pid
    }
}

impl AsFd for Preflight {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.child.as_fd()
    }
}

/// No rehearsal outlives its purpose.
impl Drop for Preflight {
    fn drop(&mut self) {
        // It is gone already in most cases. A child that was killed is reaped as a stranger.
        let _ = self.child.signal(rustix::process::Signal::KILL);
    }
}

/// In the forked child: becomes the image, or returns why not.
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
            args: &driver.setup.args,
            vars: &driver.setup.vars,
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

/// In the child's new image: does all that a takeover would do, and writes down what came of it.
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

/// Whether all of it was written.
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
