//! The first bytes of a connection, by which HTTP/2 with prior knowledge is told from HTTP/1
//! (RFC 9113 §3.4).

/// What a client that speaks HTTP/2 sends first. No request of HTTP/1 begins like this.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What the bytes so far say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DetectedProtocol {
    Http1,
    Http2,
    /// The preface may still be coming.
    Open,
}

/// Judges the first bytes of a connection.
pub(super) fn detect_protocol(bytes: &[u8]) -> DetectedProtocol {
    // The second byte already tells every method in use from the preface.
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
    fn every_beginning_of_the_preface_is_open() {
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
    fn requests_of_http1() {
        for request in
            ["GET / HTTP/1.1\r\n", "POST /", "PUT", "PATCH", "PRIOR", "\r\n", "\x16\x03\x01"]
        {
            assert_eq!(detect_protocol(request.as_bytes()), DetectedProtocol::Http1, "{request}");
        }
    }
}
