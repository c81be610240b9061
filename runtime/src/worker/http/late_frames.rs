//! A workaround for h2 0.4: removing WINDOW_UPDATE frames of streams that it ignores after its last GOAWAY.
//!
//! A client may open a stream after it has acknowledged the ping behind the first GOAWAY and before it reads
//! the second one. The server ignores that stream, and the client repeats the request on another connection
//! (RFC 9113 §6.8). But h2 takes the WINDOW_UPDATE that follows for one on an idle stream and ends the
//! connection with PROTOCOL_ERROR, and with it every other stream. [`LateFrames`] removes these frames from
//! what h2 reads; they have no effect on an ignored stream anyway.

/// The length of the preface that a client sends before its first frame.
const PREFACE: usize = 24;

/// The length of a frame header: length, type, flags and stream (RFC 9113 §4.1).
const HEADER: usize = 9;

const HEADERS: u8 = 1;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;

const ACK: u8 = 1;

/// The payload of the ping that h2 sends behind its first GOAWAY; pings of hyper's own have another one.
const SHUTDOWN_PING: [u8; 8] = [0x0b, 0x7b, 0xa2, 0xf0, 0x8b, 0x9b, 0xfe, 0x54];

/// A parser that follows the bytes of a client from the first one on.
#[derive(Debug)]
pub(super) struct LateFrames {
    /// The number of bytes of the preface still to come.
    preface: usize,
    /// The header of the current frame.
    header: [u8; HEADER],
    /// The number of bytes of the header that have arrived.
    have: usize,
    /// The number of those that h2 has already received.
    given: usize,
    /// The number of bytes of the frame's payload still to come.
    payload: usize,
    /// Whether the current frame acknowledges the shutdown ping, as far as its payload has arrived.
    answers: bool,
    /// Whether the current frame is removed.
    dropping: bool,
    /// The highest stream that the client has opened.
    newest: u32,
    /// The last stream that is served, once the ping is acknowledged.
    last: Option<u32>,
}

impl LateFrames {
    pub(super) fn new() -> LateFrames {
        LateFrames {
            preface: PREFACE,
            header: [0; HEADER],
            have: 0,
            given: 0,
            payload: 0,
            answers: false,
            dropping: false,
            newest: 0,
            last: None,
        }
    }

    /// Follows bytes that h2 receives unchanged, before the first GOAWAY.
    pub(super) fn follow(&mut self, bytes: &[u8]) {
        self.walk(bytes, |_| {}, false);
        self.given = self.have;
    }

    /// Returns the bytes that h2 may receive, after the first GOAWAY. A frame header is held back until it is
    /// complete.
    pub(super) fn filter(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut kept = Vec::with_capacity(bytes.len() + HEADER);
        self.walk(bytes, |bytes| kept.extend_from_slice(bytes), true);
        kept
    }

    fn walk(&mut self, mut bytes: &[u8], mut keep: impl FnMut(&[u8]), closing: bool) {
        while !bytes.is_empty() {
            if self.preface > 0 {
                let (preface, rest) = bytes.split_at(self.preface.min(bytes.len()));
                self.preface -= preface.len();
                keep(preface);
                bytes = rest;
            } else if self.payload > 0 {
                let (payload, rest) = bytes.split_at(self.payload.min(bytes.len()));
                let at = SHUTDOWN_PING.len().saturating_sub(self.payload);
                self.answers = self.answers && SHUTDOWN_PING[at..].starts_with(payload);
                self.payload -= payload.len();
                if self.answers && self.payload == 0 {
                    self.last = self.last.or(Some(self.newest));
                }
                if !self.dropping {
                    keep(payload);
                }
                bytes = rest;
            } else {
                let (part, rest) = bytes.split_at((HEADER - self.have).min(bytes.len()));
                self.header[self.have..self.have + part.len()].copy_from_slice(part);
                self.have += part.len();
                bytes = rest;
                if self.have == HEADER {
                    self.begin(closing);
                    if !self.dropping {
                        keep(&self.header[self.given..]);
                    }
                    (self.have, self.given) = (0, 0);
                }
            }
        }
    }

