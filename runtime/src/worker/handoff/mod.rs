//! Handing off live connections to the serving generation.
//!
//! At a restart [`Daemon::serve`](crate::Daemon::serve) hands off its idle connections by itself. An
//! application with connections of its own, such as WebSockets or sessions of another protocol, calls
//! [`Daemon::hand_off`] with the connected socket and a state: up to 64 KiB that describe what it knows
//! about the connection. The new generation accepts them from [`Daemon::handoffs`]. The peer notices nothing.
//!
//! The old generation keeps its descriptor of the socket until the new one has accepted the connection. If
//! the new worker refuses it or dies, no connection is lost.
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
//!     // Before the first accept, which makes this worker ready: connections that are handed off under a
//!     // name without a receiver are refused.
//!     let mut handoffs = daemon.handoffs("count");
//!     let mut listener = daemon.listener("count")?;
//!     loop {
//!         tokio::select! {
//!             Some(offer) = handoffs.next() => {
//!                 let (stream, state) = offer.accept().await?;
//!                 let count = u64::from_le_bytes(state.bytes.as_slice().try_into()?);
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
//!                 let state = HandoffState { version: 1, bytes: count.to_le_bytes().to_vec() };
//!                 return Ok(daemon.hand_off("count", stream, state).await?);
//!             }
//!         }
//!     }
//! }
//! ```
//!
//! Only the socket and the state move. State that a library keeps in the process, such as that of TLS or
//! HTTP/2, does not. The application's state has to include bytes that were read and not yet used, and the
//! rest of a message that was written in part.

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
