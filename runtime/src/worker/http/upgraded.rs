//! Recovering the stream from an upgraded connection of hyper.

use bytes::Bytes;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;

use super::io::LingeringIo;
use crate::worker::net::Stream;

/// Returns the stream of a connection that [`Daemon::serve`](crate::Daemon::serve) upgraded, and the bytes of
/// the new protocol that were already read. The program has to use these bytes before it reads the stream.
///
/// For programs that speak the new protocol on the stream itself, and [pass](crate::Daemon::hand_off) it at
/// a restart.
///
/// ```
/// use http::{Request, Response, StatusCode};
/// # use hyper::body::Incoming;
///
/// fn upgrade(mut request: Request<Incoming>) -> Response<String> {
///     let upgrade = hyper::upgrade::on(&mut request);
///     tokio::spawn(async move {
///         let upgraded = upgrade.await?;
///         if let Ok((stream, read)) = unbroken::http::into_stream(upgraded) {
///             // Speak the new protocol: first with the bytes in `read`, then on `stream`.
///             # drop((stream, read));
///         }
///         Ok::<(), hyper::Error>(())
///     });
///     let mut response = Response::new(String::new());
///     *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
///     response
/// }
/// ```
///
/// # Errors
/// Returns `upgraded` unchanged if another server upgraded it, or if it is a stream of HTTP/2.
pub fn into_stream(upgraded: Upgraded) -> Result<(Stream, Bytes), Upgraded> {
    let parts = upgraded.downcast::<TokioIo<LingeringIo>>()?;
    let (stream, unread) = parts.io.into_inner().into_parts();
    Ok((stream, super::io::join(parts.read_buf, unread)))
}
