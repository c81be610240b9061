//! A connection that is closed as RFC 9112 §9.6 asks: its sending half first, the rest when the client
//! is done.

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

/// All bytes that nobody has used: hyper's buffer holds what came before those that it was not given
/// yet.
pub(super) fn join(read: Bytes, unread: Bytes) -> Bytes {
    match unread.is_empty() {
        true => read,
        false => [&read[..], &unread[..]].concat().into(),
    }
}

/// The stream of one HTTP connection.
pub(super) struct LingeringIo {
    stream: Stream,
    /// Read by an earlier round, and to be read again first.
    unread: Bytes,
    /// What is read may still turn out to be the preface of HTTP/2.
    undecided: bool,
    /// Of a connection of HTTP/2.
    frames: Option<LateFrames>,
    activity: Arc<Activity>,
    closing: Closing,
}

enum Closing {
    /// Open, as far as this side is concerned.
    No,
    /// The client has closed its half: nothing it sent can be lost any more.
    PeerDone,
    /// Our half is closed; what the client still sends is read and dropped until it is done.
    Lingering(Pin<Box<Sleep>>),
}

impl LingeringIo {
    /// A connection that speaks HTTP/1, or has not said yet what it speaks.
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

    /// The stream, and what was never read again.
    pub(super) fn into_parts(self) -> (Stream, Bytes) {
        (self.stream, self.unread)
    }

    /// Notes whether the kernel took everything.
    fn wrote<T>(&self, polled: Poll<T>) -> Poll<T> {
        self.activity.set_write_blocked(polled.is_pending());
        polled
    }

    /// Notes the end where the client has closed its half.
    fn peer_done(&mut self) {
        self.activity.begin_closing();
        self.closing = Closing::PeerDone;
    }

    /// Reads until it is clear what the connection speaks. `Ready` says HTTP/1, and what was kept is in
    /// `unread`. A connection of HTTP/2 stays pending, for the driver to take it from here.
    ///
    /// Nearly every first read decides, and its bytes stay where they were read to.
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
                // What was read is in place already, or was the end.
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

    /// Closes our half, then reads until the client closes its own, for [`LINGER`] at most.
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
