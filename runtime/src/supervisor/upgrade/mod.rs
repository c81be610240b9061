//! The upgrade: the supervisor replaces its own image with that of the generation just confirmed.
//!
//! 1. [`preflight`]: a child with the new image reads the real state, rebuilds the supervisor with
//!    duplicates of the real descriptors and writes the state again. If that is not the same, the upgrade
//!    fails and nothing has changed.
//! 2. The supervisor executes the same open image by `execveat(2)`, with all [`state`] in a sealed memfd and
//!    all signals blocked. Its process id, children, locks and connections stay as they are.
//! 3. [`takeover`]: the new image rebuilds the supervisor. If anything goes wrong in this, including a crash
//!    or a hang, the old image is executed again with the same state.
//!
//! No descriptor is read between the writing of the state and the end of the takeover, so that either image
//! can go on from it.

pub(crate) mod preflight;
mod state;
pub(crate) mod takeover;

use std::convert::Infallible;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::time::Instant;

use self::preflight::Preflight;
pub(crate) use self::state::SupervisorState;
use super::driver::Driver;
use super::report;
use crate::error::{Error, Result};
use crate::failpoint::{self, Step};
use crate::image::Image;
use crate::launch::role::{Role, RoleMarker, VARIABLE};
use crate::sys::exec::{Program, exec_blocked};
use crate::sys::{descriptors, memory};
use unbroken_core::event::{Event, Generation};
use unbroken_core::machine::State;

impl Driver {
    /// Begins the upgrade to the image of `generation`, if this process runs another one.
    pub(super) fn begin_upgrade(&mut self, generation: Generation) {
        let Some(image) = self.generations.get(generation).map(|known| Arc::clone(&known.image))
        else {
            self.skip_upgrade(generation);
            return;
        };
        if image.is(&self.image) {
            self.finish_upgrade(None);
            return;
        }
        match Preflight::begin(self, generation, image) {
            Ok(preflight) => self.preflight = Some(preflight),
            Err(error) => self.finish_upgrade(Some(error.to_string())),
        }
    }

    /// Handles the end of the preflight, if there is one.
    pub(super) fn poll_preflight(&mut self) {
        let Some(preflight) = &mut self.preflight else { return };
        match preflight.outcome(Instant::now()) {
            None => {}
            Some(Ok(())) => {
                self.upgrade_ready = Some(preflight.generation);
                self.preflight = None;
            }
            Some(Err(error)) => {
                self.preflight = None;
                self.finish_upgrade(Some(report::short(error.to_string())));
            }
        }
    }

    /// Reports the end of an upgrade in which this process kept its image: for a reason, or because it is the
    /// right one.
    fn finish_upgrade(&mut self, kept: Option<String>) {
        self.io.events.push_back(Event::UpgradeFinished { kept });
    }

    /// Reports an upgrade whose generation was released in the meantime.
    fn skip_upgrade(&mut self, generation: Generation) {
        self.finish_upgrade(Some(format!("generation {generation} has already been rolled back")));
    }

    /// Executes the image that passed the preflight. Returns only if there is none or this fails, with
    /// everything as it was.
    pub(super) fn exec_upgrade_if_ready(&mut self) {
        let Some(generation) = self.upgrade_ready.take() else { return };
        if self.machine.state() == State::Stopping {
            return;
        }
        let Some(image) = self.generations.get(generation).map(|known| Arc::clone(&known.image))
        else {
            self.skip_upgrade(generation);
            return;
        };
        let Err(error) = self.become_image(&image, generation);
        self.finish_upgrade(Some(error.to_string()));
    }

    /// Executes an image with the state of this supervisor.
    fn become_image(&self, image: &Image, generation: Generation) -> Result<Infallible> {
        image.verify()?;
        let bytes = SupervisorState::of(self, Instant::now())?;
        let mut kept = SupervisorState::read(&bytes)?.descriptors;
        let state = memory::sealed_file("unbroken-state", &bytes)
            .map_err(|error| Error::io("cannot write the supervisor's state for exec", error))?;
        let (state, back) = (state.as_fd(), self.image.as_fd());
        let marker = RoleMarker::text(Role::Supervisor {
            state: state.as_raw_fd(),
            back: back.as_raw_fd(),
            generation,
        })?;
        let program = Program {
            image: image.as_fd(),
            args: &self.io.args,
            vars: &self.io.vars,
            marker: (VARIABLE, &marker),
        };
        kept.extend([state.as_raw_fd(), back.as_raw_fd()]);
        descriptors::set_kept(&kept, true);
        let failed = failpoint::try_hit(Step::SupervisorBeforeUpgrade, generation)
            .and_then(|()| exec_blocked(&program, takeover::TAKEOVER_TIMEOUT));
        descriptors::set_kept(&kept, false);
        failed.map_err(|error| Error::io("the supervisor cannot execute the new image", error))
    }
}
