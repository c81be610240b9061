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
        Draining { inner: self.state.draining.clone().cancelled_owned() }
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
fn undeclared_error(state: &SharedState, name: &str) -> Error {
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
