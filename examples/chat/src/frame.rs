//! WebSocket frames (RFC 6455 §5) in buffers of our own, as a frame that has come or gone in part has to
//! travel with its connection.

use std::io::Cursor;

use bytes::{Bytes, BytesMut};
use tungstenite::protocol::CloseFrame;
use tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};
use tungstenite::protocol::frame::{Frame, FrameHeader};

/// The longest message.
const MAX: u64 = 4096;

/// What a browser sends.
pub(crate) enum Received {
    Text(String),
    Ping(Bytes),
    Pong,
    Close,
}

/// The first frame of the buffer and its length there; `None` as long as it is not whole. The code of
/// the close frame with which nonsense is answered.
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

/// Appends the end of the conversation.
pub(crate) fn close(buffer: &mut BytesMut, code: CloseCode, reason: &'static str) {
    append(buffer, Frame::close(Some(CloseFrame { code, reason: reason.into() })));
}

fn append(buffer: &mut BytesMut, frame: Frame) {
    let mut bytes = Vec::with_capacity(frame.len());
    // Writing to memory does not fail.
    let _ = frame.format(&mut bytes);
    buffer.extend_from_slice(&bytes);
}
