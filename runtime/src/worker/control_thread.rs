//! The thread that listens to the supervisor, beside user code and whatever blocks it.
//!
//! It sleeps in poll(2) on the link and on caught signals, turns orders into phases, and sees to it
//! that the process ends soon after its drain deadline.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::state::{SharedState, WorkerPhase};
use crate::config::Address;
use crate::error::{Error, Result};
use crate::failpoint::{self, Step};
use crate::link::{self, FromWorker, ToWorker};
use crate::reattach::worker::{ReattachSocket, SupervisorLink};
use crate::sys::readiness::readable;
use crate::sys::{clock, descriptors, process, signals};

/// Signals that reach a worker by way of its terminal or process group and are the supervisor's to act
/// on.
const DISCARDED: [Signal; 5] =
    [Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGUSR1, Signal::SIGUSR2];

/// How user code takes the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MainShutdown {
    /// A runtime cancels it at the deadline.
    Cancelled,
    /// A blocking `main` that knows of the daemon returns, or is cut at the deadline.
    Returns,
    /// A blocking `main` that knows nothing of the daemon ends by SIGTERM.
    Terminated,
}

/// Who acts on this process' signals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SignalOwner {
    /// This thread, for a worker with a supervisor.
    Worker,
    /// Somebody else, in a solo daemon.
    Elsewhere,
}

/// What the thread waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ControlSource {
    Link,
    Signals,
    Rendezvous,
}

struct ControlThread {
    state: Arc<SharedState>,
    ending: MainShutdown,
    caught: Option<signals::CaughtSignals>,
    tie: SupervisorLink,
    /// Until this worker drains.
    rendezvous: Option<ReattachSocket>,
    /// Given up for each message, and taken again: an order that comes with a descriptor arrives also when
    /// connections have used up all others.
    spare: Option<OwnedFd>,
}

/// Starts the thread.
pub(crate) fn start(
    state: Arc<SharedState>,
    ending: MainShutdown,
    duty: SignalOwner,
    rendezvous: Option<ReattachSocket>,
) -> Result<()> {
    let caught = match duty {
        SignalOwner::Worker => {
            let all: Vec<Signal> = DISCARDED.into_iter().chain([Signal::SIGTERM]).collect();
            let caught = signals::CaughtSignals::catch(&all)
                .map_err(|error| Error::io("cannot catch signals", error))?;
            Some(caught)
        }
        SignalOwner::Elsewhere => None,
    };
    let mut conductor = ControlThread {
        state,
        ending,
        caught,
        tie: SupervisorLink::Parent,
        rendezvous,
        spare: None,
    };
    conductor.reserve_descriptor();
    std::thread::Builder::new()
        .name("unbroken-link".into())
        .stack_size(256 * 1024)
        .spawn(move || conductor.run())
        .map_err(|error| {
            Error::io("cannot start the thread that reads from the supervisor", error)
        })?;
    Ok(())
}

impl ControlThread {
    fn run(mut self) {
        loop {
            if let Err(error) = self.step() {
                if self.state.is_disconnected() {
                    self.tie = SupervisorLink::Severed;
                    continue;
                }
                // Without the link this worker could neither be told to go nor to stop.
                tracing::error!(%error, "the link to the supervisor failed");
                self.supervisor_gone();
            }
        }
    }

    /// Waits for the next event and acts on it.
    fn step(&mut self) -> io::Result<()> {
        let mut sources = Vec::with_capacity(2);
        if let Some(link) = self.link() {
            sources.push((ControlSource::Link, link));
        }
        if let (SupervisorLink::Orphan { .. }, Some(rendezvous)) = (&self.tie, &self.rendezvous) {
            sources.push((ControlSource::Rendezvous, rendezvous.as_fd()));
        }
        if let Some(caught) = &self.caught {
            sources.push((ControlSource::Signals, caught.as_fd()));
        }
        let ready = readable(&sources, self.next_deadline())?;
        if ready.contains(&ControlSource::Link) {
            self.spare = None;
            let heard = self.receive_message();
            self.reserve_descriptor();
            heard?;
        }
        if ready.contains(&ControlSource::Rendezvous) {
            self.spare = None;
            self.accept_supervisor();
            self.reserve_descriptor();
        }
        if ready.contains(&ControlSource::Signals) {
            self.read_signals()?;
        }
        self.enforce_deadline();
        Ok(())
    }

