//! HTTP/1.1 and HTTP/2 on a declared listener, handing off or ending connections without losing a request.
//!
//! At a restart every HTTP/1.1 connection without a request in flight is handed off to the serving
//! generation, together with the bytes already read of its next request. The client notices nothing.
//!
//! Connections that cannot be handed off are ended without losing a request. hyper's graceful shutdown cannot
//! do this: it closes a connection that has not sent its first byte, and it closes an idle connection even if
//! the next request arrives at that moment. A draining worker proceeds as follows instead:
//!
//! - It finishes a request in flight. The response has `Connection: close` if the connection cannot be handed
//!   off after it.
//! - It keeps an idle connection open for one more request, and answers that with `Connection: close`.
//! - It gives a connection that has not sent a request yet a grace period to do so.
//! - After the last response it closes its sending half and reads until the client closes, because closing
//!   with unread input would reset the connection and could destroy the response (RFC 9112 §9.6).
//!
//! With the feature `http2`, a connection that begins with the preface of HTTP/2 is served as HTTP/2
//! (RFC 9113 §3.4, "prior knowledge", as gRPC clients do without TLS). It is not handed off. When the drain
//! begins, the worker sends GOAWAY in two steps, which leaves no request unanswered that is already on its
//! way; open streams are finished, and the client opens a new connection.
//!
//! Connections still open at the drain deadline are closed by force.

mod builder;
mod connection;
#[cfg(feature = "http2")]
mod http2;
mod io;
#[cfg_attr(not(feature = "http2"), allow(dead_code))]
mod late_frames;
mod limit;
mod preface;
mod service;
mod timeouts;
mod until_draining;
mod upgraded;

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use tokio_util::task::TaskTracker;
use tower_service::Service;

pub use self::builder::Builder;
#[cfg(feature = "http2")]
pub use self::builder::Streams;
use self::connection::HttpConnection;
use self::limit::ConnectionLimit;
pub(crate) use self::limit::ConnectionPermit;
use self::service::Activity;
pub use self::until_draining::{UntilDraining, until_draining};
pub use self::upgraded::into_stream;
use super::handoff::{Handoff, HandoffHandler, HandoffTarget, Payload, PendingAck};
use crate::error::Result;
use crate::sys::clock::to_monotonic_ns;
use crate::worker::daemon::Daemon;
use crate::worker::net::{Addr, Stream};
use crate::worker::state::SharedState;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The peer of a request. [`Daemon::serve`] adds it as an extension to each request.
///
/// ```
/// # fn handler<B>(request: http::Request<B>) -> Option<String> {
/// let peer = request.extensions().get::<unbroken::http::Peer>()?;
/// Some(format!("{} by way of listener {}", peer.addr, peer.listener))
/// # }
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Peer {
    /// The address of the client.
    pub addr: Addr,
    /// The name of the listener that accepted it.
    pub listener: Arc<str>,
}

impl Daemon {
    /// Serves HTTP/1.1, and HTTP/2 with prior knowledge, on the declared listener `name` with any tower
    /// service: an `axum::Router`, the routes of a tonic server, a `tower::service_fn`.
    ///
    /// Returns when this worker drains and every connection of the listener has ended. Each request has a
    /// [`Peer`] extension, and with the feature `axum` also `axum::extract::ConnectInfo`. Upgraded
    /// connections, such as WebSockets, count as open until they are dropped; the program has to end them
    /// when [`Daemon::draining`] completes.
    ///
    /// When this returns, the service and all its clones have been dropped. If the future is dropped instead,
    /// they are dropped once the connections open at that time have ended.
    ///
    /// ```no_run
    /// use unbroken::{Daemon, daemon};
    ///
    /// #[daemon(graceful_restart, listen(http = "127.0.0.1:8080"))]
    /// async fn main(daemon: Daemon) -> Result<(), unbroken::Error> {
    ///     let app = axum::Router::new().route("/", axum::routing::get(|| async { "hello" }));
    ///     daemon.serve("http", app).await
    /// }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::Listen`](crate::ErrorKind::Listen) if no listener of this name is declared.
    pub async fn serve<S, B>(&self, name: &str, service: S) -> Result<()>
    where
        S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + Sync + 'static,
        S::Future: Send,
        S::Error: Into<BoxError>,
        B: http_body::Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<BoxError>,
    {
        self.serve_with(name, service, |_| ()).await
    }

