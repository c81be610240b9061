//! A connection of HTTP/2, from its preface to its end.
//!
//! Its state lives in h2, so it is never handed off. A draining worker sends a GOAWAY that does not limit the
//! last stream, followed by a ping, and answers all streams that arrive until the client has acknowledged the
//! ping. The second GOAWAY names the last stream that is served (RFC 9113 §6.8). Clients open further streams
//! on a new connection, and this one ends with its last stream. A connection that was idle for too long or is
//! too old is ended in the same way.

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

/// Serves a connection until it ends. `bytes`: the preface, and what was read with it.
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
    let (mut registered, mut closing) = (false, false);
    // Runs after a GOAWAY because of a time limit: if the client does not answer the ping and no stream is
    // open by then, the connection is dropped.
    let mut patience: Option<Pin<Box<Sleep>>> = None;
    poll_fn(|cx| {
        loop {
            if let Poll::Ready(result) = connection.as_mut().poll(cx) {
                return Poll::Ready(result);
            }
            if let Some(left) = patience.as_mut() {
                ready!(left.as_mut().poll(cx));
                if !activity.is_busy() {
                    // The client has not answered the ping.
                    return Poll::Ready(Ok(()));
                }
                patience = Some(Box::pin(sleep(LINGER)));
                continue;
            }
            if closing {
                return Poll::Pending;
            }
            if clock.poll(cx, activity.waiting_for(), activity.requests()).is_ready() {
                patience = Some(Box::pin(sleep(LINGER)));
            } else {
                // `draining` has to be polled once: it then wakes this task when the drain begins.
                if registered && !state.is_draining() {
                    return Poll::Pending;
                }
                registered = true;
                ready!(draining.as_mut().poll(cx));
            }
            closing = true;
            activity.notify_closing();
            connection.as_mut().graceful_shutdown();
        }
    })
    .await
}
