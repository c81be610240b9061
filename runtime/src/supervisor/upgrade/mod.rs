//! The supervisor's own change of image: it becomes the program that it has just put to work.
//!
//! 1. [`preflight`]: the new image, as a child, rebuilds everything from the real state with duplicates of
//!    the real descriptors, and writes it down again. If anything is missing in that, nothing happens.
//! 2. `execveat(2)` of the same open image, with all [`state`] in a sealed memfd and all signals blocked.
//!    The process id, the children, the locks and every connection stay as they are.
//! 3. [`takeover`]: until the new image stands on its own feet, whatever goes wrong in it is answered by
//!    `execveat(2)` of the old one with the same state.
//!
//! Nothing is read from any descriptor between the writing of the state and the end of the takeover.

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
use crate::error::{Error, Result};
use crate::failpoint::{self, Step};
use crate::image::Image;
use crate::launch::role::{Role, RoleMarker, VARIABLE};
use crate::sys::exec::{Program, exec_blocked};
use crate::sys::{descriptors, memory};
use unbroken_core::event::{Event, Generation};
use unbroken_core::machine::State;

impl Driver {
    /// Begins to make the image of `generation` this process' own, if it is another.
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

    /// Looks what has become of the rehearsal.
    pub(super) fn poll_preflight(&mut self) {
        let Some(preflight) = &mut self.preflight else { return };
        match preflight.outcome(Instant::now()) {
            None => {}
            Some(Ok(())) => {
                self.upgrade_ready = Some(preflight.generation);
                self.preflight = None;
            }
            Some(Err(reason)) => {
                self.preflight = None;
                self.finish_upgrade(Some(reason));
            }
        }
    }

    /// This process keeps its image, which is as it should be or has a reason.
    fn finish_upgrade(&mut self, kept: Option<String>) {
        self.events.push_back(Event::UpgradeFinished { kept });
    }

    /// Its generation was given up meanwhile, and its image let go.
    fn skip_upgrade(&mut self, generation: Generation) {
        self.finish_upgrade(Some(format!("generation {generation} is gone again")));
    }

    /// Becomes the image whose rehearsal went well. Returns where that failed, with everything as it was.
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

    fn become_image(&self, image: &Image, generation: Generation) -> Result<Infallible> {
        image.verify()?;
        let bytes = SupervisorState::of(self, Instant::now())?;
        let mut kept = SupervisorState::read(&bytes)?.descriptors;
        let state = memory::sealed_file("unbroken-state", &bytes)
            .map_err(|error| Error::io("cannot keep the supervisor's state", error))?;
        let (state, back) = (state.as_fd(), self.image.as_fd());
        let marker = RoleMarker::text(Role::Supervisor {
            state: state.as_raw_fd(),
            back: back.as_raw_fd(),
            generation,
        })?;
        let program = Program {
            image: image.as_fd(),
            args: &self.setup.args,
            vars: &self.setup.vars,
            marker: (VARIABLE, &marker),
        };
        kept.extend([state.as_raw_fd(), back.as_raw_fd()]);
        descriptors::set_kept(&kept, true);
        let failed = failpoint::try_hit(Step::SupervisorBeforeUpgrade, generation)
            .and_then(|()| exec_blocked(&program, takeover::LIMIT));
        descriptors::set_kept(&kept, false);
        failed.map_err(|error| Error::io("the supervisor cannot execute the new image", error))
    }
}
