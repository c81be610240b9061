//! The service around the user's: counts requests and ends the connection after one, when draining.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use pin_project_lite::pin_project;

use super::Peer;
use crate::worker::state::State;

/// What is known of one connection's requests.
pub(super) struct Activity {
    state: Arc<State>,
    used: AtomicBool,
    told: AtomicBool,
}

impl Activity {
    pub(super) fn new(state: Arc<State>) -> Activity {
        Activity { state, used: AtomicBool::new(false), told: AtomicBool::new(false) }
    }

    /// Whether a request came yet.
    pub(super) fn used(&self) -> bool {
        self.used.load(Ordering::Relaxed)
    }

    /// The peer is told that this connection ends because of the drain.
    pub(super) fn tell_to_go(&self) {
        self.told.store(true, Ordering::Relaxed);
    }

    pub(super) fn told(&self) -> bool {
        self.told.load(Ordering::Relaxed)
    }
}

/// A request in flight: from its head to the end of its response's body.
struct InFlight(Arc<Activity>);

impl InFlight {
    fn begin(activity: &Arc<Activity>) -> InFlight {
        activity.used.store(true, Ordering::Relaxed);
        activity.state.counters.request_begun();
        InFlight(Arc::clone(activity))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.state.counters.request_ended();
    }
}

/// A service whose requests are counted, and whose responses end the connection when draining.
pub(super) struct Observed<S> {
    inner: S,
    peer: Peer,
    activity: Arc<Activity>,
}

impl<S> Observed<S> {
    pub(super) fn new(inner: S, peer: Peer, activity: Arc<Activity>) -> Observed<S> {
        Observed { inner, peer, activity }
    }
}

impl<S, B> hyper::service::Service<Request<Incoming>> for Observed<S>
where
    S: hyper::service::Service<Request<Incoming>, Response = Response<B>>,
{
    type Response = Response<ObservedBody<B>>;
    type Error = S::Error;
    type Future = ObservedFuture<S::Future>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let in_flight = InFlight::begin(&self.activity);
        #[cfg(feature = "axum")]
        if let Some(addr) = self.peer.addr.tcp() {
            request.extensions_mut().insert(axum::extract::ConnectInfo(addr));
        }
        request.extensions_mut().insert(self.peer.clone());
        ObservedFuture { inner: self.inner.call(request), in_flight: Some(in_flight) }
    }
}

pin_project! {
    /// The response to come.
    pub(super) struct ObservedFuture<F> {
        #[pin]
        inner: F,
        in_flight: Option<InFlight>,
    }
}

impl<F, B, E> Future for ObservedFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = Result<Response<ObservedBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut response = ready!(this.inner.poll(cx))?;
        if let Some(InFlight(activity)) = this.in_flight
            && activity.state.draining.is_cancelled()
            && response.status() != StatusCode::SWITCHING_PROTOCOLS
        {
            // hyper closes after a response that says so, and not before it is written.
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            activity.tell_to_go();
        }
        let in_flight = this.in_flight.take();
        Poll::Ready(Ok(response.map(|inner| ObservedBody { inner, _in_flight: in_flight })))
    }
}

pin_project! {
    /// The body of a response; its request is in flight until this is dropped.
    pub(super) struct ObservedBody<B> {
        #[pin]
        inner: B,
        _in_flight: Option<InFlight>,
    }
}

impl<B: Body> Body for ObservedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        self.project().inner.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
