//! The control thread of a worker, which obeys the supervisor even while user code blocks every other thread.
//!
//! It sleeps in poll(2) on the link and on caught signals. It turns the supervisor's messages into phases of
//! [`SharedState`] and ends the process soon after the drain deadline. If the supervisor is gone, the worker
//! drains, or with `orphan_grace` serves as an orphan until the next supervisor re-attaches or the time is
//! over.

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

/// Signals that reach a worker because of its terminal or process group and that only the supervisor acts on.
/// They are caught and discarded, not ignored, because children inherit an ignored signal.
const DISCARDED: [Signal; 5] =
    [Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGUSR1, Signal::SIGUSR2];

/// The way in which `main` ends in a drain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MainShutdown {
    /// The runtime drops an async `main`, at the drain deadline at the latest.
    Cancelled,
    /// A blocking `main` with a `Daemon` argument returns, or the process exits at the drain deadline.
    Returns,
    /// A blocking `main` without that argument does not learn of the drain: the process dies by SIGTERM when
    /// the drain begins.
    Terminated,
}

/// The thread that acts on the signals of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SignalOwner {
    /// This thread, in a worker with a supervisor.
    Worker,
    /// The solo control thread, in a solo daemon.
    Elsewhere,
}

/// A descriptor that the thread waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ControlSource {
    Link,
    Signals,
    Reattach,
}

struct ControlThread {
    state: Arc<SharedState>,
    ending: MainShutdown,
    caught: Option<signals::CaughtSignals>,
    tie: SupervisorLink,
    /// The socket at which the next supervisor re-attaches; `None` if there is no such socket, and once this
    /// worker drains.
    reattach_socket: Option<ReattachSocket>,
    /// A reserved descriptor, closed before each receive and reserved again after it: a message that carries
    /// a descriptor can then be received even if connections have used up all others.
    spare: Option<OwnedFd>,
}

/// Catches the signals and starts the control thread.
pub(crate) fn start(
    state: Arc<SharedState>,
    ending: MainShutdown,
    duty: SignalOwner,
    reattach_socket: Option<ReattachSocket>,
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
        reattach_socket,
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
                // A worker whose link fails can no longer be controlled, as if its supervisor were gone.
                tracing::error!(%error, "the link to the supervisor failed");
                self.supervisor_gone();
            }
        }
    }

    /// Waits for the next event or deadline and acts on it.
    fn step(&mut self) -> io::Result<()> {
        let mut sources = Vec::with_capacity(2);
        if let Some(link) = self.link() {
            sources.push((ControlSource::Link, link));
        }
        if let (SupervisorLink::Orphan { .. }, Some(reattach_socket)) =
            (&self.tie, &self.reattach_socket)
        {
            sources.push((ControlSource::Reattach, reattach_socket.as_fd()));
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
        if ready.contains(&ControlSource::Reattach) {
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

    /// Returns the link to the current supervisor, if there is one.
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

    /// Reserves a descriptor. If none is left, because the last message kept the one it brought, the next
    /// message tries again.
    fn reserve_descriptor(&mut self) {
        self.spare = self.state.closed_gate().try_clone_to_owned().ok();
    }

    fn open_channel(&self, message: &ToWorker, fds: Vec<OwnedFd>) {
        let Some(socket) = fds.into_iter().next() else { return };
        let handoffs = &self.state.handoffs;
        match message {
            ToWorker::Successor {} if self.state.configuration.settings.handoff => {
                handoffs.open_successor(socket);
            }
            ToWorker::Predecessor {} => handoffs.open_predecessor(socket),
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

    /// Lets the next supervisor re-attach to this orphan.
    fn accept_supervisor(&mut self) {
        let (SupervisorLink::Orphan { until }, Some(reattach_socket)) =
            (&self.tie, &self.reattach_socket)
        else {
            return;
        };
        match reattach_socket.accept_supervisor(&self.state) {
            Ok(Some(link)) => {
                tracing::info!("re-attached to a new supervisor");
                self.tie = SupervisorLink::Adopted { link, until: *until };
            }
            Ok(None) => {}
            Err(error) => {
                tracing::error!(%error,
                    "cannot re-attach to a new supervisor; draining when `orphan_grace` is over");
                self.reattach_socket = None;
            }
        }
    }

    /// Reacts to the end of the link, which means that the supervisor is gone: serves on as an orphan if the
    /// next supervisor may re-attach, else drains.
    fn supervisor_gone(&mut self) {
        if self.state.is_disconnected() {
            // This worker has closed the link itself, because it exits.
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
            // A paused worker accepts again as well: it is in its successor's confirm window, and that worker
            // may still fail.
            self.state.set_phase(WorkerPhase::Open);
            return;
        }
        self.stop_waiting_for_supervisor();
    }

    /// Returns until when this worker waits for the next supervisor. `None` if it does not wait: without
    /// `orphan_grace`, and if it neither accepts nor is paused.
    fn reattach_deadline(&self) -> Option<Instant> {
        let grace = self.state.configuration.settings.orphan_grace;
        let phase = *self.state.phase().borrow();
        let serves = matches!(phase, WorkerPhase::Open | WorkerPhase::Quiesced);
        (serves && self.reattach_socket.is_some() && !grace.is_zero())
            .then(|| Instant::now() + grace)
    }

    /// Begins the drain of a worker without a supervisor.
    fn stop_waiting_for_supervisor(&mut self) {
        if !self.state.draining.is_cancelled() {
            tracing::warn!("the supervisor is gone; draining");
            // If the supervisor is alive and only this end of the link failed, the message keeps it from
            // taking the exit for the end of `main`.
            self.state.send(&FromWorker::Leaving { main_ended: false });
            self.state.set_last();
            self.drain_for_timeout();
        }
    }

    fn drain_for_timeout(&mut self) {
        self.drain(Instant::now() + self.state.configuration.settings.drain_timeout, &[], &[]);
    }

    fn drain(&mut self, deadline: Instant, finish: &[String], at: &[Address]) {
        // A draining worker cannot be re-attached: closing the socket rejects supervisors that have connected
        // to it.
        self.reattach_socket = None;
        self.state.drain(deadline, finish, at);
        if self.ending == MainShutdown::Terminated {
            self.state.disconnect();
            signals::die_by_signal(Signal::SIGTERM);
        }
    }

    /// Acts on deadlines that have passed: an orphan drains when its time is over; at the drain deadline,
    /// connections and tasks are forced; at the hard deadline, the process exits.
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

    /// Returns when the process exits by itself after the drain deadline: half of `kill_timeout` later, at
    /// most two seconds. The supervisor sends SIGKILL only after the whole of it, so the ledger is complete
    /// by then.
    fn hard_deadline(&self, deadline: Instant) -> Instant {
        let grace = self.state.configuration.settings.kill_timeout / 2;
        deadline + grace.min(Duration::from_secs(2))
    }

    /// Returns the next time at which [`enforce_deadline`](Self::enforce_deadline) has something to do.
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
