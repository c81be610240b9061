//! Frames of HTTP/2 that were under way when the last GOAWAY was sent.
//!
//! A client that has acknowledged the ping behind the first GOAWAY may have written a request just before
//! it heard of either. Such a stream is ignored, and the client repeats it elsewhere (RFC 9113 §6.8). But
//! h2 0.4 takes the WINDOW_UPDATE that follows it for one of an idle stream, and ends the connection with
//! PROTOCOL_ERROR, and with it every other stream. So these frames are taken out. They have no meaning
//! where the stream has none.

/// What a client sends before its first frame.
const PREFACE: usize = 24;

/// Length, type, flags and stream (RFC 9113 §4.1).
const HEADER: usize = 9;

const HEADERS: u8 = 1;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;

const ACK: u8 = 1;

/// Follows what a client sends from its first byte.
#[derive(Debug)]
pub(super) struct LateFrames {
    preface: usize,
    header: [u8; HEADER],
    /// So much of the header has come, and so much of that was handed on already.
    have: usize,
    given: usize,
    /// So much of the frame is still to come.
    payload: usize,
    dropping: bool,
    /// The newest stream.
    newest: u32,
    /// The last one that is served, once that is settled.
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
            dropping: false,
            newest: 0,
            last: None,
        }
    }

    /// Bytes that are handed on as they are, before the client is told to go.
    pub(super) fn follow(&mut self, bytes: &[u8]) {
        self.walk(bytes, |_| {}, false);
        self.given = self.have;
    }

    /// What is to be handed on of these bytes, once the client is told. A header is held back until it is
    /// whole.
    pub(super) fn filter(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut kept = Vec::with_capacity(bytes.len() + HEADER);
        self.walk(bytes, |bytes| kept.extend_from_slice(bytes), true);
        kept
    }

    fn walk(&mut self, mut bytes: &[u8], mut keep: impl FnMut(&[u8]), told: bool) {
        while !bytes.is_empty() {
            if self.preface > 0 {
                let (preface, rest) = bytes.split_at(self.preface.min(bytes.len()));
                self.preface -= preface.len();
                keep(preface);
                bytes = rest;
            } else if self.payload > 0 {
                let (payload, rest) = bytes.split_at(self.payload.min(bytes.len()));
                self.payload -= payload.len();
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
                    self.begin(told);
                    if !self.dropping {
                        keep(&self.header[self.given..]);
                    }
                    (self.have, self.given) = (0, 0);
                }
            }
        }
    }

    /// The header of a frame is whole.
    fn begin(&mut self, told: bool) {
        let [a, b, c, kind, flags, id @ ..] = self.header;
        let id = u32::from_be_bytes(id) & (u32::MAX >> 1);
        self.payload = u32::from_be_bytes([0, a, b, c]) as usize;
        match kind {
            HEADERS if self.last.is_none() => self.newest = self.newest.max(id),
            // The only ping there is: h2 sends its last GOAWAY for it.
            PING if flags & ACK != 0 && told => self.last = self.last.or(Some(self.newest)),
            _ => {}
        }
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

    /// Before the client is told, what it sends then, and what is left of that.
    fn story() -> (Vec<u8>, Vec<u8>, Vec<u8>) {
        let before =
            [vec![b'P'; PREFACE], frame(HEADERS, 4, 1, b"a"), frame(WINDOW_UPDATE, 0, 1, b"0001")];
        let late = frame(WINDOW_UPDATE, 0, 5, b"0005");
        let after = [
            frame(HEADERS, 4, 3, b"bb"),
            frame(WINDOW_UPDATE, 0, 3, b"0003"),
            frame(PING, ACK, 0, b"12345678"),
            frame(HEADERS, 4, 5, b"ccc"),
            late.clone(),
            frame(0, 1, 5, b""),
            frame(WINDOW_UPDATE, 0, 0, b"0000"),
            frame(WINDOW_UPDATE, 0, 3, b"0003"),
        ];
        let left = after.iter().filter(|frame| **frame != late).flatten().copied().collect();
        (before.concat(), after.concat(), left)
    }

    proptest! {
        #[test]
        fn late_updates_are_dropped_however_they_come(
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

        /// Told in the middle of a frame: what was handed on is not handed on again.
        #[test]
        fn nothing_else_is_touched(bytes in prop::collection::vec(any::<u8>(), 0..200), at: usize) {
            let mut frames = LateFrames::new();
            let at = at.checked_rem(bytes.len()).unwrap_or(0);
            frames.follow(&bytes[..at]);
            let mut kept = frames.filter(&bytes[at..]);
            // An unfinished header is held back.
            kept.extend_from_slice(&frames.header[frames.given.min(frames.have)..frames.have]);
            if frames.last.is_none() {
                prop_assert_eq!(&kept, &bytes[at..]);
            }
        }
    }
}
