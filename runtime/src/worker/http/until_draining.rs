//! Streams without an end of their own, such as server-sent events, that end when the worker drains.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::Stream;
use pin_project_lite::pin_project;

use crate::worker::daemon::Daemon;

/// A stream that goes on until the worker drains, and then ends up to `spread` later, as
/// [`Daemon::draining_with_jitter`] chooses.
///
/// For responses that have no end: at the drain deadline they would be cut, which a client takes for a
/// failure. One that ends is whole, its connection goes on with the next generation, and the client asks
/// again there: an `EventSource` by itself, after the time that `retry` gave it, so give it a short one.
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
///     // Each event says `retry` with `Event::default().retry(Duration::from_millis(100))`.
///     Sse::new(http::until_draining(&daemon, Duration::from_secs(5), prices()))
/// }
/// ```
pub fn until_draining<S>(daemon: &Daemon, spread: Duration, stream: S) -> UntilDraining<S> {
    let daemon = daemon.clone();
    let end = Box::pin(async move { daemon.draining_with_jitter(spread).await });
    UntilDraining { stream, end: Some(end) }
}

pin_project! {
    /// The stream of [`until_draining`].
    #[must_use = "streams do nothing unless polled"]
    pub struct UntilDraining<S> {
        #[pin]
        stream: S,
        // None once it has ended.
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
