//! A connection of HTTP/2, from its preface to its end.
//!
//! Its state cannot travel, so it is never passed. A worker that drains says so at once, by a GOAWAY
//! that names no last stream, and answers what reaches it until the client has acknowledged a ping
//! behind that; the GOAWAY that follows names the last stream that was taken (RFC 9113 §6.8). Clients
//! open new streams on a new connection, and the old one ends with its last stream. One that was idle for
//! too long, or is too old, is ended in the same way.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Poll, ready};

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper_util::rt::TokioIo;
use tokio::time::{Sleep, sleep};

use super::BoxError;
use super::builder::Streams;
use super::io::{LINGER, LingeringIo};
use super::service::ObservedService;
use super::timeouts::Timeouts;
use crate::worker::net::Stream;
use crate::worker::state::SharedState;

/// Serves a connection to its end. `bytes`: the preface, and what came with it.
pub(super) async fn serve<S, B>(
    state: &SharedState,
    stream: Stream,
    bytes: Bytes,
    service: ObservedService<S>,
    builder: &http2::Builder<Streams>,
    clock: &mut Timeouts,
) -> hyper::Result<()>
where
    S: hyper::service::Service<Request<Incoming>, Response = Response<B>> + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: http_body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    let activity = Arc::clone(service.activity());
    let io = TokioIo::new(LingeringIo::http2(stream, bytes, Arc::clone(&activity)));
    let mut connection = pin!(builder.serve_connection(io, service));
    let mut draining = pin!(state.draining.cancelled());
    let (mut registered, mut told) = (false, false);
    // Of a client that was told because of a limit, and has no stream left.
    let mut patience: Option<Pin<Box<Sleep>>> = None;
    poll_fn(|cx| {
        loop {
            if let Poll::Ready(result) = connection.as_mut().poll(cx) {
                return Poll::Ready(result);
            }
            if let Some(left) = patience.as_mut() {
                ready!(left.as_mut().poll(cx));
                if !activity.is_busy() {
                    // It does not answer.
                    return Poll::Ready(Ok(()));
                }
                patience = Some(Box::pin(sleep(LINGER)));
                continue;
            }
            if told {
                return Poll::Pending;
            }
            if clock.poll(cx, activity.waiting_for(), activity.requests()).is_ready() {
                patience = Some(Box::pin(sleep(LINGER)));
            } else {
                // Polled once, it wakes this task when the drain begins.
                if registered && !state.is_draining() {
                    return Poll::Pending;
                }
                registered = true;
                ready!(draining.as_mut().poll(cx));
            }
            told = true;
            activity.notify_closing();
            connection.as_mut().graceful_shutdown();
        }
    })
    .await
}
