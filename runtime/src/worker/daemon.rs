//! The handle through which a program uses its daemon: listeners, readiness, draining, configuration.

use std::fmt;
use std::future::Future;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::net;
use super::state::{ListenerClaim, SharedState, WorkerPhase};
use crate::error::{Error, ErrorKind, Result};
use crate::link::{self, FromWorker, MAX_STATUS};

/// The program's handle to its daemon, passed to `main`. Cheap to clone.
///
/// ```no_run
/// use unbroken::{Daemon, daemon};
///
/// #[daemon(graceful_restart, listen(echo = "127.0.0.1:7000"))]
/// async fn main(daemon: Daemon) -> Result<(), unbroken::Error> {
///     let mut listener = daemon.listener("echo")?;
///     while let Some(accepted) = listener.next().await {
///         let (mut stream, _peer) = accepted.expect("accept");
///         daemon.spawn(async move {
///             let (mut read, mut write) = tokio::io::split(&mut stream);
///             tokio::io::copy(&mut read, &mut write).await
///         });
///     }
///     Ok(())
/// }
/// ```
#[derive(Clone)]
pub struct Daemon {
    pub(crate) state: Arc<SharedState>,
}

impl Daemon {
    /// Returns the daemon's name: the value of the key `name`, or the name of the binary.
    pub fn name(&self) -> &str {
        &self.state.configuration.settings.name
    }

    /// Returns the generation of this process. The first is 1; each restart starts the next one.
    pub fn generation(&self) -> u32 {
        self.state.generation
    }

    /// Reports that the program is ready to serve.
    ///
    /// Needed only with `ready = "manual"`. Otherwise the worker is ready when every declared listener has
    /// been polled for accept. Only the first call has an effect.
    pub fn ready(&self) {
        self.state.ready();
    }

    /// Returns a handle to the declared listener `name`.
    ///
    /// Call it again for each further accept loop on the same listener.
    ///
    /// # Errors
    /// [`ErrorKind::Listen`] if no listener of this name is declared.
    pub fn listener(&self, name: &str) -> Result<net::Listener> {
        net::Listener::new(&self.state, name)
    }

    /// Returns a handle to the declared listener `name` for a `main` without async.
    ///
    /// # Errors
    /// Same as [`Daemon::listener`].
    pub fn blocking_listener(&self, name: &str) -> Result<net::blocking::Listener> {
        net::blocking::Listener::new(&self.state, name)
    }

    /// Waits until this generation may accept, and returns the declared listener `name` as a plain socket, for
    /// a server with an accept loop of its own.
    ///
    /// Prefer [`Daemon::listener`], or `Daemon::serve` for HTTP, where the server allows it. With a raw
    /// listener
    ///
    /// - the daemon does not know the connections: they are not in the ledger, no drain waits for them, they
    ///   are not handed off, and the limits of the listener do not apply;
    /// - the server goes on accepting in the confirm window of a restart, beside the new generation, unless
    ///   the program pauses it: see [`Daemon::paused`];
    /// - the server has to stop accepting when [`Daemon::draining`] completes, and `main` has to return when
    ///   the server has answered what it had accepted;
    /// - connections in the queue of a listener that has no next generation, because the daemon stops or the
    ///   listener is removed, are reset when the server closes it;
    /// - if the file of a unix socket is removed, the new socket in its place is served after the next
    ///   restart.
    ///
    /// The call counts for readiness, as polling a [`Listener`](net::Listener) for accept does. At a restart
    /// it completes after this generation is ready and the supervisor has paused the old one; in a solo daemon
    /// at once. Start the server after that: what has to be ready before, such as a pool of database
    /// connections, belongs before the call. A program with several raw listeners gets them with
    /// `tokio::try_join!`: one after the other, the first would wait for the second. Cancel safe.
    ///
    /// Call it again for a further accept loop on the same listener; tracked and raw handles may exist at the
    /// same time.
    ///
    /// # Errors
    /// [`ErrorKind::Listen`] if no listener of this name is declared. [`ErrorKind::Refused`] if this worker
    /// drains, also if the drain begins during the call: `main` should then return.
    pub async fn raw_listener(&self, name: &str) -> Result<net::RawListener> {
        net::RawListener::get(&self.state, name).await
    }

    /// Same as [`Daemon::raw_listener`] for a `main` without async: blocks the calling thread.
    ///
    /// A program with several raw listeners has to call it in as many threads: it returns when all listeners
    /// have been asked for.
    ///
    /// # Errors
    /// Same as [`Daemon::raw_listener`].
    pub fn blocking_raw_listener(&self, name: &str) -> Result<net::RawListener> {
        net::RawListener::get_blocking(&self.state, name)
    }

