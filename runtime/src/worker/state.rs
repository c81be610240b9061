//! The state that all parts of a worker share: its phase, listeners, connections and tasks.
//!
//! The control thread changes the phase when the supervisor sends *go*, *quiesce*, *resume* or *drain*.
//! Accept loops read it through a [`watch`] channel in async code and through a [`Gate`] in blocking threads.
//! The worker is ready when `main` has polled every listener, or calls `Daemon::ready`.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::Instant;

use rustix::event::{EventfdFlags, eventfd};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::connection::{AcceptGuard, Connection};
use super::handoff::HandoffRegistry;
use super::net::{Addr, drain_listener};
use crate::config::{Address, Configuration, Further, ListenSettings, Ready};
use crate::counters::{Counters, StartupStage};
use crate::failpoint::{self, Step};
use crate::link::{self, FromWorker, ListenerHandle, OrphanedListener};
use crate::listener::ListenerSource;
use unbroken_core::sorted::SortedMap;

/// The phase of a worker, which decides whether it accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WorkerPhase {
    /// The supervisor has not sent *go* yet.
    Waiting,
    /// The worker accepts.
    Open,
    /// The worker is paused: it does not accept, and may have to resume.
    Quiesced,
    /// The worker never accepts again. Final.
    Draining,
}

/// The shared state of a worker.
pub(crate) struct SharedState {
    pub(crate) configuration: Configuration,
    pub(crate) generation: u32,
    pub(crate) counters: Counters,
    /// The declared listeners by name. They lose their sockets when the drain begins.
    listeners: Mutex<SortedMap<String, WorkerListener>>,
    listener_count: usize,
    /// The link to the supervisor that spawned this worker.
    link: OwnedFd,
    phase: watch::Sender<WorkerPhase>,
    /// The phase for blocking threads.
    gate: Gate,
    /// Tasks of `Daemon::spawn` and open connections: the drain waits for them.
    pub(crate) tasks: TaskTracker,
    /// This crate's own tasks on the program's runtime: they are not counted as dropped tasks of the program.
    pub(crate) own: TaskTracker,
    /// Cancelled when the drain begins.
    pub(crate) draining: CancellationToken,
    /// Cancelled at the drain deadline.
    pub(crate) forced: CancellationToken,
    /// The drain deadline; `None` before the drain begins.
    deadline: Mutex<Option<Instant>>,
    ready: AtomicBool,
    /// The supervisor was notified of listeners that the program does not accept on.
    unclaimed: AtomicBool,
    /// No generation serves after this worker.
    last: AtomicBool,
    /// `main` ended without being asked to, and the open connections are lost with the process.
    abandoned: AtomicBool,
    /// This worker has closed the link and is about to exit.
    parted: AtomicBool,
    /// The same as the `draining` token, without its lock: it is read at every request.
    is_draining: AtomicBool,
    /// Wakes the task that answers the watchdog; empty without such a task.
    pings: OnceLock<Arc<Notify>>,
    /// The handoff channels and handlers.
    pub(crate) handoffs: HandoffRegistry,
    /// The control thread of a solo daemon, which plays the supervisor's part.
    pub(crate) solo_control: OnceLock<Mutex<Option<JoinHandle<()>>>>,
}

/// The use that a worker may make of one of its listeners.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ListenerMode {
    /// Wait: other workers accept, or none does yet.
    Wait,
    Accept,
    /// Accept what is in the queue, and what still arrives there until `until`: no other worker will.
    Finish {
        until: Instant,
    },
    /// Never accept again.
    Over,
}

/// A declared listener, as received from the supervisor.
struct WorkerListener {
    /// Several if the service manager passed several under this name. Empty once the worker drains.
    sockets: Vec<WorkerSocket>,
    /// Sockets that were replaced, because their files were removed, while the program had no handle to the
    /// listener. The first handle accepts what is left in their queues.
    former: Vec<WorkerSocket>,
    /// The program's handles to the listener, by the lists in which they receive new sockets.
    handles: Vec<Weak<Incoming>>,
    /// The program has claimed the listener.
    taken: bool,
    /// A server of the program accepts on the sockets by itself.
    raw: bool,
    /// The address of the first socket, also after the drain has begun.
    addr: Addr,
    /// The listener's place among the declared ones, in the order of their names.
    index: usize,
    /// The worker goes on accepting on it while paused: no other worker does.
    kept: bool,
    /// While the worker drains, when [`ListenerMode::Finish`] ends; `None` if others accept on the listener.
    until: Option<Instant>,
    /// The addresses of its sockets that this worker has to finish. Other workers accept on the rest.
    ends: Vec<Addr>,
}