    /// Where orders come from.
    fn link(&self) -> Option<BorrowedFd<'_>> {
        match &self.tie {
            SupervisorLink::Parent => Some(self.state.link()),
            SupervisorLink::Adopted { link, .. } => Some(link.as_fd()),
            SupervisorLink::Orphan { .. } | SupervisorLink::Severed => None,
        }
    }

    fn receive_message(&mut self) -> io::Result<()> {
        let Some(link) = self.link() else { return Ok(()) };
        let (message, fds) = match link::receive::<ToWorker>(link) {
            Ok(Some(received)) => received,
            Ok(None) => {
                self.supervisor_gone();
                return Ok(());
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                self.state.send(&FromWorker::Error { message: error.to_string() });
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let step = match &message {
            ToWorker::Go {} => Some(Step::WorkerGo),
            ToWorker::Quiesce { .. } => Some(Step::WorkerQuiesce),
            ToWorker::Resume {} => Some(Step::WorkerResume),
            ToWorker::Drain { .. } => Some(Step::WorkerDrain),
            _ => None,
        };
        if let Some(step) = step {
            failpoint::hit(step, self.state.generation);
        }
        match message {
            ToWorker::Go {} | ToWorker::Resume {} => self.state.set_phase(WorkerPhase::Open),
            ToWorker::Quiesce { keep } => self.state.quiesce(&keep),
            ToWorker::Drain { deadline, last, finish, finish_at } => {
                if last {
                    self.state.set_last();
                }
                self.drain(clock::from_monotonic_ns(deadline), &finish, &finish_at);
            }
            ToWorker::Rebound { name, addr } => {
                if let Some(socket) = fds.into_iter().next() {
                    self.state.rebound(&name, &addr, socket);
                }
            }
            ToWorker::Ping {} => self.state.handle_ping(),
            ToWorker::Successor {} | ToWorker::Predecessor {} => self.open_channel(&message, fds),
            ToWorker::Reopen {} => {
                if let Some(output) = fds.first() {
                    descriptors::become_output(output)?;
                }
            }
            ToWorker::Error { message } => {
                tracing::warn!(%message, "the supervisor rejected a message");
            }
            ToWorker::Welcome { .. } | ToWorker::Unknown => {
                let message = "message not known to this worker".to_owned();
                self.state.send(&FromWorker::Error { message });
            }
        }
        Ok(())
    }

    /// Without one, as when the last order kept its descriptor, the next message is another occasion.
    fn reserve_descriptor(&mut self) {
        self.spare = self.state.closed_gate().try_clone_to_owned().ok();
    }

    fn open_channel(&self, message: &ToWorker, fds: Vec<OwnedFd>) {
        let Some(socket) = fds.into_iter().next() else { return };
        let passage = &self.state.passage;
        match message {
            ToWorker::Successor {} if self.state.configuration.settings.handoff => {
                passage.open_successor(socket);
            }
            ToWorker::Predecessor {} => passage.open_predecessor(socket),
            _ => {}
        }
    }

    fn read_signals(&mut self) -> io::Result<()> {
        let Some(caught) = &mut self.caught else { return Ok(()) };
        let mut terminated = false;
        while let Some(signal) = caught.next()? {
            terminated |= signal == Signal::SIGTERM;
        }
        if terminated && !self.state.draining.is_cancelled() {
            self.state.send(&FromWorker::Leaving { main_ended: false });
            self.drain_for_timeout();
        }
        Ok(())
    }

    /// Somebody wants to be this worker's supervisor.
    fn accept_supervisor(&mut self) {
        let (SupervisorLink::Orphan { until }, Some(rendezvous)) = (&self.tie, &self.rendezvous)
        else {
            return;
        };
        match rendezvous.accept_supervisor(&self.state) {
            Ok(Some(link)) => {
                tracing::info!("re-attached to a new supervisor");
                self.tie = SupervisorLink::Adopted { link, until: *until };
            }
            Ok(None) => {}
            Err(error) => {
                tracing::error!(%error,
                    "cannot re-attach to a new supervisor; draining when `orphan_grace` is over");
                self.rendezvous = None;
            }
        }
    }

    /// The link is the supervisor's life: without it there is nobody to serve for, unless another one may
    /// come.
    fn supervisor_gone(&mut self) {
        if self.state.is_disconnected() {
            // It is this worker that goes.
            self.tie = SupervisorLink::Severed;
            return;
        }
        let next = match std::mem::replace(&mut self.tie, SupervisorLink::Severed) {
            SupervisorLink::Severed => return,
            SupervisorLink::Parent => self.reattach_deadline(),
            SupervisorLink::Orphan { until } | SupervisorLink::Adopted { until, .. } => Some(until),
        };
        if let (Some(until), false) = (next, self.state.draining.is_cancelled()) {
            tracing::warn!("the supervisor is gone; serving until a new one re-attaches");
            self.tie = SupervisorLink::Orphan { until };
            // In its confirm window an old worker too: whether the new one lasts is not known yet.
            self.state.set_phase(WorkerPhase::Open);
            return;
        }
        self.stop_waiting_for_supervisor();
    }

    /// How long a worker that serves, or could again, waits for the next supervisor.
    fn reattach_deadline(&self) -> Option<Instant> {
        let grace = self.state.configuration.settings.orphan_grace;
        let phase = *self.state.phase().borrow();
        let serves = matches!(phase, WorkerPhase::Open | WorkerPhase::Quiesced);
        (serves && self.rendezvous.is_some() && !grace.is_zero()).then(|| Instant::now() + grace)
    }

    fn stop_waiting_for_supervisor(&mut self) {
        if !self.state.draining.is_cancelled() {
            tracing::warn!("the supervisor is gone; draining");
            // Should it be there all the same, deaf in one direction: this is not the program's end.
            self.state.send(&FromWorker::Leaving { main_ended: false });
            self.state.set_last();
            self.drain_for_timeout();
        }
    }

    fn drain_for_timeout(&mut self) {
        self.drain(Instant::now() + self.state.configuration.settings.drain_timeout, &[], &[]);
    }

    fn drain(&mut self, deadline: Instant, finish: &[String], at: &[Address]) {
        // Who drains is no longer to be had: whoever has connected meanwhile is hung up on.
        self.rendezvous = None;
        self.state.drain(deadline, finish, at);
        if self.ending == MainShutdown::Terminated {
            self.state.disconnect();
            signals::die_by_signal(Signal::SIGTERM);
        }
    }

    /// At the deadline what is left is cancelled; a process that is still there after that is ended.
    fn enforce_deadline(&mut self) {
        if let SupervisorLink::Orphan { until } = self.tie
            && Instant::now() >= until
        {
            self.tie = SupervisorLink::Severed;
            self.stop_waiting_for_supervisor();
        }
        let (Some(deadline), now) = (self.state.deadline(), Instant::now()) else { return };
        if now < deadline {
            return;
        }
        if !self.state.forced.is_cancelled() {
            self.state.counters.record_forced();
            self.state.forced.cancel();
        }
        if self.ending == MainShutdown::Returns || now >= self.hard_deadline(deadline) {
            self.state.counters.mark_exiting();
            self.state.disconnect();
            process::exit_now(0);
        }
    }

    /// Half of the time that the supervisor gives before SIGKILL.
    fn hard_deadline(&self, deadline: Instant) -> Instant {
        let grace = self.state.configuration.settings.kill_timeout / 2;
        deadline + grace.min(Duration::from_secs(2))
    }

    fn next_deadline(&self) -> Option<Instant> {
        let Some(deadline) = self.state.deadline() else {
            let SupervisorLink::Orphan { until } = self.tie else { return None };
            return Some(until);
        };
        if self.state.forced.is_cancelled() {
            Some(self.hard_deadline(deadline))
        } else {
            Some(deadline)
        }
    }
}