    /// Completes when this worker is paused: the next generation serves, and this one accepts no more
    /// connections unless the restart is aborted within the confirm window.
    ///
    /// The daemon's own listeners need no notice. A server on a [raw listener](Daemon::raw_listener) does, and
    /// so does a program whose connections depend on each other. [`Daemon::resumed`] is the counterpart. Both
    /// complete at once if the worker is in that state already, so a loop over both misses no change. Both
    /// stay pending once the worker drains, which follows a confirmed restart: always wait for
    /// [`Daemon::draining`] too.
    ///
    /// Listeners that the next generation does not have are not paused: no other worker accepts on them.
    ///
    /// Cancel safe.
    ///
    /// ```no_run
    /// # struct Server;
    /// # impl Server {
    /// #     async fn pause(&self) {}
    /// #     async fn resume(&self) {}
    /// #     async fn stop(&self) {}
    /// # }
    /// # async fn follow(daemon: unbroken::Daemon, server: Server) {
    /// loop {
    ///     tokio::select! {
    ///         () = daemon.paused() => server.pause().await,
    ///         () = daemon.draining() => break,
    ///     }
    ///     tokio::select! {
    ///         () = daemon.resumed() => server.resume().await,
    ///         () = daemon.draining() => break,
    ///     }
    /// }
    /// // Answers what was accepted, and returns.
    /// server.stop().await;
    /// # }
    /// ```
    pub async fn paused(&self) {
        self.state.phase_is(WorkerPhase::Quiesced).await;
    }

    /// Completes when this worker accepts: when a restart was aborted and the worker is no longer
    /// [paused](Daemon::paused), and at once if it is not paused. Cancel safe.
    pub async fn resumed(&self) {
        self.state.phase_is(WorkerPhase::Open).await;
    }

    /// Returns whether this worker is [paused](Daemon::paused).
    pub fn is_paused(&self) -> bool {
        *self.state.phase().borrow() == WorkerPhase::Quiesced
    }

    /// Blocks the calling thread until this worker is [paused](Daemon::paused). Returns whether it is: `false`
    /// if it drains.
    ///
    /// ```no_run
    /// # fn pause() {}
    /// # fn resume() {}
    /// # fn stop() {}
    /// # fn follow(daemon: unbroken::Daemon) {
    /// while daemon.wait_paused() {
    ///     pause();
    ///     if !daemon.wait_resumed() {
    ///         break;
    ///     }
    ///     resume();
    /// }
    /// stop();
    /// # }
    /// ```
    pub fn wait_paused(&self) -> bool {
        self.wait_until(WorkerPhase::Quiesced)
    }

    /// Blocks the calling thread until this worker accepts, as [`Daemon::resumed`] does. Returns whether it
    /// accepts: `false` if it drains.
    pub fn wait_resumed(&self) -> bool {
        self.wait_until(WorkerPhase::Open)
    }

    /// Blocks until the worker is in `wanted` or drains; returns whether it is in `wanted`.
    fn wait_until(&self, wanted: WorkerPhase) -> bool {
        let over = |phase| phase == wanted || phase == WorkerPhase::Draining;
        self.state.wait_phase(over) == wanted
    }

