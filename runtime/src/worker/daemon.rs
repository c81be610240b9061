//! The handle through which a program speaks to its daemon.

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

/// The program's handle of its daemon, given to `main`. Cheap to clone.
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
    /// The daemon's name: the key `name`, or the binary's.
    pub fn name(&self) -> &str {
        &self.state.configuration.settings.name
    }

    /// The generation this process belongs to. 1 at first; each restart starts the next one.
    pub fn generation(&self) -> u32 {
        self.state.generation
    }

    /// Says that the program could serve.
    ///
    /// Needed with `ready = "manual"` only; otherwise the daemon is ready when every declared listener
    /// has been polled for accept. Said more than once, it counts once.
    pub fn ready(&self) {
        self.state.ready();
    }

    /// A declared listener.
    ///
    /// May be called again for further accept loops on the same socket.
    ///
    /// # Errors
    /// [`ErrorKind::Listen`] where no listener of this name is declared.
    pub fn listener(&self, name: &str) -> Result<net::Listener> {
        net::Listener::new(&self.state, name)
    }

    /// A declared listener for a `main` without async.
    ///
    /// # Errors
    /// As [`Daemon::listener`].
    pub fn blocking_listener(&self, name: &str) -> Result<net::blocking::Listener> {
        net::blocking::Listener::new(&self.state, name)
    }

    /// Spawns a task that a drain waits for. At the drain deadline it is cancelled: dropped where it
    /// awaits.
    ///
    /// A task of [`tokio::spawn`] is dropped as soon as the drain is over, that is when `main` has returned
    /// and the connections and the tasks of this method have ended. The ledger says how many were.
    ///
    /// # Panics
    /// Outside of a Tokio runtime, as [`tokio::spawn`] does.
    pub fn spawn<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.state.tasks.spawn(TrackedTask { future, _count: TaskCount::begin(&self.state) })
    }

    /// Completes when this process begins to drain: it accepts nothing more, and what is in flight has
    /// until [`Daemon::drain_deadline`].
    pub fn draining(&self) -> Draining {
        Draining { inner: self.state.draining.clone().cancelled_owned() }
    }

    /// As [`Daemon::draining`], up to `spread` later, and never later than half of the time to the drain
    /// deadline.
    ///
    /// For telling many clients to connect again without all of them doing so in the same moment: each
    /// call chooses its own delay at random.
    ///
    /// ```no_run
    /// # async fn serve(daemon: unbroken::Daemon, mut socket: axum::extract::ws::WebSocket) {
    /// use axum::extract::ws::{CloseFrame, Message};
    ///
    /// daemon.draining_with_jitter(std::time::Duration::from_secs(5)).await;
    /// // 1012 is "service restart": the client is to connect again (RFC 6455 §7.4, IANA registry).
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

    /// [`Daemon::draining`] as a token, to derive others from.
    ///
    /// Cancelling it has no effect on the daemon: it is a child of the daemon's own.
    pub fn draining_token(&self) -> CancellationToken {
        self.state.draining.child_token()
    }

    /// Blocks the calling thread until the drain begins.
    pub fn wait_draining(&self) {
        self.state.wait_phase(|phase| phase == WorkerPhase::Draining);
    }

    /// Until when a drain may take. `None` before it begins.
    pub fn drain_deadline(&self) -> Option<Instant> {
        self.state.deadline()
    }

    /// The application's own section of the configuration: `[app]` in the file, `DAEMON_APP__*` in the
    /// environment.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] with the key and the source of the value that does not fit.
    pub fn config<T: DeserializeOwned>(&self) -> Result<T> {
        self.state.configuration.app()
    }

    /// A line that `status` shows beside this worker, such as `replaying the journal, 40 %`.
    ///
    /// Never waits: a supervisor that is hundreds of lines behind, as one that was stopped, misses it.
    pub fn status(&self, text: impl Into<String>) {
        let mut text = text.into();
        link::cut(&mut text, MAX_STATUS);
        self.state.try_send(&FromWorker::Status { text });
    }
}

/// A number from 0 to 1. A hasher with keys of its own is as random as a jitter needs.
pub(super) fn random_part() -> f64 {
    std::hash::RandomState::new().build_hasher().finish() as f64 / u64::MAX as f64
}

/// A handle on a declared listener.
pub(super) fn claim_listener(state: &SharedState, name: &str) -> Result<ListenerClaim> {
    state
        .listener(name)
        .ok_or_else(|| undeclared_error(state, name))?
        .map_err(|error| Error::io(format!("cannot use listener `{name}`"), error))
}

/// What is said of a listener that nobody declared.
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

/// A task of [`Daemon::spawn`] in the worker's figures.
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
    /// The future of [`Daemon::draining`].
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
