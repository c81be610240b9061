//! The takeover: the new image rebuilds the supervisor in the old one's process, or executes the old image
//! again.

use std::any::Any;
use std::os::fd::{AsFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use super::state::{MAX_BYTES, SupervisorState};
use crate::error::{Error, ErrorKind, Result};
use crate::failpoint::{self, Step};
use crate::json;
use crate::launch::role::{Role, RoleMarker, VARIABLE};
use crate::supervisor::driver::Driver;
use crate::supervisor::report;
use crate::sys::exec::{Program, exec_blocked};
use crate::sys::guard::{self, Guard};
use crate::sys::{alarm, descriptors, memory, process, seqpacket};
use unbroken_core::event::{Event, Generation};

/// How long the takeover may take from the exec on, in whole seconds (alarm(2)). Nothing is
/// accepted by the control socket until then. It takes milliseconds; a shorter time would fail on a
/// busy machine.
pub(super) const TAKEOVER_TIMEOUT: Duration = Duration::from_secs(3);

/// Takes over from the image that ran in this process before. If this fails, executes that image again.
///
/// Returns an error, and the supervisor ends, only if the old image cannot be executed either.
pub(crate) fn take_over(state: RawFd, back: RawFd, generation: Generation) -> Result<Driver> {
    let (args, vars) = (process::arguments(), process::variables());
    let marker = |failure: &str| {
        let by = guard::NO_SIGNAL.to_owned();
        RoleMarker::text(Role::Restored { state, failure: failure.to_owned(), by })
    };
    let cannot = |error| Error::io("the previous image was not inherited", error);
    let image = descriptors::duplicate(back).map_err(cannot)?;
    let failed = marker("")?;
    let program =
        Program { image: image.as_fd(), args: &args, vars: &vars, marker: (VARIABLE, &failed) };
    let taken = Guard::install(&program)
        .map_err(|error| Error::io("cannot guard the new image", error))
        .and_then(|guard| {
            let restored = catch_unwind(AssertUnwindSafe(|| restore(state, generation)));
            Ok((guard, restored.unwrap_or_else(|panic| Err(panicked(&*panic)))?))
        });
    let error = match taken {
        Ok((guard, (mut driver, paused, mut handed))) => {
            guard.lift();
            handed.extend([state, back]);
            descriptors::close(handed);
            let paused = paused.elapsed().as_secs_f64() * 1000.0;
            driver.io.say.line(&format!(
                "the supervisor runs the image of generation {generation}; its upgrade took \
                 {paused:.1} ms"
            ));
            driver.io.events.push_back(Event::UpgradeFinished { kept: None });
            return Ok(driver);
        }
        Err(error) => error,
    };
    let marker = marker(&error.to_string())?;
    match exec_blocked(&Program { marker: (VARIABLE, &marker), ..program }, Duration::ZERO) {
        Ok(never) => match never {},
        Err(barred) => {
            Err(Error::io(format!("{error}; and the previous image cannot be executed"), barred))
        }
    }
}

/// Resumes the supervisor in its old image after a failed takeover. `failure` is the error of the new image;
/// `by` is the number of the signal that ended it, or 0.
pub(crate) fn resume_old_image(state: RawFd, failure: &str, by: &str) -> Result<Driver> {
    alarm::disarm();
    let (mut driver, _, mut handed) = read(state)?;
    handed.push(state);
    descriptors::close(handed);
    let reason = match by.parse::<i32>().ok().filter(|number| *number != 0) {
        Some(number) => describe_exit(number),
        None => failure.to_owned(),
    };
    driver.io.events.push_back(Event::UpgradeFinished { kept: Some(report::short(reason)) });
    Ok(driver)
}

/// Describes a signal that ended the new image.
fn describe_exit(number: i32) -> String {
    match nix::sys::signal::Signal::try_from(number) {
        Ok(nix::sys::signal::Signal::SIGALRM) => {
            format!("the new image did not take over within {} s", TAKEOVER_TIMEOUT.as_secs())
        }
        Ok(signal) => format!("the new image received {signal} while taking over"),
        Err(_) => format!("the new image received signal {number} while taking over"),
    }
}

/// A rebuilt supervisor, the time at which its state was written, and the descriptors in that state.
type Restored = (Driver, Instant, Vec<RawFd>);

/// Rebuilds the supervisor in the new image and tests that it can go on.
fn restore(state: RawFd, generation: Generation) -> Result<Restored> {
    let cannot = |error| Error::io("the new image cannot take over", error);
    failpoint::try_hit(Step::SupervisorInTakeover, generation).map_err(cannot)?;
    let (mut driver, paused, handed) = read(state)?;
    let Some(known) = driver.generations.get(generation) else {
        return Err(Error::new(
            ErrorKind::Protocol,
            format!("the supervisor's state does not contain generation {generation}"),
        ));
    };
    driver.image = std::sync::Arc::clone(&known.image);
    self_test(&driver)?;
    failpoint::try_hit(Step::SupervisorAfterTakeover, generation).map_err(cannot)?;
    Ok((driver, paused, handed))
}

/// Rebuilds the supervisor from the state.
fn read(state: RawFd) -> Result<Restored> {
    let cannot = |error| Error::io("cannot read the supervisor's state", error);
    let state = descriptors::duplicate(state).map_err(cannot)?;
    let mut state = SupervisorState::read(&memory::contents(state, MAX_BYTES).map_err(cannot)?)?;
    let (paused, handed) = (state.paused, std::mem::take(&mut state.descriptors));
    Ok((state.driver()?, paused, handed))
}

/// Tests that the supervisor could go on, without consuming any input: it can poll its descriptors and report
/// its status.
pub(super) fn self_test(driver: &Driver) -> Result<()> {
    driver.poll(Some(Instant::now()))?;
    let status = json::to_vec(&report::status(driver))
        .map_err(|error| Error::io("cannot serialize the status", error))?;
    if status.len() > seqpacket::MAX_PACKET {
        return Err(Error::new(ErrorKind::Protocol, "the status is too large for a packet"));
    }
    Ok(())
}

/// Turns a panic of the takeover into an error.
fn panicked(panic: &(dyn Any + Send)) -> Error {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    let text = text.unwrap_or("its message is not text");
    Error::new(ErrorKind::Worker, format!("the new image panicked while taking over: {text}"))
}
