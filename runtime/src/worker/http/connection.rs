//! One HTTP connection, from accept to its end or to the next generation.

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

use super::builder::Builder;
use super::clock::{Clock, Overdue};
#[cfg(feature = "http2")]
use super::http2;
use super::io::{LingeringIo, join};
use super::service::{Activity, Observed};
use super::{BoxError, Peer};
use crate::worker::net::{Stream, is_exhaustion};
use crate::worker::passing::{Contents, MAX_BYTES, Parcel, Successor, Verdict};
use crate::worker::state::State;

/// How long a draining worker that cannot pass a connection waits for its first request.
const FIRST_REQUEST_GRACE: Duration = Duration::from_secs(5);

/// How long the last worker of a daemon that ends waits for the next request of an idle connection.
const LAST_GRACE: Duration = Duration::from_millis(500);

/// How often, and after what time each, a connection is passed again that found no descriptor left: one
/// is needed for a moment, and every connection that was passed leaves one.
const RETRIES: u32 = 50;
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// A connection and what is known of it.
pub(super) struct Connection<S> {
    pub(super) state: Arc<State>,
    pub(super) stream: Stream,
    /// Read already, by the generation that passed it.
    pub(super) bytes: Bytes,
    pub(super) peer: Peer,
    pub(super) accepted: u64,
    /// Since when it waits.
    pub(super) since: u64,
    pub(super) activity: Arc<Activity>,
    pub(super) builder: Arc<Builder>,
    pub(super) service: S,
}

/// How a round of serving ended.
enum Ended {
    Closed,
    /// Between two requests, and somebody else serves now.
    Idle(Stream, Bytes, Successor),
    /// It waited for longer than it may.
    Overdue(Stream, Bytes),
    /// It speaks HTTP/2; these bytes are its beginning.
    #[cfg(feature = "http2")]
    Http2(Stream, Bytes),
}

impl<S, B> Connection<S>
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    B: http_body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    /// Serves it to its end, or until the next generation has it.
    pub(super) async fn run(self) {
        let Connection { state, mut stream, mut bytes, peer, accepted, since, .. } = self;
        let Connection { activity, builder, service, .. } = self;
        if let Stream::Tcp(stream) = &stream {
            // Responses are written whole; waiting for more to send only adds latency (tcp(7)). A
            // connection on which it fails is dead, which the first read tells.
            let _ = stream.set_nodelay(true);
            keep_alive(stream, builder.limits.tcp_keepalive);
        }
        if !bytes.is_empty() {
            activity.read_some();
        }
        let seen = (activity.waiting(), activity.requests());
        let mut clock = Clock::new(&builder.limits, accepted, since, seen);
        let mut retries = RETRIES;
        let observed = || {
            let service = TowerToHyperService::new(service.clone());
            Observed::new(service, peer.clone(), Arc::clone(&activity))
        };
        loop {
            let ended = serve(&state, stream, bytes, observed(), &builder.http1, &mut clock);
            let (idle, read, successor) = match ended.await {
                Ended::Closed => return,
                Ended::Idle(stream, bytes, successor) => (stream, bytes, successor),
                Ended::Overdue(idle, read) if read.is_empty() && idle.has_input() => {
                    // In this very moment: it is answered, and told that it ends.
                    activity.end_with_next();
                    clock.restart();
                    (stream, bytes) = (idle, read);
                    continue;
                }
                Ended::Overdue(stream, bytes) => return close(stream, bytes, activity).await,
                #[cfg(feature = "http2")]
                Ended::Http2(stream, bytes) => {
                    let (service, builder) = (observed(), &builder.http2);
                    let ended = http2::serve(&state, stream, bytes, service, builder, &mut clock);
                    return report(ended.await);
                }
            };
            let socket = match idle.duplicate() {
                Ok(socket) if read.len() <= MAX_BYTES => socket,
                Err(error) if is_exhaustion(&error) && retries > 0 => {
                    retries -= 1;
                    tokio::time::sleep(RETRY_PAUSE).await;
                    (stream, bytes) = (idle, read);
                    continue;
                }
                _ => {
                    activity.passing_failed(successor.number);
                    (stream, bytes) = (idle, read);
                    continue;
                }
            };
            let contents = Contents::Http {
                listener: peer.listener.to_string(),
                peer: peer.addr.tcp(),
                path: peer.addr.path().cloned(),
                accepted,
                requests: activity.requests(),
                since: clock.since(),
            };
            let parcel = Parcel { contents, bytes: read.to_vec(), socket };
            match successor.pass(parcel).await {
                Verdict::Taken => {
                    idle.connection().passed();
                    return;
                }
                Verdict::Unknown => {
                    idle.connection().lost();
                    return;
                }
                // It goes on here: with the next successor, or under the rules of the drain.
                Verdict::Refused | Verdict::Gone => activity.passing_failed(successor.number),
            }
            (stream, bytes) = (idle, read);
        }
    }
}

/// Lets TCP ask a client that is silent for so long whether it is there, four times in as long again.
fn keep_alive(stream: &tokio::net::TcpStream, idle: Duration) {
    if idle.is_zero() {
        return;
    }
    // What the kernel takes, in seconds (tcp(7)).
    let within = |time: Duration| time.clamp(Duration::from_secs(1), Duration::from_secs(32_767));
    let keepalive = TcpKeepalive::new().with_time(within(idle)).with_interval(within(idle / 4));
    // As above: one on which it fails is dead.
    let _ = SockRef::from(stream).set_tcp_keepalive(&keepalive.with_retries(4));
}

