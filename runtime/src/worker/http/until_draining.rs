//! Ending streams without an end of their own, such as server-sent events, when the worker drains.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::Stream;
use pin_project_lite::pin_project;

use crate::worker::daemon::Daemon;

/// Returns `stream`, ended when the worker drains: at a random time up to `spread` after the drain begins,
/// see [`Daemon::draining_with_jitter`].
///
/// For responses without an end. At the drain deadline they would be forced, which a client takes for an
/// error. A response that ends in time is complete, its connection is handed off to the next generation, and
/// the client sends its next request there. An `EventSource` does so by itself after the delay that the
/// server sets with `retry`: set a short one.
///
/// ```no_run
/// use std::convert::Infallible;
/// use std::time::Duration;
///
/// use axum::response::sse::{Event, Sse};
/// use futures_core::Stream;
/// use unbroken::{Daemon, http};
///
/// # type Prices = std::pin::Pin<Box<dyn Stream<Item = Result<Event, Infallible>> + Send>>;
/// # fn prices() -> Prices { todo!() }
/// async fn events(daemon: Daemon) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
///     // Each event sets the delay: `Event::default().retry(Duration::from_millis(100))`.
///     Sse::new(http::until_draining(&daemon, Duration::from_secs(5), prices()))
/// }
/// ```
pub fn until_draining<S>(daemon: &Daemon, spread: Duration, stream: S) -> UntilDraining<S> {
    let daemon = daemon.clone();
    let end = Box::pin(async move { daemon.draining_with_jitter(spread).await });
    UntilDraining { stream, end: Some(end) }
}

pin_project! {
    /// The stream returned by [`until_draining`].
    #[must_use = "streams do nothing unless polled"]
    pub struct UntilDraining<S> {
        #[pin]
        stream: S,
        // `None` once the stream has ended.
        end: Option<Pin<Box<dyn Future<Output = ()> + Send + Sync>>>,
    }
}

impl<S: Stream> Stream for UntilDraining<S> {
    type Item = S::Item;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<S::Item>> {
        let this = self.project();
        let Some(end) = this.end else { return Poll::Ready(None) };
        if end.as_mut().poll(cx).is_pending() {
            let next = this.stream.poll_next(cx);
            if !matches!(next, Poll::Ready(None)) {
                return next;
            }
        }
        *this.end = None;
        Poll::Ready(None)
    }
}

impl<S> std::fmt::Debug for UntilDraining<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UntilDraining").finish_non_exhaustive()
    }
}
