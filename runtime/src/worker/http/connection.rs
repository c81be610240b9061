//! One HTTP connection, from accept or handoff until it ends or is handed off.
//!
//! [`HttpConnection::run`] serves it in rounds. A round ([`serve`]) drives hyper until the connection ends,
//! can be handed off, exceeds a time limit, or turns out to be HTTP/2. If a handoff fails, the next round
//! continues with the same stream and the bytes that were read.

use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::AsyncWriteExt;
use tower_service::Service;
use unbroken_core::nanos;

use super::builder::Builder;
#[cfg(feature = "http2")]
use super::http2;
use super::io::{LingeringIo, join};
use super::service::{Activity, ObservedService};
use super::timeouts::{ExceededLimit, Timeouts};
use super::{BoxError, Peer};
use crate::worker::handoff::{
    Handoff, HandoffOutcome, HandoffSocket, MAX_BYTES, Payload, QueueSlot, RETRIES, RETRY_DELAY,
};
use crate::worker::net::Stream;
use crate::worker::state::SharedState;

/// How long a draining worker waits for the first request of a connection that it cannot hand off.
/// Its client may have sent it already; a longer time delays the end of the drain.
const FIRST_REQUEST_GRACE: Duration = Duration::from_secs(5);

/// How long the last worker of a daemon that stops waits for the next request of an idle
/// connection, which may be under way. It delays each stop.
const LAST_GRACE: Duration = Duration::from_millis(500);

/// A connection with its times and its service.
pub(super) struct HttpConnection<S> {
    pub(super) state: Arc<SharedState>,
    pub(super) stream: Stream,
    /// Bytes of the next request that the older generation has read.
    pub(super) bytes: Bytes,
    pub(super) peer: Peer,
    /// When it was accepted, in nanoseconds of `CLOCK_MONOTONIC`.
    pub(super) accepted: u64,
    /// When it began to wait for a request, in nanoseconds of `CLOCK_MONOTONIC`.
    pub(super) since: u64,
    /// The keepalive time that is set on the socket; zero means none.
    pub(super) tcp_keepalive: Duration,
    pub(super) activity: Arc<Activity>,
    pub(super) builder: Arc<Builder>,
    pub(super) service: S,
}

/// The outcome of a round of serving. Bytes are those that were read and not used.
enum ServeResult {
    /// The connection has ended.
    Closed,
    /// It is idle and can be handed off by this slot.
    Idle(Stream, Bytes, QueueSlot),
    /// It exceeded a limit of [`Timeouts`].
    Overdue(Stream, Bytes),
    /// It speaks HTTP/2; the bytes begin with the preface.
    #[cfg(feature = "http2")]
    Http2(Stream, Bytes),
}

impl<S, B> HttpConnection<S>
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    B: http_body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    /// Serves the connection until it ends or the next generation owns it.
    pub(super) async fn run(self) {
        let HttpConnection { state, mut stream, mut bytes, peer, accepted, since, .. } = self;
        let HttpConnection { activity, builder, service, .. } = self;
        let tcp_keepalive = builder.limits.tcp_keepalive;
        if let Stream::Tcp(stream) = &stream
            && self.tcp_keepalive != tcp_keepalive
        {
            keep_alive(stream, tcp_keepalive);
        }
        if !bytes.is_empty() {
            activity.read_some();
        }
        let seen = (activity.waiting_for(), activity.requests());
        let mut clock = Timeouts::new(&builder.limits, accepted, since, seen);
        let mut retries = RETRIES;
        let observed = || {
            let service = TowerToHyperService::new(service.clone());
            ObservedService::new(service, peer.clone(), Arc::clone(&activity))
        };
        loop {
            let ended = serve(&state, stream, bytes, observed(), &builder.http1, &mut clock);
            let (idle, read, slot) = match ended.await {
                ServeResult::Closed => return,
                ServeResult::Idle(stream, bytes, slot) => (stream, bytes, slot),
                ServeResult::Overdue(idle, read) if read.is_empty() && idle.has_input() => {
                    // A request arrived at the very moment of the timeout: it is answered, with
                    // `Connection: close`.
                    activity.end_with_next();
                    clock.restart();
                    (stream, bytes) = (idle, read);
                    continue;
                }
                ServeResult::Overdue(stream, bytes) => return close(stream, bytes, activity).await,
                #[cfg(feature = "http2")]
                ServeResult::Http2(stream, bytes) => {
                    let (service, builder) = (observed(), &builder.http2);
                    let ended = http2::serve(&state, stream, bytes, service, builder, &mut clock);
                    return report(ended.await);
                }
            };
            let successor = slot.successor;
            if read.len() > MAX_BYTES {
                activity.handoff_failed(successor);
                (stream, bytes) = (idle, read);
                continue;
            }
            let contents = Payload::Http {
                listener: peer.listener.to_string(),
                peer: peer.addr.tcp(),
                path: peer.addr.path().cloned(),
                accepted,
                requests: activity.requests(),
                since: clock.since(),
                tcp_keepalive: nanos(tcp_keepalive),
            };
            let socket = HandoffSocket::Stream(idle);
            let handoff = Handoff { contents, bytes: read.into(), socket };
            // The connection is not touched until it comes back with the outcome. `None` means that the
            // runtime shuts down.
            let Some((outcome, handoff)) = slot.hand_off(handoff).await else { return };
            let Handoff { bytes: read, socket: HandoffSocket::Stream(idle), .. } = handoff else {
                return;
            };
            match outcome {
                HandoffOutcome::Taken | HandoffOutcome::Unknown => return,
                HandoffOutcome::Later if retries > 0 => {
                    retries -= 1;
                    tokio::time::sleep(RETRY_DELAY).await;
                }
                // This worker keeps the connection: it offers it to the next successor, or ends it as in a
                // drain without one.
                HandoffOutcome::Refused | HandoffOutcome::Gone | HandoffOutcome::Later => {
                    activity.handoff_failed(successor);
                }
            }
            (stream, bytes) = (idle, read.into());
        }
    }
}

