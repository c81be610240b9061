//! What all parts of a worker share: its phase, its listeners, its connections and tasks.

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

/// What a worker may do with its listeners.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WorkerPhase {
    /// Not yet told to go.
    Waiting,
    /// Accepting.
    Open,
    /// Told to stop accepting, may have to resume.
    Quiesced,
    /// Never accepts again.
    Draining,
}

/// The shared state of a worker.
pub(crate) struct SharedState {
    pub(crate) configuration: Configuration,
    pub(crate) generation: u32,
    pub(crate) counters: Counters,
    /// Emptied of its sockets when the drain begins.
    listeners: Mutex<SortedMap<String, WorkerListener>>,
    listener_count: usize,
    link: OwnedFd,
    phase: watch::Sender<WorkerPhase>,
    /// For threads that wait without a runtime.
    gate: Gate,
    pub(crate) tasks: TaskTracker,
    /// Those of this crate on the program's runtime, to tell them from the program's.
    pub(crate) own: TaskTracker,
    /// Cancelled when the drain begins.
    pub(crate) draining: CancellationToken,
    /// Cancelled at the drain deadline.
    pub(crate) forced: CancellationToken,
    deadline: Mutex<Option<Instant>>,
    ready: AtomicBool,
    /// Listeners without anybody who accepts were told of.
    unclaimed: AtomicBool,
    last: AtomicBool,
    /// `main` has ended without being asked to, and what is open goes down with the process.
    abandoned: AtomicBool,
    /// It has hung up, and ends.
    parted: AtomicBool,
    /// The token's state, for those who look at every request: a token takes a lock.
    is_draining: AtomicBool,
    /// Where a runtime is there to answer the watchdog.
    pings: OnceLock<Arc<Notify>>,
    /// The ways to other generations.
    pub(crate) passage: HandoffRegistry,
    /// The thread that stands in for the supervisor of a solo daemon.
    pub(crate) solo_control: OnceLock<Mutex<Option<JoinHandle<()>>>>,
}

/// What a worker may do with one of its listeners.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ListenerMode {
    /// Others accept, or nobody does yet.
    Wait,
    Accept,
    /// Accept who is in the queue, and who gets into it until then; nobody else will.
    Finish {
        until: Instant,
    },
    /// Never again.
    Over,
}

/// A listener as the worker got it.
struct WorkerListener {
    /// Several, if the service manager passed several of one name. None once the worker drains.
    sockets: Vec<WorkerSocket>,
    /// Those whose files were removed while nobody had the listener: who waits there is not forgotten.
    former: Vec<WorkerSocket>,
    /// Those who have it.
    handles: Vec<Weak<Incoming>>,
    /// The program has asked for it.
    taken: bool,
    /// Where the first of them is, or was.
    addr: Addr,
    index: usize,
    /// Accepted on also while the worker is quiesced.
    kept: bool,
    /// It is to be finished while the worker drains, until then.
    until: Option<Instant>,
    /// Its sockets that end then; those of the others are somebody else's now.
    ends: Vec<Addr>,
}

/// A socket as the worker got it.
struct WorkerSocket {
    fd: OwnedFd,
    addr: Address,
    source: ListenerSource,
}

/// Sockets on their way to a handle, in turn, with the places of those that they replace.
pub(crate) type Incoming = Mutex<Vec<(usize, OwnedFd)>>;

/// A handle on a declared listener.
pub(crate) struct ListenerClaim {
    /// None once the worker drains.
    pub(crate) sockets: Vec<(OwnedFd, Addr)>,
    /// Nobody gets into their queues any more.
    pub(crate) former: Vec<(OwnedFd, Addr)>,
    /// Where the first of them is.
    pub(crate) addr: Addr,
    pub(crate) index: usize,
    /// What replaces them from now on.
    pub(crate) incoming: Arc<Incoming>,
}

/// The phase for blocking threads: a condition to wait for, and descriptors to wait for in poll(2).
struct Gate {
    phase: Mutex<WorkerPhase>,
    changed: Condvar,
    /// Readable whenever the phase is not [`Phase::Open`].
    closed: OwnedFd,
    /// Readable whenever the phase is not [`Phase::Quiesced`].
    not_quiesced: OwnedFd,
}