/// A listening socket, as received from the supervisor.
struct WorkerSocket {
    fd: OwnedFd,
    addr: Address,
    source: ListenerSource,
}

/// New sockets for a handle, in order, each with the place of the one it replaces.
pub(crate) type Incoming = Mutex<Vec<(usize, OwnedFd)>>;

/// The parts of a new handle to a declared listener.
pub(crate) struct ListenerClaim {
    /// Copies of the sockets. Empty once the worker drains.
    pub(crate) sockets: Vec<(OwnedFd, Addr)>,
    /// Replaced sockets with connections left in their queues.
    pub(crate) former: Vec<(OwnedFd, Addr)>,
    /// The address of the first socket.
    pub(crate) addr: Addr,
    pub(crate) index: usize,
    /// The list in which the handle receives new sockets from now on.
    pub(crate) incoming: Arc<Incoming>,
}

/// The phase for blocking threads: a condition variable to wait on, and eventfds for poll(2).
struct Gate {
    phase: Mutex<WorkerPhase>,
    changed: Condvar,
    /// Readable whenever the phase is not [`WorkerPhase::Open`].
    closed: OwnedFd,
    /// Readable whenever the phase is not [`WorkerPhase::Quiesced`].
    not_quiesced: OwnedFd,
}

impl WorkerListener {
    /// Registers another handle; returns the list in which it receives new sockets.
    fn attach(&mut self) -> Arc<Incoming> {
        let incoming = Arc::default();
        self.handles.retain(|handle| handle.strong_count() > 0);
        self.handles.push(Arc::downgrade(&incoming));
        incoming
    }
}

impl SharedState {
    pub(crate) fn new(
        configuration: Configuration,
        generation: u32,
        counters: Counters,
        handed: Vec<(ListenerHandle, OwnedFd)>,
        link: OwnedFd,
    ) -> io::Result<SharedState> {
        let mut listeners = SortedMap::new();
        for (ListenerHandle { name, addr, source }, fd) in handed {
            let index = listeners.len();
            let first = Addr::from(&addr);
            let new = || WorkerListener {
                sockets: Vec::new(),
                former: Vec::new(),
                handles: Vec::new(),
                taken: false,
                raw: false,
                addr: first,
                index,
                kept: false,
                until: None,
                ends: Vec::new(),
            };
            let handed = listeners.entry(name).or_insert_with(new);
            handed.sockets.push(WorkerSocket { fd, addr, source });
        }
        let listener_count = listeners.len();
        Ok(SharedState {
            configuration,
            generation,
            counters,
            listeners: Mutex::new(listeners),
            listener_count,
            link,
            phase: watch::Sender::new(WorkerPhase::Waiting),
            gate: Gate::new()?,
            tasks: TaskTracker::new(),
            own: TaskTracker::new(),
            draining: CancellationToken::new(),
            forced: CancellationToken::new(),
            deadline: Mutex::new(None),
            ready: AtomicBool::new(false),
            unclaimed: AtomicBool::new(false),
            last: AtomicBool::new(false),
            abandoned: AtomicBool::new(false),
            parted: AtomicBool::new(false),
            is_draining: AtomicBool::new(false),
            pings: OnceLock::new(),
            handoffs: HandoffRegistry::new(),
            solo_control: OnceLock::new(),
        })
    }

