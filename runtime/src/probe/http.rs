//! The part of HTTP/1 (RFC 9112) that probes use: one GET or HEAD request, one response, and the connection
//! is closed.

use super::{Probe, ProbeResult};

/// The most bytes of a request head. Probes send a few hundred; the limit keeps a client from
/// filling the memory of the supervisor.
pub(crate) const MAX_HEAD: usize = 4096;

/// The outcome of parsing the bytes received so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ParsedProbe {
    /// The head is not complete yet.
    Partial,
    /// A request for a probe; `head` if its method is HEAD and the response has no body.
    Asks { probe: Probe, head: bool },
    /// Any other request, and the status to respond with.
    Refused(HttpStatus),
}

/// The statuses of refused requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HttpStatus {
    BadRequest,
    NotFound,
    MethodNotAllowed,
    HeadTooLarge,
    Version,
}

impl HttpStatus {
    fn line(self) -> &'static str {
        match self {
            HttpStatus::BadRequest => "400 Bad Request",
            HttpStatus::NotFound => "404 Not Found",
            HttpStatus::MethodNotAllowed => "405 Method Not Allowed",
            HttpStatus::HeadTooLarge => "431 Request Header Fields Too Large",
            HttpStatus::Version => "505 HTTP Version Not Supported",
        }
    }
}

/// Parses the head of a request; bytes after it are ignored.
pub(crate) fn parse(bytes: &[u8]) -> ParsedProbe {
    let Some(line_end) = bytes.iter().position(|byte| *byte == b'\n') else {
        return partial(bytes);
    };
    let line = bytes[..line_end].strip_suffix(b"\r").unwrap_or(&bytes[..line_end]);
    let asked = match request_line(line) {
        Ok(asked) => asked,
        Err(status) => return ParsedProbe::Refused(status),
    };
    // The header fields are not parsed, only their end is found.
    let rest = &bytes[line_end + 1..];
    let ends = rest.starts_with(b"\n")
        || rest.starts_with(b"\r\n")
        || rest.windows(2).any(|pair| pair == b"\n\n")
        || rest.windows(3).any(|three| three == b"\n\r\n");
    if ends { asked } else { partial(bytes) }
}

fn partial(bytes: &[u8]) -> ParsedProbe {
    match bytes.len() < MAX_HEAD {
        true => ParsedProbe::Partial,
        false => ParsedProbe::Refused(HttpStatus::HeadTooLarge),
    }
}

fn request_line(line: &[u8]) -> Result<ParsedProbe, HttpStatus> {
    let mut parts = line.split(|byte| *byte == b' ');
    let (Some(method), Some(target), Some(version), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(HttpStatus::BadRequest);
    };
    match version {
        b"HTTP/1.1" | b"HTTP/1.0" => {}
        other if other.starts_with(b"HTTP/") => return Err(HttpStatus::Version),
        _ => return Err(HttpStatus::BadRequest),
    }
    let head = match method {
        b"GET" => false,
        b"HEAD" => true,
        _ => return Err(HttpStatus::MethodNotAllowed),
    };
    let path = target.split(|byte| *byte == b'?').next().unwrap_or_default();
    let probe = Probe::ALL.into_iter().find(|probe| probe.path() == path);
    probe.map(|probe| ParsedProbe::Asks { probe, head }).ok_or(HttpStatus::NotFound)
}

