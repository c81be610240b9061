//! Passing live connections to the generation that serves now.
//!
//! At a restart [`Daemon::serve`](crate::Daemon::serve) passes its idle connections by itself. An
//! application with connections of its own, such as WebSockets, streams or sessions of another
//! protocol, passes them by [`Daemon::hand_off`]: the connected socket, and a bounded string of bytes that
//! holds what it knows of the peer. The new generation takes them from [`Daemon::handoffs`]. The peer
//! sees nothing.
//!
//! The socket stays with the old generation until the new one has taken it, so that a new worker that
//! refuses it, or dies meanwhile, costs no connection.
//!
//! ```no_run
//! use tokio::io::{AsyncReadExt, AsyncWriteExt};
//! use unbroken::net::Stream;
//! use unbroken::handoff::HandoffState;
//! use unbroken::{Daemon, daemon};
//!
//! /// Counts the bytes of each connection, over all restarts.
//! #[daemon(graceful_restart, listen(count = "127.0.0.1:7000"))]
//! async fn main(daemon: Daemon) -> anyhow::Result<()> {
//!     // Before this worker is ready: who comes without having been announced is refused.
//!     let mut passed = daemon.passed("count");
//!     let mut listener = daemon.listener("count")?;
//!     loop {
//!         tokio::select! {
//!             Some(offer) = passed.next() => {
//!                 let (stream, saved) = offer.take().await?;
//!                 let count = u64::from_le_bytes(saved.bytes.as_slice().try_into()?);
//!                 daemon.spawn(count_bytes(daemon.clone(), stream, count));
//!             }
//!             accepted = listener.next() => match accepted {
//!                 Some(accepted) => {
//!                     daemon.spawn(count_bytes(daemon.clone(), accepted?.0, 0));
//!                 }
//!                 None => return Ok(()),
//!             },
//!         }
//!     }
//! }
//!
//! async fn count_bytes(daemon: Daemon, mut stream: Stream, mut count: u64) -> anyhow::Result<()> {
//!     let mut buffer = [0; 4096];
//!     loop {
//!         tokio::select! {
//!             read = stream.read(&mut buffer) => match read? {
//!                 0 => return Ok(stream.write_all(format!("{count}\n").as_bytes()).await?),
//!                 n => count += n as u64,
//!             },
//!             () = daemon.draining() => {
//!                 let saved = HandoffState { version: 1, bytes: count.to_le_bytes().to_vec() };
//!                 return Ok(daemon.pass("count", stream, saved).await?);
//!             }
//!         }
//!     }
//! }
//! ```
//!
//! What is passed is the socket alone: the state of TLS or HTTP/2 lives in the process, and cannot be.
//! Bytes that were read already and not used have to be part of the state, and so have those of a
//! message that was written in part.

mod app;
mod channel;
mod message;
mod receiving;
mod registry;
mod sending;

pub use app::{HandoffError, HandoffState, HandoffStream, IncomingHandoffs, Offer};
#[cfg(feature = "http")]
pub(crate) use channel::{HandoffOutcome, HandoffSocket, QueueSlot, RETRIES, RETRY_DELAY};
#[cfg(any(test, fuzzing))]
pub(crate) use message::roundtrip;
#[cfg(feature = "http")]
pub(crate) use message::{Handoff, HandoffTarget, MAX_BYTES, Payload};
#[cfg(feature = "http")]
pub(crate) use receiving::PendingAck;
#[cfg(feature = "http")]
pub(crate) use registry::HandoffHandler;
pub(crate) use registry::HandoffRegistry;

#[cfg(doc)]
use crate::Daemon;
