//! The service around the user's: counts requests and ends the connection after one, when draining.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use pin_project_lite::pin_project;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::Peer;
use super::timeouts::WaitingFor;
use crate::failpoint::{self, Step};
use crate::worker::connection::CloseNotice;
use crate::worker::state::SharedState;

/// What is known of one connection, through all rounds of serving it.
pub(super) struct Activity {
    state: Arc<SharedState>,
    requests: AtomicU64,
    in_flight: AtomicU64,
    /// The kernel took less than there was to send.
    write_blocked: AtomicBool,
    /// One side has begun to close.
    closing: AtomicBool,
    /// It began with the preface of HTTP/2.
    http2: AtomicBool,
    /// Some of the next request was read.
    head_begun: AtomicBool,
    /// The next response is to be the last one.
    last: AtomicBool,
    farewell: Arc<CloseNotice>,
    /// The successor that did not take it last.
    refused_by: AtomicU64,
    upgrade: OnceLock<CancellationToken>,
}

impl Activity {
    /// `requests`: those of the generations before.
    pub(super) fn new(
        state: Arc<SharedState>,
        farewell: Arc<CloseNotice>,
        requests: u64,
    ) -> Activity {
        Activity {
            state,
            requests: AtomicU64::new(requests),
            in_flight: AtomicU64::new(0),
            write_blocked: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            http2: AtomicBool::new(false),
            head_begun: AtomicBool::new(false),
            last: AtomicBool::new(false),
            farewell,
            refused_by: AtomicU64::new(0),
            upgrade: OnceLock::new(),
        }
    }

    /// Whether a request came yet.
    pub(super) fn has_requests(&self) -> bool {
        self.requests() > 0
    }

    /// The requests that came yet.
    pub(super) fn requests(&self) -> u64 {
        self.requests.load(Relaxed)
    }

    /// Whether a request is in flight, its response not yet with the kernel, or the end near.
    pub(super) fn is_busy(&self) -> bool {
        self.in_flight.load(Relaxed) > 0
            || self.write_blocked.load(Relaxed)
            || self.closing.load(Relaxed)
    }

    /// What it waits for.
    pub(super) fn waiting_for(&self) -> WaitingFor {
        match self.is_busy() {
            true => WaitingFor::Busy,
            // What comes between the frames of HTTP/2 is no request.
            false if self.is_http2() => WaitingFor::Request,
            false if self.has_requests() && !self.head_begun.load(Relaxed) => WaitingFor::Request,
            false => WaitingFor::Head,
        }
    }

    /// Bytes were read: of a head, if they are not a request's body.
    pub(super) fn read_some(&self) {
        if self.in_flight.load(Relaxed) == 0 {
            self.head_begun.store(true, Relaxed);
        }
    }

    /// Ends the connection with its next response.
    pub(super) fn end_with_next(&self) {
        self.last.store(true, Relaxed);
    }

    pub(super) fn begin_closing(&self) {
        self.closing.store(true, Relaxed);
    }

    pub(super) fn set_write_blocked(&self, blocked: bool) {
        self.write_blocked.store(blocked, Relaxed);
    }

    /// The preface of HTTP/2 was read.
    pub(super) fn set_http2(&self) {
        self.http2.store(true, Relaxed);
    }

    /// Whether the connection speaks HTTP/2.
    pub(super) fn is_http2(&self) -> bool {
        self.http2.load(Relaxed)
    }

    /// The peer is told that this connection ends because of the drain.
    pub(super) fn notify_closing(&self) {
        self.farewell.mark_sent();
    }

    /// Whether the peer was told.
    pub(super) fn was_notified(&self) -> bool {
        self.farewell.was_sent(false)
    }

    /// The successor of this number did not take the connection, or cannot.
    pub(super) fn handoff_failed(&self, successor: u64) {
        self.refused_by.store(successor, Relaxed);
    }

