//! The program's own part in the confirm window: reporting itself unhealthy, confirming early, and checks.

use std::fmt::Display;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use super::daemon::Daemon;
use super::state::WorkerPhase;
use crate::link::{self, FromWorker, MAX_REASON};

impl Daemon {
    /// Reports that this generation should not serve.
    ///
    /// Before this worker is ready, or within the `confirm_window` after that, the restart is aborted: the
    /// old generation accepts again, the supervisor kills this process, and `restart` prints the reason and
    /// fails. Later, the reason is only logged because the old generation can no longer resume.
    pub fn unhealthy(&self, reason: impl Into<String>) {
        let mut reason = reason.into();
        link::cut(&mut reason, MAX_REASON);
        self.state.send(&FromWorker::Unhealthy { reason });
    }

    /// Ends the confirm window early: now, or as soon as every [`confirm_check`](Daemon::confirm_check) has
    /// passed. For a program that knows that it works.
    pub fn confirm(&self) {
        self.state.send(&FromWorker::Confirm {});
    }

    /// Adds a check that has to pass before the confirm window ends; otherwise the restart is aborted.
    ///
    /// The check starts when this generation accepts connections, and can therefore connect to its own
    /// listeners. An `Err` or a panic has the same effect as [`unhealthy`](Daemon::unhealthy). Call this
    /// before the worker is ready. With `confirm_window = "0s"`, at the first start and after a crash there
    /// is no old generation that could resume: a failure is only logged.
    ///
    /// ```no_run
    /// use unbroken::{Daemon, daemon};
    ///
    /// #[daemon(graceful_restart, confirm_window = "10s", listen(http = "0.0.0.0:8080"))]
    /// async fn main(daemon: Daemon) -> anyhow::Result<()> {
    ///     daemon.confirm_check(async {
    ///         let stream = tokio::net::TcpStream::connect("127.0.0.1:8080").await?;
    ///         // Send a request and check the response.
    ///         # drop(stream);
    ///         std::io::Result::Ok(())
    ///     });
    ///     daemon.serve("http", axum::Router::new()).await?;
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Panics
    /// If called outside of a Tokio runtime, like [`tokio::spawn`].
    pub fn confirm_check<F, E>(&self, check: F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Display,
    {
        self.state.send(&FromWorker::Check { passed: false });
        let daemon = Daemon { state: Arc::clone(&self.state) };
        self.state.own.spawn(async move {
            let mut phase = daemon.state.phase();
            // Cannot fail: the sender lives as long as the state.
            let _ = phase.wait_for(|phase| *phase == WorkerPhase::Open).await;
            let mut check = std::pin::pin!(check);
            let outcome = std::future::poll_fn(|cx| {
                let poll = AssertUnwindSafe(|| check.as_mut().poll(cx));
                match std::panic::catch_unwind(poll) {
                    Ok(poll) => poll.map(|outcome| outcome.map_err(|error| error.to_string())),
                    Err(_) => std::task::Poll::Ready(Err("it panicked".to_owned())),
                }
            });
            match outcome.await {
                Ok(()) => daemon.state.send(&FromWorker::Check { passed: true }),
                Err(reason) => daemon.unhealthy(format!("its confirm check failed: {reason}")),
            }
        });
    }
}
