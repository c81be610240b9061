//! What a program says of itself in the confirm window.

use std::fmt::Display;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use super::daemon::Daemon;
use super::state::WorkerPhase;
use crate::link::{self, FromWorker, MAX_REASON};

impl Daemon {
    /// Says that this generation should not serve.
    ///
    /// Before it is ready, or within the `confirm_window` after that, the restart is undone: the old
    /// generation accepts again, this process is killed, and whoever asked for the restart gets the
    /// reason. Later it is only written to the log, as there is nothing to go back to.
    pub fn unhealthy(&self, reason: impl Into<String>) {
        let mut reason = reason.into();
        link::cut(&mut reason, MAX_REASON);
        self.state.send(&FromWorker::Unhealthy { reason });
    }

    /// Says that this generation has proved itself: the confirm window ends now, or as soon as every
    /// [`confirm_check`](Daemon::confirm_check) has passed.
    pub fn confirm(&self) {
        self.state.send(&FromWorker::Confirm {});
    }

    /// A check that has to pass before the confirm window ends, or the restart is undone.
    ///
    /// It is begun when this generation accepts connections, so that it can be a client of its own
    /// listeners. An `Err` is the same as [`unhealthy`](Daemon::unhealthy), and so is a panic. To be
    /// given before the worker is ready. With `confirm_window = "0s"`, at the first start and after a
    /// crash there is nothing to go back to: a failure is only written to the log.
    ///
    /// ```no_run
    /// use unbroken::{Daemon, daemon};
    ///
    /// #[daemon(graceful_restart, confirm_window = "10s", listen(http = "0.0.0.0:8080"))]
    /// async fn main(daemon: Daemon) -> anyhow::Result<()> {
    ///     daemon.confirm_check(async {
    ///         let stream = tokio::net::TcpStream::connect("127.0.0.1:8080").await?;
    ///         // Ask, and look at the answer.
    ///         # drop(stream);
    ///         std::io::Result::Ok(())
    ///     });
    ///     daemon.serve("http", axum::Router::new()).await?;
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Panics
    /// Outside of a Tokio runtime, as [`tokio::spawn`] does.
    pub fn confirm_check<F, E>(&self, check: F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Display,
    {
        self.state.send(&FromWorker::Check { passed: false });
        let daemon = Daemon { state: Arc::clone(&self.state) };
        self.state.own.spawn(async move {
            let mut phase = daemon.state.phase();
            // Its sender lives as long as the state.
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
