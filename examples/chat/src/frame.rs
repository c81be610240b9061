//! WebSocket frames (RFC 6455 §5) in the program's own buffers: a frame that was read or written in part has
//! to be handed off with its connection, which a WebSocket library does not support.

use std::io::Cursor;

use bytes::{Bytes, BytesMut};
use tungstenite::protocol::CloseFrame;
use tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};
use tungstenite::protocol::frame::{Frame, FrameHeader};

/// The longest message, in bytes. An incomplete one has to fit the state that is handed off.
const MAX: u64 = 4096;

/// A frame from a browser.
pub(crate) enum Received {
    Text(String),
    Ping(Bytes),
    Pong,
    Close,
}

/// Returns the first frame of the buffer with its length; `None` while it is incomplete. The error is the
/// code of the close frame to answer an invalid frame with.
pub(crate) fn first(buffer: &[u8]) -> Result<Option<(usize, Received)>, CloseCode> {
    let mut cursor = Cursor::new(buffer);
    let parsed = FrameHeader::parse(&mut cursor).map_err(|_| CloseCode::Protocol)?;
    let Some((header, length)) = parsed else { return Ok(None) };
    if length > MAX || !header.is_final {
        return Err(CloseCode::Size);
    }
    let mask = header.mask.ok_or(CloseCode::Protocol)?;
    let size = |size| usize::try_from(size).map_err(|_| CloseCode::Size);
    let (begin, end) = (size(cursor.position())?, size(cursor.position() + length)?);
    let Some(masked) = buffer.get(begin..end) else { return Ok(None) };
    let payload: Vec<u8> = masked.iter().zip(mask.iter().cycle()).map(|(b, m)| b ^ m).collect();
    let received = match header.opcode {
        OpCode::Data(Data::Text) => {
            Received::Text(String::from_utf8(payload).map_err(|_| CloseCode::Invalid)?)
        }
        OpCode::Control(Control::Ping) => Received::Ping(payload.into()),
        OpCode::Control(Control::Pong) => Received::Pong,
        OpCode::Control(Control::Close) => Received::Close,
        _ => return Err(CloseCode::Unsupported),
    };
    Ok(Some((end, received)))
}

/// Appends a text message.
pub(crate) fn text(buffer: &mut BytesMut, text: String) {
    append(buffer, Frame::message(text, OpCode::Data(Data::Text), true));
}

/// Appends the answer to a ping.
pub(crate) fn pong(buffer: &mut BytesMut, payload: Bytes) {
    append(buffer, Frame::pong(payload));
}

/// Appends a close frame.
pub(crate) fn close(buffer: &mut BytesMut, code: CloseCode, reason: &'static str) {
    append(buffer, Frame::close(Some(CloseFrame { code, reason: reason.into() })));
}

fn append(buffer: &mut BytesMut, frame: Frame) {
    let mut bytes = Vec::with_capacity(frame.len());
    // Writing to a `Vec` does not fail.
    let _ = frame.format(&mut bytes);
    buffer.extend_from_slice(&bytes);
}
