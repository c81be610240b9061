//! Detecting HTTP/2 with prior knowledge (RFC 9113 §3.4) by the first bytes of a connection.

/// The first bytes that a client of HTTP/2 sends. No request of HTTP/1 begins with them.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The protocol, as far as the first bytes show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DetectedProtocol {
    Http1,
    Http2,
    /// All bytes so far match the preface, which is not complete.
    Open,
}

/// Returns the protocol of a connection that begins with `bytes`.
pub(super) fn detect_protocol(bytes: &[u8]) -> DetectedProtocol {
    // The second byte already differs in every HTTP/1 method in use, so `Open` is rare.
    let length = bytes.len().min(PREFACE.len());
    match bytes[..length] == PREFACE[..length] {
        true if length == PREFACE.len() => DetectedProtocol::Http2,
        true => DetectedProtocol::Open,
        false => DetectedProtocol::Http1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partial_preface_is_undecided() {
        for length in 0..PREFACE.len() {
            assert_eq!(detect_protocol(&PREFACE[..length]), DetectedProtocol::Open);
            let mut other = PREFACE[..length].to_vec();
            other.push(PREFACE[length] ^ 1);
            assert_eq!(detect_protocol(&other), DetectedProtocol::Http1);
        }
        assert_eq!(detect_protocol(PREFACE), DetectedProtocol::Http2);
        assert_eq!(detect_protocol(&[PREFACE, b"\0\0\0\x04"].concat()), DetectedProtocol::Http2);
    }

    #[test]
    fn other_bytes_are_http1() {
        for request in
            ["GET / HTTP/1.1\r\n", "POST /", "PUT", "PATCH", "PRIOR", "\r\n", "\x16\x03\x01"]
        {
            assert_eq!(detect_protocol(request.as_bytes()), DetectedProtocol::Http1, "{request}");
        }
    }
}
