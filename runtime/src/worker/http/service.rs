//! The service around the program's own: it counts requests, and in a draining worker it adds
//! `Connection: close` to the last response of a connection.
//!
//! [`Activity`] is what the connection's task, its stream and its service share about the connection.
//! [`InFlight`] marks a request from its head to the end of the response body.

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

/// The state of one connection, kept through all rounds of serving it.
pub(super) struct Activity {
    state: Arc<SharedState>,
    /// Requests received, including those in earlier generations.
    requests: AtomicU64,
    in_flight: AtomicU64,
    /// The last write is pending because the socket's send buffer is full.
    write_blocked: AtomicBool,
    /// Either side has begun to close.
    closing: AtomicBool,
    /// The connection began with the preface of HTTP/2.
    http2: AtomicBool,
    /// A part of the next request's head was read.
    head_begun: AtomicBool,
    /// The next response gets `Connection: close`.
    last: AtomicBool,
    farewell: Arc<CloseNotice>,
    /// The number of the successor that last failed to take the connection; 0 for none.
    refused_by: AtomicU64,
    /// Set by a request that asks for an upgrade; cancelled when hyper is ready for upgrades.
    upgrade: OnceLock<CancellationToken>,
}

impl Activity {
    /// `requests`: the number of requests in earlier generations.
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

    /// Returns whether the client has sent a request yet.
    pub(super) fn has_requests(&self) -> bool {
        self.requests() > 0
    }

    /// Returns the number of requests that the client has sent.
    pub(super) fn requests(&self) -> u64 {
        self.requests.load(Relaxed)
    }

    /// Returns whether a request is in flight, a part of a response is not written yet, or either side has
    /// begun to close. A busy connection is neither handed off nor timed out.
    pub(super) fn is_busy(&self) -> bool {
        self.in_flight.load(Relaxed) > 0
            || self.write_blocked.load(Relaxed)
            || self.closing.load(Relaxed)
    }

    /// Returns what the connection waits for.
    pub(super) fn waiting_for(&self) -> WaitingFor {
        match self.is_busy() {
            true => WaitingFor::Busy,
            // With HTTP/2, bytes are frames, so reading some does not mean that a head has begun.
            false if self.is_http2() => WaitingFor::Request,
            false if self.has_requests() && !self.head_begun.load(Relaxed) => WaitingFor::Request,
            false => WaitingFor::Head,
        }
    }

    /// Notes that bytes were read. Without a request in flight they belong to the head of the next one.
    pub(super) fn read_some(&self) {
        if self.in_flight.load(Relaxed) == 0 {
            self.head_begun.store(true, Relaxed);
        }
    }

    /// Adds `Connection: close` to the next response.
    pub(super) fn end_with_next(&self) {
        self.last.store(true, Relaxed);
    }

    pub(super) fn begin_closing(&self) {
        self.closing.store(true, Relaxed);
    }

    pub(super) fn set_write_blocked(&self, blocked: bool) {
        self.write_blocked.store(blocked, Relaxed);
    }

    /// Notes that the preface of HTTP/2 was read.
    pub(super) fn set_http2(&self) {
        self.http2.store(true, Relaxed);
    }

    /// Returns whether the connection speaks HTTP/2.
    pub(super) fn is_http2(&self) -> bool {
        self.http2.load(Relaxed)
    }

    /// Notes for the ledger that this worker asks the peer to close, or closes the connection.
    pub(super) fn notify_closing(&self) {
        self.farewell.mark_sent();
    }

    /// Returns whether the peer was asked to close.
    pub(super) fn was_notified(&self) -> bool {
        self.farewell.was_sent(false)
    }

    /// Notes that the successor of this number did not take the connection: it is not offered to it again.
    pub(super) fn handoff_failed(&self, successor: u64) {
        self.refused_by.store(successor, Relaxed);
    }

    pub(super) fn was_refused_by(&self, successor: u64) -> bool {
        self.refused_by.load(Relaxed) == successor
    }

    /// Returns whether the next response of this worker gets `Connection: close`: always after
    /// [`end_with_next`](Activity::end_with_next), and in a drain if no successor can take the connection.
    /// Never with HTTP/2, which has GOAWAY for this.
    fn is_last_response(&self) -> bool {
        let draining = || {
            self.state.is_draining()
                && self.state.handoffs.successor().is_none_or(|number| self.was_refused_by(number))
        };
        !self.is_http2() && (self.last.load(Relaxed) || draining())
    }

    /// Returns whether a request asks for an upgrade and waits for
    /// [`allow_upgrade`](Activity::allow_upgrade).
    pub(super) fn upgrade_requested(&self) -> bool {
        self.upgrade.get().is_some_and(|upgrade| !upgrade.is_cancelled())
    }

    /// Lets the waiting request reach the program, and every later one that asks for an upgrade.
    pub(super) fn allow_upgrade(&self) {
        if let Some(upgrade) = self.upgrade.get() {
            upgrade.cancel();
        }
    }
}

/// A request in flight, from its head until the body of its response is dropped.
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

/// A service that counts requests and, when draining, ends the connection with its last response.
pub(super) struct ObservedService<S> {
    /// Boxed because hyper's `poll_without_shutdown`, which a handoff needs, requires an `Unpin` service.
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
        // With HTTP/1, hyper performs an upgrade only after `with_upgrades`, and a connection in that mode
        // cannot be handed off. The request therefore waits until the connection's task has switched modes.
        let upgrade = request.extensions().get::<hyper::upgrade::OnUpgrade>();
        let gate = upgrade.filter(|_| !self.activity.is_http2()).map(|_| {
            self.activity.upgrade.get_or_init(CancellationToken::new).clone().cancelled_owned()
        });
        let inner = self.inner.call(request);
        Box::pin(ObservedFuture { gate, inner, in_flight: Some(in_flight) })
    }
}

pin_project! {
    /// The future of a response.
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
                // hyper closes the connection after such a response is written.
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
    /// The body of a response. Its request counts as in flight until this is dropped.
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