/// Sets TCP keepalive: after `idle` without data, four probes within the same time again, then the connection
/// fails. Zero turns keepalive off.
fn keep_alive(stream: &tokio::net::TcpStream, idle: Duration) {
    let socket = SockRef::from(stream);
    if idle.is_zero() {
        // Fails only on a dead connection, whose first read reports the error.
        let _ = socket.set_keepalive(false);
        return;
    }
    // The kernel accepts 1 to 32767 seconds (tcp(7)).
    let within = |time: Duration| time.clamp(Duration::from_secs(1), Duration::from_secs(32_767));
    let keepalive = TcpKeepalive::new().with_time(within(idle)).with_interval(within(idle / 4));
    let _ = socket.set_tcp_keepalive(&keepalive.with_retries(4));
}

/// Closes a connection that exceeded a time limit.
async fn close(stream: Stream, bytes: Bytes, activity: Arc<Activity>) {
    activity.notify_closing();
    let mut io = LingeringIo::new(stream, bytes, activity);
    // Fails if the client is already gone, which is as good as closed.
    let _ = io.shutdown().await;
}

/// Runs one round: serves until the connection ends, can be handed off, or exceeds a time limit.
async fn serve<S, B>(
    state: &Arc<SharedState>,
    stream: Stream,
    bytes: Bytes,
    service: ObservedService<S>,
    builder: &http1::Builder,
    clock: &mut Timeouts,
) -> ServeResult
where
    S: hyper::service::Service<Request<Incoming>, Response = Response<B>> + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: http_body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    let activity = Arc::clone(service.activity());
    let io = TokioIo::new(LingeringIo::new(stream, bytes, Arc::clone(&activity)));
    let mut connection = builder.serve_connection(io, service);
    let mut leave = std::pin::pin!(handoff_slot(state, &activity));
    let mut waits = false;
    let mut patience = std::pin::pin!(drain_idle_timeout(state, &activity));
    let (mut impatient, mut closing, mut registered) = (false, false, false);
    let round = poll_fn(|cx| {
        if let Poll::Ready(result) = std::pin::Pin::new(&mut connection).poll(cx) {
            return Poll::Ready(RoundEnd::Closed(result));
        }
        if activity.upgrade_requested() {
            return Poll::Ready(RoundEnd::Upgrade);
        }
        #[cfg(feature = "http2")]
        if activity.is_http2() {
            return Poll::Ready(RoundEnd::Http2);
        }
        while let Poll::Ready(overdue) = clock.poll(cx, activity.waiting_for(), activity.requests())
        {
            if overdue == ExceededLimit::Age {
                activity.end_with_next();
                continue;
            }
            if activity.has_requests() {
                // As below for a handoff. `Pending` means that hyper still discards the body of a request
                // that was answered before its body was read: the connection is closed without waiting.
                activity.notify_closing();
                std::pin::Pin::new(&mut connection).graceful_shutdown();
                match connection.poll_without_shutdown(cx) {
                    Poll::Ready(Err(error)) => return Poll::Ready(RoundEnd::Closed(Err(error))),
                    Poll::Ready(Ok(())) => {}
                    Poll::Pending => return Poll::Ready(RoundEnd::Closed(Ok(()))),
                }
            }
            return Poll::Ready(RoundEnd::Overdue);
        }
        // `leave` and `patience` have to be polled once: they then wake this task when the drain begins.
        // Until then polling them again has no use.
        if registered && !state.is_draining() {
            return Poll::Pending;
        }
        registered = true;
        // A busy connection does not begin to wait for a place in the queue. If it already waits, it must
        // keep polling: a place that is reserved for it and not taken would block the others. It drops the
        // place.
        if waits || !activity.is_busy() {
            waits = true;
            if let Poll::Ready(slot) = leave.as_mut().poll(cx) {
                waits = false;
                leave.set(handoff_slot(state, &activity));
                if !activity.is_busy() {
                    if !activity.has_requests() {
                        // No request has begun, so hyper holds nothing that could be lost.
                        return Poll::Ready(RoundEnd::Leave(slot));
                    }
                    // Between two requests hyper ends at once. Otherwise, when the body of the last request
                    // has not been read, it goes on until that is done and then closes the connection.
                    std::pin::Pin::new(&mut connection).graceful_shutdown();
                    return match connection.poll_without_shutdown(cx) {
                        Poll::Ready(Ok(())) => Poll::Ready(RoundEnd::Leave(slot)),
                        Poll::Ready(Err(error)) => Poll::Ready(RoundEnd::Closed(Err(error))),
                        Poll::Pending => {
                            activity.handoff_failed(slot.successor);
                            Poll::Pending
                        }
                    };
                }
            }
        }
        impatient = impatient || patience.as_mut().poll(cx).is_ready();
        if impatient
            && !closing
            && !activity.is_busy()
            && (state.is_last() || !activity.has_requests())
        {
            closing = true;
            activity.notify_closing();
            std::pin::Pin::new(&mut connection).graceful_shutdown();
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    })
    .await;
    let result = match round {
        RoundEnd::Leave(slot) => {
            let parts = connection.into_parts();
            let (stream, unread) = parts.io.into_inner().into_parts();
            return ServeResult::Idle(stream, join(parts.read_buf, unread), slot);
        }
        RoundEnd::Overdue => {
            let parts = connection.into_parts();
            let (stream, unread) = parts.io.into_inner().into_parts();
            return ServeResult::Overdue(stream, join(parts.read_buf, unread));
        }
        #[cfg(feature = "http2")]
        RoundEnd::Http2 => {
            // `LingeringIo` kept the preface from hyper, whose own buffer is therefore empty.
            let (stream, bytes) = connection.into_parts().io.into_inner().into_parts();
            return ServeResult::Http2(stream, bytes);
        }
        RoundEnd::Upgrade => {
            let connection = connection.with_upgrades();
            activity.allow_upgrade();
            connection.await
        }
        RoundEnd::Closed(result) => result,
    };
    report(result);
    ServeResult::Closed
}

