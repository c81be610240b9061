//! HTTP/1.1 on a declared listener, ending connections so that no request is lost.
//!
//! hyper's own graceful shutdown closes a connection that has not sent a byte yet, and one that is idle
//! in the very moment the next request arrives. So a draining worker does not use it. Instead
//!
//! - a request in flight is finished, and its response says `Connection: close`;
//! - an idle connection stays open for one more request, which is answered like that;
//! - one that never sent a request gets a grace to do so;
//! - after the last response this side closes its half and reads on until the client is done, as
//!   closing with unread input would reset the connection and take the response with it (RFC 9112 §9.6).
//!
//! What is still open at the drain deadline is cut.

mod io;
mod service;

use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tower_service::Service;

use self::io::LingeringIo;
use self::service::{Activity, Observed};
use crate::error::Result;
use crate::worker::daemon::Daemon;
use crate::worker::net::{Addr, Stream};
use crate::worker::state::State;

/// How long a draining worker waits for the first request of a connection.
const FIRST_REQUEST_GRACE: Duration = Duration::from_secs(5);

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
    /// Serves HTTP/1.1 on a declared listener until the drain, with any tower service: an
    /// `axum::Router`, a tonic server's routes, a `tower::service_fn`.
    ///
    /// Returns when the worker drains and every connection of this listener has ended. Each request
    /// carries a [`Peer`] extension, and with the feature `axum` also `axum::extract::ConnectInfo`.
    /// Upgraded connections, such as WebSockets, count as open until they are dropped; a program ends
    /// them when [`Daemon::draining`] completes.
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
        S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
        S::Future: Send,
        S::Error: Into<BoxError>,
        B: http_body::Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<BoxError>,
    {
        let mut listener = self.listener(name)?;
        let name: Arc<str> = name.into();
        let served = tokio_util::task::TaskTracker::new();
        while let Some((stream, addr)) = listener.next_good().await {
            let peer = Peer { addr, listener: Arc::clone(&name) };
            let state = Arc::clone(&self.state);
            served.spawn(serve_connection(state, stream, peer, service.clone()));
        }
        served.close();
        served.wait().await;
        Ok(())
    }
}

/// Serves one connection to its end.
async fn serve_connection<S, B>(state: Arc<State>, stream: Stream, peer: Peer, service: S)
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    B: http_body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    if let Stream::Tcp(stream) = &stream {
        // Responses are written whole; waiting for more to send only adds latency (tcp(7)). A
        // connection on which it fails is dead, which the first read tells.
        let _ = stream.set_nodelay(true);
    }
    let activity = Arc::new(Activity::new(Arc::clone(&state)));
    let io = TokioIo::new(LingeringIo::new(stream, Arc::clone(&activity)));
    let service = Observed::new(TowerToHyperService::new(service), peer, Arc::clone(&activity));
    let connection = http1::Builder::new().serve_connection(io, service).with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = unused_for_too_long(&state, &activity) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "connection ended with an error");
    }
}

/// Completes when the worker drains and the connection has not sent a request for the grace period.
async fn unused_for_too_long(state: &State, activity: &Activity) {
    state.draining.cancelled().await;
    if !activity.used() {
        tokio::time::sleep(FIRST_REQUEST_GRACE).await;
    }
    if activity.used() {
        std::future::pending::<()>().await;
    }
    activity.tell_to_go();
}