    /// Same as [`Daemon::serve`], with options of hyper that have no configuration key.
    ///
    /// `configure` is called once, before the first connection. The builder it receives already has the
    /// values of the configuration, which `configure` may override.
    ///
    /// ```no_run
    /// # async fn run(daemon: unbroken::Daemon, app: axum::Router) -> unbroken::Result<()> {
    /// daemon
    ///     .serve_with("http", app, |http| {
    ///         http.http1().title_case_headers(true).max_headers(200);
    ///         http.http2().adaptive_window(true);
    ///     })
    ///     .await
    /// # }
    /// ```
    ///
    /// # Errors
    /// Same as [`Daemon::serve`].
    pub async fn serve_with<S, B>(
        &self,
        name: &str,
        service: S,
        configure: impl FnOnce(&mut Builder),
    ) -> Result<()>
    where
        S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + Sync + 'static,
        S::Future: Send,
        S::Error: Into<BoxError>,
        B: http_body::Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<BoxError>,
    {
        let mut listener = self.listener(name)?;
        let declared = self.state.configuration.settings.listen.get(name);
        let limits = declared.map(|it| it.http.clone()).unwrap_or_default();
        let connections = TaskTracker::new();
        let room = ConnectionLimit::new(limits.max_connections);
        let mut builder = Builder::new(
            limits,
            #[cfg(feature = "http2")]
            Streams::new(&connections, &self.state.own),
        );
        configure(&mut builder);
        let server = HttpServer {
            state: Arc::clone(&self.state),
            listener: name.into(),
            service,
            connections,
            builder: Arc::new(builder),
            room,
        };
        // The handler has a clone of the service. It is unregistered with this future because a program may
        // wait until everything that the service holds is dropped, such as the senders of a channel.
        let place = HandoffTarget::Listener(name.to_owned());
        let adoption = self.state.handoffs.register_while(place, server.clone().handoff_handler());
        loop {
            // At `max_connections`, further connections stay in the kernel's queue, for this worker or the
            // next generation.
            tokio::select! {
                () = server.room.wait() => {}
                () = listener.over() => {}
            }
            let Some((stream, addr)) = listener.next_good().await else { break };
            let served = server.accepted(stream, addr).run();
            server.connections.spawn(self.state.own.track_future(served));
        }
        // A draining worker accepts no handoffs.
        drop(adoption);
        server.connections.close();
        server.connections.wait().await;
        Ok(())
    }
}

/// The parts that all connections of one listener share.
#[derive(Clone)]
struct HttpServer<S> {
    state: Arc<SharedState>,
    listener: Arc<str>,
    service: S,
    /// The tasks that `serve` waits for: connections, and streams of HTTP/2.
    connections: TaskTracker,
    builder: Arc<Builder>,
    room: Arc<ConnectionLimit>,
}

impl<S, B> HttpServer<S>
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + Sync + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    B: http_body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    fn accepted(&self, stream: Stream, addr: Addr) -> HttpConnection<S> {
        if let Stream::Tcp(stream) = &stream {
            // Without TCP_NODELAY, Nagle's algorithm delays small responses (tcp(7)). It fails only on a dead
            // connection, whose first read reports the error.
            let _ = stream.set_nodelay(true);
        }
        let accepted = to_monotonic_ns(Instant::now());
        let connection = self.connection(stream, addr, 0);
        HttpConnection { accepted, since: accepted, ..connection }
    }

    /// Returns a connection with default times, for [`accepted`](Self::accepted) and
    /// [`handoff_handler`](Self::handoff_handler) to complete.
    fn connection(&self, stream: Stream, addr: Addr, requests: u64) -> HttpConnection<S> {
        stream.connection().occupy(self.room.acquire());
        let farewell = Arc::clone(stream.connection().close_notice());
        HttpConnection {
            activity: Arc::new(Activity::new(Arc::clone(&self.state), farewell, requests)),
            state: Arc::clone(&self.state),
            stream,
            bytes: Bytes::new(),
            peer: Peer { addr, listener: Arc::clone(&self.listener) },
            accepted: 0,
            since: 0,
            tcp_keepalive: Duration::ZERO,
            builder: Arc::clone(&self.builder),
            service: self.service.clone(),
        }
    }

    /// Returns the handler for connections that an older generation hands off to this listener.
    fn handoff_handler(self) -> HandoffHandler {
        Arc::new(move |handoff: Handoff<OwnedFd>, pending_ack: PendingAck| {
            // Taken before the check of the drain: otherwise `serve` could return between the check and the
            // spawn below.
            let waited_for = self.connections.token();
            if self.state.is_draining() {
                return;
            }
            let Handoff { contents, bytes, socket } = handoff;
            let Payload::Http { peer, path, accepted, requests, since, tcp_keepalive, .. } =
                contents
            else {
                return;
            };
            let stream = match Stream::from_stream(&self.state, socket, peer.is_some()) {
                Ok(stream) => stream,
                Err(error) => {
                    tracing::debug!(%error, "a connection stays with the older generation");
                    return;
                }
            };
            let addr = match peer {
                Some(peer) => Addr::Tcp(peer),
                None => Addr::Unix(path),
            };
            let connection = HttpConnection {
                bytes: bytes.into(),
                accepted,
                since,
                tcp_keepalive: Duration::from_nanos(tcp_keepalive),
                ..self.connection(stream, addr, requests)
            };
            let (connections, own) = (self.connections.clone(), self.state.own.clone());
            pending_ack.ack_then(move || {
                connection.stream.connection().mark_received();
                connections.spawn(own.track_future(connection.run()));
                drop(waited_for);
            });
        })
    }
}
