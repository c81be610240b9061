//! HTTP/1.1 and HTTP/2 on a declared listener, ending connections so that no request is lost.
//!
//! At a restart every connection without a request in flight is passed to the generation that serves
//! now, with the bytes that were read of its next request. The client sees nothing. What cannot be passed is ended so that nothing is lost.
//!
//! hyper's own graceful shutdown closes a connection that has not sent a byte yet, and one that is idle
//! in the very moment the next request arrives. So a draining worker does not use it. Instead
//!
//! - a request in flight is finished, and its response says `Connection: close` where the connection
//!   cannot be passed after it;
//! - an idle connection stays open for one more request, which is answered like that;
//! - one that never sent a request gets a grace to do so;
//! - after the last response this side closes its half and reads on until the client is done, as
//!   closing with unread input would reset the connection and take the response with it (RFC 9112 §9.6).
//!
//! A connection that begins with the preface of HTTP/2 (RFC 9113 §3.4, "prior knowledge", as gRPC clients
//! do without TLS) is served like that, with the feature `http2`. Its state cannot be passed. When the drain begins it is told so by
//! a GOAWAY in two steps, so that what is on its way is still answered; streams in flight are finished,
//! and the client goes on with a new connection.
//!
//! What is still open at the drain deadline is cut.

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

/// The peer of a request, an extension of every request that [`Daemon::serve`] hands to a service.
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
    /// Where the connection comes from.
    pub addr: Addr,
    /// The name of the listener that accepted it.
    pub listener: Arc<str>,
}

impl Daemon {
    /// Serves HTTP/1.1, and HTTP/2 with prior knowledge, on a declared listener until the drain, with any
    /// tower service: an `axum::Router`, a tonic server's routes, a `tower::service_fn`.
    ///
    /// Returns when the worker drains and every connection of this listener has ended. Each request
    /// carries a [`Peer`] extension, and with the feature `axum` also `axum::extract::ConnectInfo`.
    /// Upgraded connections, such as WebSockets, count as open until they are dropped; a program ends
    /// them when [`Daemon::draining`] completes.
    ///
    /// The service is dropped, with all clones that were made of it, when this returns; when this future is
    /// dropped, as soon as the connections that are open then have ended.
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
    /// [`ErrorKind::Listen`](crate::ErrorKind::Listen) where no listener of this name is declared.
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

    /// As [`Daemon::serve`], with options of hyper that no key of the configuration sets.
    ///
    /// `configure` is called once, before the first connection, with what the configuration says. It has
    /// the last word.
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
    /// As [`Daemon::serve`].
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
        // It has a clone of the service, which goes with this future: a program may wait for the end of
        // what the service holds, such as the senders of a channel.
        let place = HandoffTarget::Listener(name.to_owned());
        let adoption = self.state.passage.register_while(place, server.clone().handoff_handler());
        loop {
            // Who finds no room waits in the kernel, for us or for the next generation.
            tokio::select! {
                () = server.room.wait() => {}
                () = listener.over() => {}
            }
            let Some((stream, addr)) = listener.next_good().await else { break };
            let served = server.accepted(stream, addr).run();
            server.connections.spawn(self.state.own.track_future(served));
        }
        // A worker that drains adopts nobody.
        drop(adoption);
        server.connections.close();
        server.connections.wait().await;
        Ok(())
    }
}

/// What the connections of one listener share.
#[derive(Clone)]
struct HttpServer<S> {
    state: Arc<SharedState>,
    listener: Arc<str>,
    service: S,
    /// Those that the listener's drain waits for, and their streams.
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
            // Responses are written whole; waiting for more to send only adds latency (tcp(7)). A
            // connection on which it fails is dead, which the first read tells.
            let _ = stream.set_nodelay(true);
        }
        let accepted = to_monotonic_ns(Instant::now());
        let connection = self.connection(stream, addr, 0);
        HttpConnection { accepted, since: accepted, ..connection }
    }

    /// One of which nothing else is known.
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

    /// Takes connections that an older generation passes.
    fn handoff_handler(self) -> HandoffHandler {
        Arc::new(move |handoff: Handoff<OwnedFd>, receipt: PendingAck| {
            // Before the look at the drain: from here on the drain waits for it.
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
            receipt.ack_then(move || {
                connection.stream.connection().mark_received();
                connections.spawn(own.track_future(connection.run()));
                drop(waited_for);
            });
        })
    }
}