impl WorkerListener {
    /// For another handle.
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
            passage: HandoffRegistry::new(),
            solo_control: OnceLock::new(),
        })
    }

    pub(crate) fn link(&self) -> BorrowedFd<'_> {
        self.link.as_fd()
    }

    /// Tells the supervisor. One that is gone or does not listen is noticed by the conductor.
    pub(crate) fn send(&self, message: &FromWorker) {
        if let Err(error) = link::send(&self.link, message, &[]) {
            tracing::debug!(%error, "cannot send a message to the supervisor");
        }
    }

    /// As [`State::say`], for what may be lost: never waits for a supervisor that does not listen.
    pub(crate) fn try_send(&self, message: &FromWorker) {
        if let Err(error) = link::try_send(&self.link, message) {
            tracing::debug!(%error, "cannot send a message to the supervisor");
        }
    }

    // ---- readiness ------------------------------------------------------------------------------

    /// `main` is about to run.
    pub(crate) fn mark_running(&self) {
        self.counters.set_stage(StartupStage::Running);
        if self.listener_count == 0 && self.configuration.settings.ready == Ready::Auto {
            self.ready();
        }
    }

    /// The listener at `index` was polled for accept.
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

    /// Listeners that only the operator declared, when it comes to these alone: the program does not know
    /// them, or not yet.
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

    /// The worker could serve; said once.
    pub(crate) fn ready(&self) {
        if !self.ready.swap(true, Ordering::SeqCst) {
            if failpoint::try_hit(Step::WorkerBeforeReady, self.generation).is_err() {
                // As where the message below is not taken.
                return;
            }
            self.send(&FromWorker::Ready {});
        }
    }

    /// The supervisor wants to know whether the runtime runs; without one, this thread has to do.
    pub(crate) fn handle_ping(&self) {
        match self.pings.get() {
            Some(pings) => pings.notify_one(),
            None => self.send(&FromWorker::Pong {}),
        }
    }

    /// Answers such questions from a task of the current runtime: one that is blocked does not.
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

    /// Moves to a phase; draining is final.
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

    /// Stops accepting, but on the listeners of these names. This worker may have to resume.
    pub(crate) fn quiesce(&self, keep: &[String]) {
        for (name, handed) in lock(&self.listeners).iter_mut() {
            handed.kept = keep.contains(name);
        }
        self.set_phase(WorkerPhase::Quiesced);
    }

    /// What may be done in a phase with the listener at `index`.
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

    /// Whether the socket at `addr` of a listener that is to be finished ends with it.
    pub(crate) fn ends(&self, index: usize, addr: &Addr) -> bool {
        let listeners = lock(&self.listeners);
        let handed = listeners.values().find(|handed| handed.index == index);
        handed.is_some_and(|handed| handed.ends.contains(addr))
    }

    /// Whether the drain has begun.
    pub(crate) fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::SeqCst)
    }

    /// Whether nobody serves after this worker.
    pub(crate) fn is_last(&self) -> bool {
        self.last.load(Ordering::Relaxed)
    }

    /// Nobody serves after this worker.
    pub(crate) fn set_last(&self) {
        self.last.store(true, Ordering::Relaxed);
    }

    /// Stops accepting for good, but on the listeners to `finish` (of several addresses on those in `at`), and
    /// tells everyone until when they have time. An earlier deadline than the last one counts, a later one
    /// does not.
    pub(crate) fn drain(&self, deadline: Instant, finish: &[String], at: &[Address]) {
        let mut current = lock(&self.deadline);
        *current = Some(current.map_or(deadline, |earlier| earlier.min(deadline)));
        drop(current);
        // The supervisor has its own: what waits in the queue is the next generation's, and where
        // there is none, newcomers are refused rather than left waiting.
        for (name, handed) in lock(&self.listeners).iter_mut() {
            let sockets = std::mem::take(&mut handed.sockets);
            if finish.contains(name) {
                let ends = |it: &&WorkerSocket| at.is_empty() || at.contains(&it.addr);
                let ends: Vec<&WorkerSocket> = sockets.iter().filter(ends).collect();
                // A second order finds none.
                handed.ends.extend(ends.iter().map(|it| Addr::from(&it.addr)));
                let outs =
                    ends.iter().map(|it| drain_listener::refuse_new(&it.fd, &Addr::from(&it.addr)));
                handed.until = outs.max().or(handed.until);
            }
            handed.until = handed.until.map(|until| until.min(deadline));
        }
        // Before the accept loops end: a `main` that returns because of that was asked to.
        self.is_draining.store(true, Ordering::SeqCst);
        self.draining.cancel();
        self.set_phase(WorkerPhase::Draining);
    }

    /// `main` has ended. Returns whether what is open is waited for, as in a drain.
    ///
    /// It is where a drain was asked for, and where another generation serves already, as nobody has to wait
    /// for the end of this one. Else the next worker begins when this one is gone: its connections are lost,
    /// as with any other crash.
    pub(crate) fn main_ended(&self) -> bool {
        self.counters.main_ended();
        if self.is_draining() {
            return true;
        }
        if *self.phase.borrow() != WorkerPhase::Quiesced {
            self.abandoned.store(true, Ordering::SeqCst);
            return false;
        }
        // Before the drain: whoever resumes it would resume nobody.
        self.send(&FromWorker::Leaving { main_ended: true });
        self.drain(Instant::now() + self.configuration.settings.drain_timeout, &[], &[]);
        true
    }

    /// Whether what is open goes down with the process.
    pub(super) fn is_abandoned(&self) -> bool {
        self.abandoned.load(Ordering::SeqCst)
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        *lock(&self.deadline)
    }

    /// Blocks until something may be done with the listener at `index`.
    pub(crate) fn wait_listener_mode(&self, index: usize) -> ListenerMode {
        let phase = self.gate.wait(|phase| self.listener_mode(phase, index) != ListenerMode::Wait);
        self.listener_mode(phase, index)
    }

    /// Blocks until the phase is one of those that `until` accepts.
    pub(crate) fn wait_phase(&self, until: impl Fn(WorkerPhase) -> bool) -> WorkerPhase {
        self.gate.wait(until)
    }

    /// Readable whenever accepting is not allowed on all listeners.
    pub(crate) fn closed_gate(&self) -> BorrowedFd<'_> {
        self.gate.closed.as_fd()
    }

    /// Becomes readable when what may be done with listeners is another thing than now.
    pub(crate) fn changed_gate(&self) -> BorrowedFd<'_> {
        match *self.phase.borrow() {
            WorkerPhase::Quiesced => self.gate.not_quiesced.as_fd(),
            _ => self.gate.closed.as_fd(),
        }
    }

    // ---- listeners and connections --------------------------------------------------------------

    /// A handle on the listener of this name; `None` if none is declared.
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

    /// What replaces the sockets of another handle on the listener at `index` from now on.
    pub(crate) fn attach(&self, index: usize) -> Arc<Incoming> {
        let mut listeners = lock(&self.listeners);
        let handed = listeners.values_mut().find(|handed| handed.index == index);
        handed.map_or_else(Arc::default, WorkerListener::attach)
    }

    /// A socket comes in the place of the one at the same address, whose file was removed.
    pub(crate) fn rebound(&self, name: &str, addr: &Address, new: OwnedFd) {
        let mut listeners = lock(&self.listeners);
        let Some(handed) = listeners.get_mut(name) else { return };
        // None is left of a worker that drains.
        let Some(place) = handed.sockets.iter().position(|it| it.addr == *addr) else { return };
        let Some(socket) = handed.sockets.get_mut(place) else { return };
        // First, so that a queue that is found empty stays empty. Wakes who polls it, too.
        drain_listener::refuse_new(&socket.fd, &Addr::from(addr));
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

    /// Whether this worker has hung up by itself.
    pub(super) fn is_disconnected(&self) -> bool {
        self.parted.load(Ordering::SeqCst)
    }

    /// Calls `with` with all listeners and their sockets, in the same order; none once the worker drains.
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

    /// Counts a connection that is about to be accepted.
    pub(crate) fn accepting(self: &Arc<Self>) -> AcceptGuard {
        AcceptGuard::begin(self)
    }

    /// Counts a connection that an older generation offers.
    pub(crate) fn offered(self: &Arc<Self>) -> Connection {
        Connection::offered(self)
    }

    /// Hangs up and waits for the stand-in of a supervisor, if there is one, to put things away.
    pub(crate) fn disconnect(&self) {
        // First: whoever listens to the link shall not take the end of it for the supervisor's.
        self.parted.store(true, Ordering::SeqCst);
        // A link that is down already is what is wanted.
        let _ = rustix::net::shutdown(&self.link, rustix::net::Shutdown::Both);
        failpoint::hit(Step::WorkerBeforeExit, self.generation);
        let Some(solo_control) = self.solo_control.get() else { return };
        // Held while joining: whoever comes second may not end the process before that.
        let mut solo_control = lock(solo_control);
        if let Some(handle) = solo_control.take() {
            // A panic of the stand-in has been printed; there is nothing left to put away with.
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
            // The counter is one or zero; both calls succeed in their state.
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

/// Of a listener what is declared of this one of its addresses.
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

/// Locks; what a panicking thread left behind is whole, as every change here is one assignment.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