/// Closes a connection whose client took too long.
async fn close(stream: Stream, bytes: Bytes, activity: Arc<Activity>) {
    activity.tell_to_go();
    let mut io = LingeringIo::new(stream, bytes, activity);
    // One that is gone already needs no goodbye.
    let _ = io.shutdown().await;
}

/// Serves until the connection ends, can be passed, or waited for too long.
async fn serve<S, B>(
    state: &Arc<State>,
    stream: Stream,
    bytes: Bytes,
    service: Observed<S>,
    builder: &http1::Builder,
    clock: &mut Clock,
) -> Ended
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
    let mut may_leave = std::pin::pin!(may_leave(state, &activity));
    let mut leaving = None;
    let mut patience = std::pin::pin!(patience(state, &activity));
    let (mut impatient, mut told, mut registered) = (false, false, false);
    let round = poll_fn(|cx| {
        if let Poll::Ready(result) = std::pin::Pin::new(&mut connection).poll(cx) {
            return Poll::Ready(Round::Closed(result));
        }
        if activity.upgrade_wanted() {
            return Poll::Ready(Round::Upgrade);
        }
        #[cfg(feature = "http2")]
        if activity.is_http2() {
            return Poll::Ready(Round::Http2);
        }
        while let Poll::Ready(overdue) = clock.poll(cx, activity.waiting(), activity.requests()) {
            if overdue == Overdue::Age {
                activity.end_with_next();
                continue;
            }
            if activity.used() {
                // As below. What is left behind a response is nothing but a body that nobody reads.
                activity.tell_to_go();
                std::pin::Pin::new(&mut connection).graceful_shutdown();
                match connection.poll_without_shutdown(cx) {
                    Poll::Ready(Err(error)) => return Poll::Ready(Round::Closed(Err(error))),
                    Poll::Ready(Ok(())) => {}
                    Poll::Pending => return Poll::Ready(Round::Closed(Ok(()))),
                }
            }
            return Poll::Ready(Round::Overdue);
        }
        // Polled once, they wake this task when the drain begins; until then there is nothing to see.
        if registered && !state.is_draining() {
            return Poll::Pending;
        }
        registered = true;
        if leaving.is_none()
            && let Poll::Ready(successor) = may_leave.as_mut().poll(cx)
        {
            leaving = Some(successor);
        }
        if let Some(successor) = &leaving
            && !activity.busy()
        {
            if !activity.used() {
                // Nothing was begun, so that there is nothing hyper could lose.
                return Poll::Ready(Round::Leave(successor.clone()));
            }
            // hyper closes at once if it is between two requests, and after the request otherwise,
            // which is what it must do for one whose body was not read.
            std::pin::Pin::new(&mut connection).graceful_shutdown();
            return match connection.poll_without_shutdown(cx) {
                Poll::Ready(Ok(())) => Poll::Ready(Round::Leave(successor.clone())),
                Poll::Ready(Err(error)) => Poll::Ready(Round::Closed(Err(error))),
                Poll::Pending => {
                    activity.passing_failed(successor.number);
                    leaving = None;
                    Poll::Pending
                }
            };
        }
        impatient = impatient || patience.as_mut().poll(cx).is_ready();
        if impatient && !told && !activity.busy() && (state.is_last() || !activity.used()) {
            told = true;
            activity.tell_to_go();
            std::pin::Pin::new(&mut connection).graceful_shutdown();
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    })
    .await;
    let result = match round {
        Round::Leave(successor) => {
            let parts = connection.into_parts();
            let (stream, unread) = parts.io.into_inner().into_parts();
            return Ended::Idle(stream, join(parts.read_buf, unread), successor);
        }
        Round::Overdue => {
            let parts = connection.into_parts();
            let (stream, unread) = parts.io.into_inner().into_parts();
            return Ended::Overdue(stream, join(parts.read_buf, unread));
        }
        #[cfg(feature = "http2")]
        Round::Http2 => {
            // The preface was held back from hyper, so that its own buffer is empty.
            let (stream, bytes) = connection.into_parts().io.into_inner().into_parts();
            return Ended::Http2(stream, bytes);
        }
        Round::Upgrade => {
            let connection = connection.with_upgrades();
            activity.may_upgrade();
            connection.await
        }
        Round::Closed(result) => result,
    };
    report(result);
    Ended::Closed
}

/// A connection that failed is its client's affair.
fn report(ended: hyper::Result<()>) {
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended with an error");
    }
}

enum Round {
    Closed(hyper::Result<()>),
    /// The program is to answer a request for an upgrade, which hyper allows in another state only.
    Upgrade,
    #[cfg(feature = "http2")]
    Http2,
    Leave(Successor),
    Overdue,
}

/// Completes when the worker drains and a generation is there that this connection was not yet refused
/// by.
async fn may_leave(state: &Arc<State>, activity: &Activity) -> Successor {
    state.draining.cancelled().await;
    let mut successors = state.passage.successors();
    loop {
        if let Some(successor) = &*successors.borrow_and_update()
            && !activity.was_refused_by(successor.number)
        {
            return successor.clone();
        }
        if successors.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Completes when a draining worker has waited long enough for the next request of a connection that it
/// cannot pass.
async fn patience(state: &State, activity: &Activity) {
    state.draining.cancelled().await;
    if state.is_last() {
        tokio::time::sleep(LAST_GRACE).await;
    } else if !activity.used() {
        tokio::time::sleep(FIRST_REQUEST_GRACE).await;
    } else {
        // It may come as late as the drain deadline, and is answered then.
        std::future::pending::<()>().await;
    }
}