    pub(super) fn was_refused_by(&self, successor: u64) -> bool {
        self.refused_by.load(Relaxed) == successor
    }

    /// Whether the response under way is the last one of this worker on the connection. HTTP/2 says
    /// that in a frame of its own.
    fn is_last_response(&self) -> bool {
        let draining = || {
            self.state.is_draining()
                && self.state.passage.successor().is_none_or(|number| self.was_refused_by(number))
        };
        !self.is_http2() && (self.last.load(Relaxed) || draining())
    }

    /// Whether a request asks for an upgrade and waits to be let through.
    pub(super) fn upgrade_requested(&self) -> bool {
        self.upgrade.get().is_some_and(|upgrade| !upgrade.is_cancelled())
    }

    /// Lets the request through, and every later one.
    pub(super) fn allow_upgrade(&self) {
        if let Some(upgrade) = self.upgrade.get() {
            upgrade.cancel();
        }
    }
}

/// A request in flight: from its head to the end of its response's body.
struct InFlight(Arc<Activity>);

impl InFlight {
    fn begin(activity: &Arc<Activity>) -> InFlight {
        activity.requests.fetch_add(1, Relaxed);
        activity.in_flight.fetch_add(1, Relaxed);
        activity.head_begun.store(false, Relaxed);
        activity.state.counters.request_begun();
        failpoint::hit(Step::WorkerRequest, activity.state.generation);
        InFlight(Arc::clone(activity))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Relaxed);
        self.0.state.counters.request_ended();
    }
}

/// A service whose requests are counted, and whose responses end the connection when draining.
pub(super) struct ObservedService<S> {
    /// hyper gives a connection back only where its service can be moved.
    inner: Box<S>,
    peer: Peer,
    activity: Arc<Activity>,
}

impl<S> ObservedService<S> {
    pub(super) fn new(inner: S, peer: Peer, activity: Arc<Activity>) -> ObservedService<S> {
        ObservedService { inner: Box::new(inner), peer, activity }
    }

    pub(super) fn activity(&self) -> &Arc<Activity> {
        &self.activity
    }
}

impl<S, B> hyper::service::Service<Request<Incoming>> for ObservedService<S>
where
    S: hyper::service::Service<Request<Incoming>, Response = Response<B>>,
{
    type Response = Response<ObservedBody<B>>;
    type Error = S::Error;
    type Future = Pin<Box<ObservedFuture<S::Future>>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let in_flight = InFlight::begin(&self.activity);
        #[cfg(feature = "axum")]
        if let Some(addr) = self.peer.addr.tcp() {
            request.extensions_mut().insert(axum::extract::ConnectInfo(addr));
        }
        request.extensions_mut().insert(self.peer.clone());
        // hyper takes an upgrade only on a connection of HTTP/1 that it was told may have one.
        let upgrade = request.extensions().get::<hyper::upgrade::OnUpgrade>();
        let gate = upgrade.filter(|_| !self.activity.is_http2()).map(|_| {
            self.activity.upgrade.get_or_init(CancellationToken::new).clone().cancelled_owned()
        });
        let inner = self.inner.call(request);
        Box::pin(ObservedFuture { gate, inner, in_flight: Some(in_flight) })
    }
}

pin_project! {
    /// The response to come.
    pub(super) struct ObservedFuture<F> {
        #[pin]
        gate: Option<WaitForCancellationFutureOwned>,
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
        let mut this = self.project();
        if let Some(gate) = this.gate.as_mut().as_pin_mut() {
            ready!(gate.poll(cx));
            this.gate.set(None);
        }
        let mut response = ready!(this.inner.poll(cx))?;
        if let Some(InFlight(activity)) = this.in_flight {
            if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                activity.farewell.leave_to_program();
            } else if activity.is_last_response() {
                // hyper closes after a response that says so, and not before it is written.
                response
                    .headers_mut()
                    .insert(header::CONNECTION, HeaderValue::from_static("close"));
                activity.notify_closing();
            }
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