/// The response to a complete request; `None` for a partial one.
pub(crate) fn response(
    parsed: ParsedProbe,
    check: impl FnOnce(Probe) -> ProbeResult,
) -> Option<Vec<u8>> {
    let (status, text, head) = match parsed {
        ParsedProbe::Partial => return None,
        ParsedProbe::Asks { probe, head } => {
            let result = check(probe);
            let status = if result.ok { "200 OK" } else { "503 Service Unavailable" };
            (status, result.text, head)
        }
        ParsedProbe::Refused(status) => (status.line(), status.line(), false),
    };
    let allow = match parsed {
        ParsedProbe::Refused(HttpStatus::MethodNotAllowed) => "Allow: GET, HEAD\r\n",
        _ => "",
    };
    let body = if head { String::new() } else { format!("{text}\n") };
    Some(
        format!(
            "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\n\
             Cache-Control: no-store\r\n{allow}Connection: close\r\n\r\n{body}",
            text.len() + 1
        )
        .into_bytes(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asks(probe: Probe) -> ParsedProbe {
        ParsedProbe::Asks { probe, head: false }
    }

    #[test]
    fn probes_are_recognized() {
        assert_eq!(parse(b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n"), asks(Probe::Live));
        assert_eq!(parse(b"GET /readyz?verbose HTTP/1.0\r\n\r\n"), asks(Probe::Ready));
        assert_eq!(parse(b"GET /startupz HTTP/1.1\n\n"), asks(Probe::Startup));
        assert_eq!(parse(b"GET /startupz HTTP/1.1\nA: b\n\nbody"), asks(Probe::Startup));
        let head = ParsedProbe::Asks { probe: Probe::Live, head: true };
        assert_eq!(parse(b"HEAD /livez HTTP/1.1\r\n\r\n"), head);
    }

    #[test]
    fn incomplete_head_is_partial() {
        let whole = b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n";
        for length in 0..whole.len() {
            assert_eq!(parse(&whole[..length]), ParsedProbe::Partial, "{length}");
        }
    }

    #[test]
    fn other_requests_are_refused() {
        let refused = |bytes: &[u8]| match parse(bytes) {
            ParsedProbe::Refused(status) => status,
            other => panic!("{other:?}"),
        };
        assert_eq!(refused(b"GET / HTTP/1.1\r\n\r\n"), HttpStatus::NotFound);
        assert_eq!(refused(b"GET /livez/ HTTP/1.1\r\n\r\n"), HttpStatus::NotFound);
        assert_eq!(refused(b"POST /livez HTTP/1.1\r\n"), HttpStatus::MethodNotAllowed);
        assert_eq!(refused(b"GET /livez HTTP/2.0\r\n"), HttpStatus::Version);
        assert_eq!(refused(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), HttpStatus::Version);
        for line in ["\n", "GET\n", "GET /livez\n", "GET  /livez HTTP/1.1\n", "\x16\x03\x01 a b\n"]
        {
            assert_eq!(refused(line.as_bytes()), HttpStatus::BadRequest, "{line:?}");
        }
        assert_eq!(refused(&[b'a'; MAX_HEAD]), HttpStatus::HeadTooLarge);
        let endless = [b"GET /livez HTTP/1.1\r\n".to_vec(), vec![b'a'; MAX_HEAD]].concat();
        assert_eq!(refused(&endless), HttpStatus::HeadTooLarge);
    }

    #[test]
    fn responses_have_status_length_and_body() {
        let text = |parsed, ok| {
            let result = if ok { ProbeResult::passes("yes") } else { ProbeResult::fails("no") };
            response(parsed, |_| result).map(|bytes| String::from_utf8(bytes).unwrap())
        };
        let yes = text(asks(Probe::Ready), true).unwrap();
        assert!(yes.starts_with("HTTP/1.1 200 OK\r\n") && yes.ends_with("\r\n\r\nyes\n"), "{yes}");
        assert!(yes.contains("Content-Length: 4\r\n"), "{yes}");
        let no = text(asks(Probe::Ready), false).unwrap();
        assert!(no.starts_with("HTTP/1.1 503 ") && no.ends_with("\r\n\r\nno\n"), "{no}");
        let head = text(ParsedProbe::Asks { probe: Probe::Live, head: true }, true).unwrap();
        assert!(head.contains("Content-Length: 4\r\n") && head.ends_with("\r\n\r\n"), "{head}");
        let post = text(ParsedProbe::Refused(HttpStatus::MethodNotAllowed), true).unwrap();
        assert!(post.starts_with("HTTP/1.1 405 ") && post.contains("\r\nAllow: GET, HEAD\r\n"));
        assert_eq!(text(ParsedProbe::Partial, true), None);
    }
}
