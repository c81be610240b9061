//! A connection of HTTP/2, from its preface to its end.
//!
//! Its state cannot travel, so it is never passed. A worker that drains says so at once, by a GOAWAY
//! that names no last stream, and answers what reaches it until the client has acknowledged a ping
//! behind that; the GOAWAY that follows names the last stream that was taken (RFC 9113 §6.8). Clients
//! open new streams on a new connection, and the old one ends with its last stream.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper_util::rt::TokioIo;
use tokio_util::task::TaskTracker;

use super::BoxError;
use super::io::LingeringIo;
use super::service::Observed;
use crate::worker::net::Stream;
use crate::worker::state::State;

/// Where the streams of a connection run: among the tasks that a drain waits for, and among our own.
#[derive(Clone)]
struct Streams {
    tasks: TaskTracker,
    own: TaskTracker,
}

impl<F> Executor<F> for Streams
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, stream: F) {
        self.tasks.spawn(self.own.track_future(stream));
    }
}

/// Serves a connection to its end. `bytes`: the preface, and what came with it.
pub(super) async fn serve<S, B>(
    state: &State,
    stream: Stream,
    bytes: Bytes,
    service: Observed<S>,
    tasks: TaskTracker,
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
    let streams = Streams { tasks, own: state.own.clone() };
    let mut connection = pin!(http2::Builder::new(streams).serve_connection(io, service));
    let mut draining = pin!(state.draining.cancelled());
    let (mut registered, mut told) = (false, false);
    poll_fn(|cx| {
        loop {
            if let Poll::Ready(result) = connection.as_mut().poll(cx) {
                return Poll::Ready(result);
            }
            // Polled once, it wakes this task when the drain begins.
            if told || registered && !state.is_draining() {
                return Poll::Pending;
            }
            registered = true;
            if draining.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            told = true;
            activity.tell_to_go();
            connection.as_mut().graceful_shutdown();
        }
    })
    .await
}