    pub(crate) fn link(&self) -> BorrowedFd<'_> {
        self.link.as_fd()
    }

    /// Sends a message to the supervisor, waiting for room if the link is full. Only logs a failure: the
    /// control thread notices if the supervisor is gone.
    pub(crate) fn send(&self, message: &FromWorker) {
        if let Err(error) = link::send(&self.link, message, &[]) {
            tracing::debug!(%error, "cannot send a message to the supervisor");
        }
    }

    /// Same as [`SharedState::send`], for messages that may be lost: it never waits for a supervisor that
    /// does not read.
    pub(crate) fn try_send(&self, message: &FromWorker) {
        if let Err(error) = link::try_send(&self.link, message) {
            tracing::debug!(%error, "cannot send a message to the supervisor");
        }
    }

    // ---- readiness ------------------------------------------------------------------------------

    /// Notes that `main` is about to run. Without listeners, the worker is then ready.
    pub(crate) fn mark_running(&self) {
        self.counters.set_stage(StartupStage::Running);
        if self.listener_count == 0 && self.configuration.settings.ready == Ready::Auto {
            self.ready();
        }
    }

    /// Notes that the listener at `index` was polled for accept. With the last one, the worker is ready.
    pub(crate) fn mark_polled(&self, index: usize) {
        if self.ready.load(Ordering::Relaxed) {
            return;
        }
        let all = self.counters.polled(index, self.listener_count);
        if self.configuration.settings.ready != Ready::Auto {
            return;
        }
        match all {
            true => self.ready(),
            false => self.report_unclaimed(),
        }
    }

    /// Notifies the supervisor, once, if the only listeners not polled yet are ones that the operator
    /// declared and the program has not claimed. The program may not know them, in which case it is never
    /// ready.
    fn report_unclaimed(&self) {
        let mut slip = true;
        let mut reasons = Vec::new();
        for (name, handed) in lock(&self.listeners).iter() {
            if self.counters.was_polled(handed.index) {
                continue;
            }
            let Some(foreign) = self.configuration.foreign(name).filter(|_| !handed.taken) else {
                return;
            };
            slip &= foreign.meant.is_some();
            reasons.push(foreign.unclaimed(name));
        }
        if !reasons.is_empty() && !self.unclaimed.swap(true, Ordering::Relaxed) {
            self.send(&FromWorker::Unclaimed { reason: reasons.join("; "), slip });
        }
    }

    /// Reports the worker as ready. Only the first call has an effect.
    pub(crate) fn ready(&self) {
        if !self.ready.swap(true, Ordering::SeqCst) {
            if failpoint::try_hit(Step::WorkerBeforeReady, self.generation).is_err() {
                // The fail point stands for a lost message.
                return;
            }
            self.send(&FromWorker::Ready {});
        }
    }

    /// Answers the watchdog's ping: from a task of the runtime if [`answer_pings`](Self::answer_pings) was
    /// called, else from the calling thread.
    pub(crate) fn handle_ping(&self) {
        match self.pings.get() {
            Some(pings) => pings.notify_one(),
            None => self.send(&FromWorker::Pong {}),
        }
    }

    /// Answers the watchdog's pings from a task of the current runtime: if the runtime is blocked, no answer
    /// is sent, which is what the watchdog has to find out.
    pub(crate) fn answer_pings(self: &Arc<Self>) {
        let state = Arc::clone(self);
        let pings = Arc::clone(self.pings.get_or_init(Arc::default));
        self.own.spawn(async move {
            loop {
                pings.notified().await;
                state.send(&FromWorker::Pong {});
            }
        });
    }

    // ---- phase ----------------------------------------------------------------------------------

    pub(crate) fn phase(&self) -> watch::Receiver<WorkerPhase> {
        self.phase.subscribe()
    }

    /// Waits until the worker is in `wanted`; forever if it never will be.
    pub(crate) async fn phase_is(&self, wanted: WorkerPhase) {
        // Fails only without a sender, which is a part of this state.
        let _ = self.phase().wait_for(|phase| *phase == wanted).await;
    }

    /// Changes the phase, except that a draining worker keeps draining.
    pub(crate) fn set_phase(&self, phase: WorkerPhase) {
        self.phase.send_if_modified(|current| {
            let moves = *current != WorkerPhase::Draining && *current != phase;
            if moves {
                *current = phase;
            }
            moves
        });
        self.gate.set(*self.phase.borrow());
    }

    /// Pauses the worker: it stops accepting, except on the listeners named in `keep`, and may have to
    /// resume.
    pub(crate) fn quiesce(&self, keep: &[String]) {
        for (name, handed) in lock(&self.listeners).iter_mut() {
            handed.kept = keep.contains(name);
        }
        self.set_phase(WorkerPhase::Quiesced);
    }

    /// Returns what the worker may do in `phase` with the listener at `index`.
    pub(crate) fn listener_mode(&self, phase: WorkerPhase, index: usize) -> ListenerMode {
        if phase == WorkerPhase::Open {
            return ListenerMode::Accept;
        }
        let listeners = lock(&self.listeners);
        let handed = listeners.values().find(|handed| handed.index == index);
        match (phase, handed) {
            (WorkerPhase::Quiesced, Some(WorkerListener { kept: true, .. })) => {
                ListenerMode::Accept
            }
            (WorkerPhase::Draining, Some(&WorkerListener { until: Some(until), .. })) => {
                ListenerMode::Finish { until }
            }
            (WorkerPhase::Draining, _) => ListenerMode::Over,
            _ => ListenerMode::Wait,
        }
    }

    /// Returns whether this worker has to finish the socket at `addr` of the listener at `index`.
    pub(crate) fn ends(&self, index: usize, addr: &Addr) -> bool {
        let listeners = lock(&self.listeners);
        let handed = listeners.values().find(|handed| handed.index == index);
        handed.is_some_and(|handed| handed.ends.contains(addr))
    }

    /// Returns whether the drain has begun.
    pub(crate) fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::SeqCst)
    }

    /// Returns whether no generation serves after this worker: the daemon stops.
    pub(crate) fn is_last(&self) -> bool {
        self.last.load(Ordering::Relaxed)
    }

    /// Notes that no generation serves after this worker.
    pub(crate) fn set_last(&self) {
        self.last.store(true, Ordering::Relaxed);
    }

    /// Begins the drain: the worker stops accepting for good, except for what is left in the queues of the
    /// listeners named in `finish`. If `at` is not empty, only their sockets at these addresses are finished.
    ///
    /// A second call may only bring the deadline forward.
    pub(crate) fn drain(&self, deadline: Instant, finish: &[String], at: &[Address]) {
        let mut current = lock(&self.deadline);
        *current = Some(current.map_or(deadline, |earlier| earlier.min(deadline)));
        drop(current);
        // Dropping these copies does not close the listeners: the supervisor has its own. Connections in the
        // queue belong to the next generation. On listeners without one, new connections are refused now:
        // they would wait in the queue and then be reset.
        for (name, handed) in lock(&self.listeners).iter_mut() {
            let sockets = std::mem::take(&mut handed.sockets);
            if finish.contains(name) {
                let ends = |it: &&WorkerSocket| at.is_empty() || at.contains(&it.addr);
                let ends: Vec<&WorkerSocket> = sockets.iter().filter(ends).collect();
                // A second *drain* finds no sockets, and keeps `until`.
                handed.ends.extend(ends.iter().map(|it| Addr::from(&it.addr)));
                let outs =
                    ends.iter().map(|it| drain_listener::refuse_new(&it.fd, &Addr::from(&it.addr)));
                handed.until = outs.max().or(handed.until);
            }
            handed.until = handed.until.map(|until| until.min(deadline));
        }
        // Set before the accept loops end: a `main` that returns because of that must find itself draining,
        // or `main_ended` takes its end for an unasked one.
        self.is_draining.store(true, Ordering::SeqCst);
        self.draining.cancel();
        self.set_phase(WorkerPhase::Draining);
    }

    /// Notes that `main` has ended. Returns whether to wait for open connections and tasks, as in a drain.
    ///
    /// True in a drain, and while paused, because another generation then serves already. Otherwise the next
    /// worker starts only when this one has exited, so it exits at once and its connections are lost, as in a
    /// crash.
    pub(crate) fn main_ended(&self) -> bool {
        self.counters.main_ended();
        if self.is_draining() {
            return true;
        }
        if *self.phase.borrow() != WorkerPhase::Quiesced {
            self.abandoned.store(true, Ordering::SeqCst);
            return false;
        }
        // Sent before the drain begins: the supervisor must not count on resuming this worker.
        self.send(&FromWorker::Leaving { main_ended: true });
        self.drain(Instant::now() + self.configuration.settings.drain_timeout, &[], &[]);
        true
    }

    /// Returns whether open connections are lost with the process.
    pub(super) fn is_abandoned(&self) -> bool {
        self.abandoned.load(Ordering::SeqCst)
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        *lock(&self.deadline)
    }

    /// Blocks until the mode of the listener at `index` is not [`ListenerMode::Wait`].
    pub(crate) fn wait_listener_mode(&self, index: usize) -> ListenerMode {
        let phase = self.gate.wait(|phase| self.listener_mode(phase, index) != ListenerMode::Wait);
        self.listener_mode(phase, index)
    }

    /// Blocks until `until` returns true for the phase.
    pub(crate) fn wait_phase(&self, until: impl Fn(WorkerPhase) -> bool) -> WorkerPhase {
        self.gate.wait(until)
    }

    /// Returns an eventfd that is readable whenever the phase is not [`WorkerPhase::Open`].
    pub(crate) fn closed_gate(&self) -> BorrowedFd<'_> {
        self.gate.closed.as_fd()
    }

    /// Returns an eventfd that becomes readable when the phase changes from the one that allows accepting
    /// now: [`WorkerPhase::Open`], or [`WorkerPhase::Quiesced`] for a kept listener.
    pub(crate) fn changed_gate(&self) -> BorrowedFd<'_> {
        match *self.phase.borrow() {
            WorkerPhase::Quiesced => self.gate.not_quiesced.as_fd(),
            _ => self.gate.closed.as_fd(),
        }
    }

    // ---- listeners and connections --------------------------------------------------------------

    /// Claims the listener `name` for a new handle; `None` if it is not declared.
    pub(crate) fn listener(&self, name: &str) -> Option<io::Result<ListenerClaim>> {
        let mut listeners = lock(&self.listeners);
        let handed = listeners.get_mut(name)?;
        handed.taken = true;
        let incoming = handed.attach();
        let former = std::mem::take(&mut handed.former);
        let former = former.into_iter().map(|it| (it.fd, Addr::from(&it.addr))).collect();
        let clones = handed.sockets.iter().map(|it| Ok((it.fd.try_clone()?, Addr::from(&it.addr))));
        let (addr, index) = (handed.addr.clone(), handed.index);
        let sockets = clones.collect::<io::Result<_>>();
        Some(sockets.map(|sockets| ListenerClaim { sockets, former, addr, index, incoming }))
    }

    /// Claims the listener `name` for a server that accepts by itself. Returns its place among the declared
    /// ones; `None` if it is not declared.
    pub(crate) fn claim_raw(&self, name: &str) -> Option<usize> {
        let mut listeners = lock(&self.listeners);
        let handed = listeners.get_mut(name)?;
        (handed.taken, handed.raw) = (true, true);
        Some(handed.index)
    }

    /// Returns the sockets of the listener at `index`; none once the worker drains.
    pub(crate) fn sockets(&self, index: usize) -> io::Result<Vec<(OwnedFd, Addr)>> {
        let listeners = lock(&self.listeners);
        let handed = listeners.values().find(|handed| handed.index == index);
        let sockets = handed.into_iter().flat_map(|handed| &handed.sockets);
        sockets.map(|it| Ok((it.fd.try_clone()?, Addr::from(&it.addr)))).collect()
    }

    /// Registers another handle to the listener at `index`; returns the list in which it receives new
    /// sockets.
    pub(crate) fn attach(&self, index: usize) -> Arc<Incoming> {
        let mut listeners = lock(&self.listeners);
        let handed = listeners.values_mut().find(|handed| handed.index == index);
        handed.map_or_else(Arc::default, WorkerListener::attach)
    }

    /// Replaces the unix socket at `addr`, whose file was removed, by the one that the supervisor bound
    /// there.
    pub(crate) fn rebound(&self, name: &str, addr: &Address, new: OwnedFd) {
        let mut listeners = lock(&self.listeners);
        let Some(handed) = listeners.get_mut(name) else { return };
        // A draining worker has no sockets left.
        let Some(place) = handed.sockets.iter().position(|it| it.addr == *addr) else { return };
        let Some(socket) = handed.sockets.get_mut(place) else { return };
        // Before the handles learn of it: a queue that they then find empty stays empty. This also wakes
        // threads that poll the socket. Not for a server that accepts by itself: accept(2) would then fail on
        // the old socket, which is the only one it has.
        if handed.raw {
            tracing::warn!(
                listener = name,
                "the file of the listener was removed; new clients are served after a restart"
            );
        } else {
            drain_listener::refuse_new(&socket.fd, &Addr::from(addr));
        }
        let old = std::mem::replace(&mut socket.fd, new);
        let handles: Vec<_> = handed.handles.iter().filter_map(Weak::upgrade).collect();
        for handle in &handles {
            match socket.fd.try_clone() {
                Ok(fd) => lock(handle).push((place, fd)),
                Err(error) => tracing::error!(%error,
                    "cannot use the socket that replaces a removed one"),
            }
        }
        if handles.is_empty() {
            let (addr, source) = (addr.clone(), socket.source);
            handed.former.push(WorkerSocket { fd: old, addr, source });
        }
        drop(listeners);
        self.phase.send_modify(|_| {});
    }

    /// Returns whether this worker has closed the link by itself.
    pub(super) fn is_disconnected(&self) -> bool {
        self.parted.load(Ordering::SeqCst)
    }

    /// Calls `with` with all listeners and their sockets, in the same order; with none once the worker
    /// drains. A worker without a supervisor sends them to the next one.
    pub(crate) fn with_listeners<T>(
        &self,
        with: impl FnOnce(Vec<OrphanedListener>, Vec<BorrowedFd<'_>>) -> T,
    ) -> T {
        let listeners = lock(&self.listeners);
        let declared = &self.configuration.settings.listen;
        let (mut described, mut sockets) = (Vec::new(), Vec::new());
        for (name, handed) in listeners.iter() {
            let Some(settings) = declared.get(name) else { continue };
            for WorkerSocket { fd, addr, source } in &handed.sockets {
                let (addr, source) = (addr.clone(), *source);
                let settings = match source {
                    ListenerSource::Manager => {
                        let further = Further::default();
                        ListenSettings { addr: addr.clone(), further, ..settings.clone() }
                    }
                    ListenerSource::Daemon | ListenerSource::Store => declared_at(settings, &addr),
                };
                described.push(OrphanedListener { name: name.clone(), addr, settings, source });
                sockets.push(fd.as_fd());
            }
        }
        with(described, sockets)
    }

    pub(crate) fn listener_names(&self) -> Vec<String> {
        lock(&self.listeners).keys().cloned().collect()
    }

    /// Counts a connection before it is accepted.
    pub(crate) fn accepting(self: &Arc<Self>) -> AcceptGuard {
        AcceptGuard::begin(self)
    }

    /// Counts a connection that an older generation offers.
    pub(crate) fn offered(self: &Arc<Self>) -> Connection {
        Connection::offered(self)
    }

    /// Closes the link, and in a solo daemon waits until the control thread has cleaned up, such as removed
    /// the pidfile.
    pub(crate) fn disconnect(&self) {
        // Set first: the control thread must not take the end of the link for the supervisor's death.
        self.parted.store(true, Ordering::SeqCst);
        // Fails if the link is already closed, which is the desired state.
        let _ = rustix::net::shutdown(&self.link, rustix::net::Shutdown::Both);
        failpoint::hit(Step::WorkerBeforeExit, self.generation);
        let Some(solo_control) = self.solo_control.get() else { return };
        // The lock is held while joining: a second caller must not end the process before the cleanup is
        // done.
        let mut solo_control = lock(solo_control);
        if let Some(handle) = solo_control.take() {
            // Fails if the thread panicked: that was printed, and there is nothing left to clean up with.
            let _ = handle.join();
        }
    }
}

