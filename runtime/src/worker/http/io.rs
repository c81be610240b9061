//! The stream between the socket and hyper.
//!
//! [`LingeringIo`] closes as RFC 9112 §9.6 requires: first its sending half, the rest when the client has
//! closed. It also detects the preface of HTTP/2, returns bytes that an earlier round has read, and reports
//! to [`Activity`] whether data is flowing.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use super::late_frames::LateFrames;
use super::preface::{self, DetectedProtocol};
use super::service::Activity;
use crate::worker::net::Stream;

/// How long a client may take to close its half. Closing earlier resets the connection and may lose
/// the last response; a longer time keeps the worker from exiting.
pub(super) const LINGER: Duration = Duration::from_secs(5);

/// Joins all bytes that were read and not used: first those in hyper's buffer, then those that hyper has not
/// received yet.
pub(super) fn join(read: Bytes, unread: Bytes) -> Bytes {
    match unread.is_empty() {
        true => read,
        false => [&read[..], &unread[..]].concat().into(),
    }
}

/// The stream of one HTTP connection.
pub(super) struct LingeringIo {
    stream: Stream,
    /// Bytes that hyper reads before those of the socket: read by an earlier round or while detecting the
    /// protocol.
    unread: Bytes,
    /// Whether the bytes read so far may still be the preface of HTTP/2.
    undecided: bool,
    /// Removes frames that h2 does not expect; only for HTTP/2.
    frames: Option<LateFrames>,
    activity: Arc<Activity>,
    closing: Closing,
}

enum Closing {
    /// This side is open.
    No,
    /// The client has closed its half: all its bytes are read, so closing does not reset the connection.
    PeerDone,
    /// This side has closed its sending half, and discards what the client still sends until it closes.
    Lingering(Pin<Box<Sleep>>),
}

impl LingeringIo {
    /// A connection that speaks HTTP/1, or whose protocol is not known yet.
    pub(super) fn new(stream: Stream, unread: Bytes, activity: Arc<Activity>) -> LingeringIo {
        let undecided = cfg!(feature = "http2") && !activity.has_requests();
        let (frames, closing) = (None, Closing::No);
        LingeringIo { stream, unread, undecided, frames, activity, closing }
    }

    /// A connection that speaks HTTP/2.
    #[cfg(feature = "http2")]
    pub(super) fn http2(stream: Stream, unread: Bytes, activity: Arc<Activity>) -> LingeringIo {
        let mut frames = LateFrames::new();
        frames.follow(&unread);
        let (undecided, frames, closing) = (false, Some(frames), Closing::No);
        LingeringIo { stream, unread, undecided, frames, activity, closing }
    }

    /// Returns the stream, and the bytes that hyper has not read.
    pub(super) fn into_parts(self) -> (Stream, Bytes) {
        (self.stream, self.unread)
    }

    /// Records whether the write is pending because the send buffer is full.
    fn wrote<T>(&self, polled: Poll<T>) -> Poll<T> {
        self.activity.set_write_blocked(polled.is_pending());
        polled
    }

    /// Records that the client has closed its half.
    fn peer_done(&mut self) {
        self.activity.begin_closing();
        self.closing = Closing::PeerDone;
    }

    /// Reads until the protocol is known. `Ready` means HTTP/1: the bytes are in `unread`, or in `buf` if the
    /// first read decided, as nearly always. With HTTP/2 it stays pending: the connection's task sees
    /// [`Activity::is_http2`] and moves the stream to an HTTP/2 connection.
    fn poll_decide(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            match preface::detect_protocol(&self.unread) {
                DetectedProtocol::Http1 => break,
                DetectedProtocol::Http2 => {
                    self.activity.set_http2();
                    return Poll::Pending;
                }
                DetectedProtocol::Open => {}
            }
            let before = buf.filled().len();
            ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
            let read = &buf.filled()[before..];
            if read.is_empty() {
                self.peer_done();
                break;
            }
            self.activity.read_some();
            if self.unread.is_empty() && preface::detect_protocol(read) == DetectedProtocol::Http1 {
                break;
            }
            let mut unread = BytesMut::with_capacity(self.unread.len() + read.len());
            unread.extend_from_slice(&self.unread);
            unread.extend_from_slice(read);
            self.unread = unread.freeze();
            buf.set_filled(before);
        }
        self.undecided = false;
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for LingeringIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let room = buf.remaining();
        if self.undecided && room > 0 {
            ready!(self.poll_decide(cx, buf))?;
            if self.unread.is_empty() {
                // The bytes are in `buf`, or the client has closed.
                return Poll::Ready(Ok(()));
            }
        }
        if !self.unread.is_empty() {
            self.activity.read_some();
            let length = self.unread.len().min(buf.remaining());
            buf.put_slice(&self.unread.split_to(length));
            return Poll::Ready(Ok(()));
        }
        let this = &mut *self;
        loop {
            let before = buf.filled().len();
            ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
            if buf.remaining() == room {
                if room > 0 {
                    this.peer_done();
                }
                return Poll::Ready(Ok(()));
            }
            this.activity.read_some();
            let Some(frames) = &mut this.frames else { return Poll::Ready(Ok(())) };
            let read = &buf.filled()[before..];
            if !this.activity.was_notified() {
                frames.follow(read);
                return Poll::Ready(Ok(()));
            }
            let mut kept = Bytes::from(frames.filter(read));
            buf.set_filled(before);
            if !kept.is_empty() {
                buf.put_slice(&kept.split_to(kept.len().min(buf.remaining())));
                this.unread = kept;
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl AsyncWrite for LingeringIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.wrote(polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.wrote(polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// Closes the sending half, then reads until the client closes its own, for [`LINGER`] at most.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        this.activity.begin_closing();
        loop {
            match &mut this.closing {
                Closing::PeerDone => return Poll::Ready(Ok(())),
                Closing::No => {
                    ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
                    this.closing = Closing::Lingering(Box::pin(tokio::time::sleep(LINGER)));
                }
                Closing::Lingering(timeout) => {
                    if timeout.as_mut().poll(cx).is_ready() {
                        return Poll::Ready(Ok(()));
                    }
                    let mut space = [0; 1024];
                    let mut buf = ReadBuf::new(&mut space);
                    ready!(Pin::new(&mut this.stream).poll_read(cx, &mut buf))?;
                    if buf.filled().is_empty() {
                        return Poll::Ready(Ok(()));
                    }
                }
            }
        }
    }
}