    /// Decides about a frame whose header is complete.
    fn begin(&mut self, closing: bool) {
        let [a, b, c, kind, flags, id @ ..] = self.header;
        let id = u32::from_be_bytes(id) & (u32::MAX >> 1);
        self.payload = u32::from_be_bytes([0, a, b, c]) as usize;
        match kind {
            HEADERS if self.last.is_none() => self.newest = self.newest.max(id),
            _ => {}
        }
        // h2 answers it with the last GOAWAY.
        self.answers =
            kind == PING && flags & ACK != 0 && closing && self.payload == SHUTDOWN_PING.len();
        let late = self.last.is_some_and(|last| id > last);
        self.dropping = kind == WINDOW_UPDATE && late && self.given == 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(kind: u8, flags: u8, id: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags], &id.to_be_bytes(), payload].concat()
    }

    /// The bytes before the first GOAWAY, the bytes after it, and what remains of the latter.
    fn story() -> (Vec<u8>, Vec<u8>, Vec<u8>) {
        let before =
            [vec![b'P'; PREFACE], frame(HEADERS, 4, 1, b"a"), frame(WINDOW_UPDATE, 0, 1, b"0001")];
        let late = frame(WINDOW_UPDATE, 0, 9, b"0009");
        let after = [
            frame(HEADERS, 4, 3, b"bb"),
            frame(WINDOW_UPDATE, 0, 3, b"0003"),
            // Of a keep-alive ping that was on its way: streams are still served.
            frame(PING, ACK, 0, b"12345678"),
            frame(HEADERS, 4, 7, b"dd"),
            frame(WINDOW_UPDATE, 0, 7, b"0007"),
            frame(PING, ACK, 0, &SHUTDOWN_PING),
            frame(HEADERS, 4, 9, b"ccc"),
            late.clone(),
            frame(0, 1, 9, b""),
            frame(WINDOW_UPDATE, 0, 0, b"0000"),
            frame(WINDOW_UPDATE, 0, 3, b"0003"),
        ];
        let left = after.iter().filter(|frame| **frame != late).flatten().copied().collect();
        (before.concat(), after.concat(), left)
    }

    proptest! {
        #[test]
        fn late_window_updates_are_removed_in_any_segmentation(
            sizes in prop::collection::vec(1..20_usize, 1..99)
        ) {
            let (before, after, left) = story();
            let mut frames = LateFrames::new();
            let mut sizes = sizes.into_iter().cycle();
            let mut pieces = |mut bytes: &[u8], each: &mut dyn FnMut(&[u8])| {
                while !bytes.is_empty() {
                    let (piece, rest) = bytes.split_at(sizes.next().unwrap().min(bytes.len()));
                    each(piece);
                    bytes = rest;
                }
            };
            pieces(&before, &mut |piece| frames.follow(piece));
            let mut kept = Vec::new();
            pieces(&after, &mut |piece| kept.extend(frames.filter(piece)));
            prop_assert_eq!(kept, left);
        }

        /// If GOAWAY is sent in the middle of a frame, no byte is given to h2 twice.
        #[test]
        fn other_bytes_are_unchanged(bytes in prop::collection::vec(any::<u8>(), 0..200), at: usize) {
            let mut frames = LateFrames::new();
            let at = at.checked_rem(bytes.len()).unwrap_or(0);
            frames.follow(&bytes[..at]);
            let mut kept = frames.filter(&bytes[at..]);
            // An incomplete header is held back.
            kept.extend_from_slice(&frames.header[frames.given.min(frames.have)..frames.have]);
            if frames.last.is_none() {
                prop_assert_eq!(&kept, &bytes[at..]);
            }
        }
    }
}