/// Logs the error of a connection, at debug level because most are caused by clients.
fn report(ended: hyper::Result<()>) {
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended with an error");
    }
}

/// Why a round ends, while hyper still holds the connection.
enum RoundEnd {
    /// hyper has closed the connection.
    Closed(hyper::Result<()>),
    /// A request asks for an upgrade, which hyper allows only after `with_upgrades`.
    Upgrade,
    /// The client sent the preface of HTTP/2.
    #[cfg(feature = "http2")]
    Http2,
    /// The connection can be handed off by this slot.
    Leave(QueueSlot),
    /// The connection exceeded a time limit.
    Overdue,
}

/// Completes when the worker drains and there is a place in the queue of a successor that has not refused
/// this connection.
async fn handoff_slot(state: &Arc<SharedState>, activity: &Activity) -> QueueSlot {
    state.draining.cancelled().await;
    let mut successors = state.handoffs.successors();
    loop {
        let successor = successors.borrow_and_update().clone();
        if let Some(successor) = successor.filter(|it| !activity.was_refused_by(it.number)) {
            match successor.slot().await {
                Some(slot) => return slot,
                None => activity.handoff_failed(successor.number),
            }
        }
        if successors.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Completes when a draining worker has waited long enough for the next request of a connection that it
/// cannot hand off.
async fn drain_idle_timeout(state: &SharedState, activity: &Activity) {
    state.draining.cancelled().await;
    if state.is_last() {
        tokio::time::sleep(LAST_GRACE).await;
    } else if !activity.has_requests() {
        tokio::time::sleep(FIRST_REQUEST_GRACE).await;
    } else {
        // The next request is answered even if it arrives just before the drain deadline.
        std::future::pending::<()>().await;
    }
}