    /// Spawns a task that the drain waits for. At the drain deadline the task is cancelled: its future is
    /// dropped at its current await point.
    ///
    /// The drain does not wait for tasks of [`tokio::spawn`]: they are dropped when `main` has returned and
    /// all connections and all tasks of this method have ended. The ledger counts the dropped tasks.
    ///
    /// # Panics
    /// If called outside of a Tokio runtime, like [`tokio::spawn`].
    pub fn spawn<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.state.tasks.spawn(TrackedTask { future, _count: TaskCount::begin(&self.state) })
    }

    /// Returns a future that completes when this worker begins to drain: it accepts no more connections, and
    /// what is in flight has until [`Daemon::drain_deadline`] to finish.
    pub fn draining(&self) -> Draining {
        Draining::new(&self.state)
    }

    /// Completes at a random time after [`Daemon::draining`]: at most `spread` later, and no later than
    /// halfway to the drain deadline.
    ///
    /// Use it before asking a client to reconnect. Each call chooses its own delay, so many clients do not
    /// reconnect all at once.
    ///
    /// ```no_run
    /// # async fn serve(daemon: unbroken::Daemon, mut socket: axum::extract::ws::WebSocket) {
    /// use axum::extract::ws::{CloseFrame, Message};
    ///
    /// daemon.draining_with_jitter(std::time::Duration::from_secs(5)).await;
    /// // 1012 means "service restart": the client should reconnect (IANA WebSocket close code registry).
    /// let frame = CloseFrame { code: 1012, reason: "restart".into() };
    /// let _ = socket.send(Message::Close(Some(frame))).await;
    /// # }
    /// ```
    pub async fn draining_with_jitter(&self, spread: Duration) {
        self.draining().await;
        let left = self.drain_deadline().map(|at| at.saturating_duration_since(Instant::now()));
        let spread = left.map_or(spread, |left| spread.min(left / 2));
        tokio::time::sleep(spread.mul_f64(random_part())).await;
    }

    /// Returns a [`CancellationToken`] that is cancelled when [`Daemon::draining`] completes.
    ///
    /// It is a child of the daemon's own token: cancelling it has no effect on the daemon.
    pub fn draining_token(&self) -> CancellationToken {
        self.state.draining.child_token()
    }

    /// Blocks the calling thread until the drain begins.
    pub fn wait_draining(&self) {
        self.state.wait_phase(|phase| phase == WorkerPhase::Draining);
    }

    /// Returns the drain deadline; `None` before the drain begins.
    pub fn drain_deadline(&self) -> Option<Instant> {
        self.state.deadline()
    }

    /// Returns the application's own section of the configuration: `[app]` in the file and `DAEMON_APP__*`
    /// in the environment.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] if a value does not fit `T`; the message names its key and source.
    pub fn config<T: DeserializeOwned>(&self) -> Result<T> {
        self.state.configuration.app()
    }

    /// Sets the text that the verb `status` shows for this worker, such as `replaying the journal, 40 %`.
    ///
    /// Never blocks: if the supervisor does not read the link, for example while it is stopped, and the link
    /// is full, the text is discarded.
    pub fn status(&self, text: impl Into<String>) {
        let mut text = text.into();
        link::cut(&mut text, MAX_STATUS);
        self.state.try_send(&FromWorker::Status { text });
    }
}

/// Returns a random number from 0 to 1. The random keys of a [`RandomState`](std::hash::RandomState) are
/// random enough for jitter.
pub(super) fn random_part() -> f64 {
    std::hash::RandomState::new().build_hasher().finish() as f64 / u64::MAX as f64
}

/// Claims the declared listener `name` for a handle.
pub(super) fn claim_listener(state: &SharedState, name: &str) -> Result<ListenerClaim> {
    state
        .listener(name)
        .ok_or_else(|| undeclared_error(state, name))?
        .map_err(|error| Error::io(format!("cannot use listener `{name}`"), error))
}

/// Returns the error for a listener name that is not declared; it lists the declared names.
pub(super) fn undeclared_error(state: &SharedState, name: &str) -> Error {
    let names = state.listener_names();
    let declared = if names.is_empty() {
        "none is".to_owned()
    } else {
        format!("declared: {}", names.join(", "))
    };
    let variable = state.configuration.settings.prefix().variable(&["listen", name]);
    Error::new(
        ErrorKind::Listen,
        format!(
            "no listener `{name}` is declared ({declared}); add `listen({name} = \"…\")` to the \
             attribute or set {variable}"
        ),
    )
}

impl fmt::Debug for Daemon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Daemon")
            .field("name", &self.name())
            .field("generation", &self.generation())
            .finish_non_exhaustive()
    }
}

/// Counts a task of [`Daemon::spawn`] in the worker's counters until dropped.
struct TaskCount(Arc<SharedState>);

impl TaskCount {
    fn begin(state: &Arc<SharedState>) -> TaskCount {
        state.counters.task_begun();
        TaskCount(Arc::clone(state))
    }
}

impl Drop for TaskCount {
    fn drop(&mut self) {
        self.0.counters.task_ended();
    }
}

pin_project_lite::pin_project! {
    struct TrackedTask<F> {
        #[pin]
        future: F,
        _count: TaskCount,
    }
}

impl<F: Future> Future for TrackedTask<F> {
    type Output = F::Output;

    fn poll(
        self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<F::Output> {
        self.project().future.poll(cx)
    }
}

pin_project_lite::pin_project! {
    /// The future returned by [`Daemon::draining`].
    #[must_use = "futures do nothing unless awaited"]
    pub struct Draining {
        #[pin]
        inner: WaitForCancellationFutureOwned,
    }
}

impl Draining {
    pub(super) fn new(state: &SharedState) -> Draining {
        Draining { inner: state.draining.clone().cancelled_owned() }
    }
}

impl Future for Draining {
    type Output = ();

    fn poll(
        self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<()> {
        self.project().inner.poll(cx)
    }
}

impl fmt::Debug for Draining {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Draining").finish_non_exhaustive()
    }
}