impl Gate {
    fn new() -> io::Result<Gate> {
        let readable = || eventfd(1, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        Ok(Gate {
            phase: Mutex::new(WorkerPhase::Waiting),
            changed: Condvar::new(),
            closed: readable()?,
            not_quiesced: readable()?,
        })
    }

    fn set(&self, phase: WorkerPhase) {
        let mut current = lock(&self.phase);
        for (event, not_in) in
            [(&self.closed, WorkerPhase::Open), (&self.not_quiesced, WorkerPhase::Quiesced)]
        {
            // The eventfd's counter is 1 (readable) or 0. Each call is made only in the state in which it
            // succeeds.
            if phase == not_in && *current != not_in {
                let _ = rustix::io::read(event, &mut [0; 8]);
            } else if phase != not_in && *current == not_in {
                let _ = rustix::io::write(event, &1_u64.to_ne_bytes());
            }
        }
        *current = phase;
        drop(current);
        self.changed.notify_all();
    }

    fn wait(&self, until: impl Fn(WorkerPhase) -> bool) -> WorkerPhase {
        let mut phase = lock(&self.phase);
        while !until(*phase) {
            phase = self.changed.wait(phase).unwrap_or_else(PoisonError::into_inner);
        }
        *phase
    }
}

/// Returns the settings that a listener with several addresses declares for the one at `addr`.
fn declared_at(settings: &ListenSettings, addr: &Address) -> ListenSettings {
    let is_it = |wanted: &Address| match (wanted, addr) {
        (Address::Tcp(wanted), Address::Tcp(addr)) => {
            wanted.ip() == addr.ip() && [0, addr.port()].contains(&wanted.port())
        }
        (wanted, addr) => wanted == addr,
    };
    let each = settings.each().into_iter().map(|binding| binding.settings);
    each.into_iter().find(|it| is_it(&it.addr)).unwrap_or_else(|| settings.clone())
}

/// Locks a mutex, even if a thread panicked while it held the lock: each change under these locks leaves
/// valid data at every step.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
