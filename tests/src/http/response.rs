use std::fmt;

/// The most bytes of a head, and of a body that are kept. The rest of a body is counted and discarded.
const LIMIT: usize = 64 * 1024;

/// A complete HTTP response.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Response {
    /// The HTTP status code.
    pub status: u16,
    /// Names in lower case and trimmed values, in the order received.
    pub headers: Vec<(String, String)>,
    /// The first 64 KiB of the body.
    pub body: Vec<u8>,
    /// The length of the whole body.
    pub body_len: u64,
    /// Whether the connection may be used for another request.
    pub keep_alive: bool,
}

impl Response {
    /// Returns the first value of a header. `name` is in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The body as text, as far as it was kept.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Returns the number after `<key>=` in the body, as in `generation=3 pid=4711`.
    pub fn number(&self, key: &str) -> Option<u64> {
        let words = self.body.split(|byte| byte.is_ascii_whitespace());
        words
            .filter_map(|word| word.strip_prefix(key.as_bytes())?.strip_prefix(b"="))
            .find_map(|value| std::str::from_utf8(value).ok()?.parse().ok())
    }
}

/// The error for bytes that are not an HTTP/1.1 response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Malformed(String);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "malformed response: {}", self.0)
    }
}

impl std::error::Error for Malformed {}

/// Parses responses from the bytes of a connection. Interim responses (1xx) are skipped, except
/// `101 Switching Protocols`.
#[derive(Debug, Default)]
pub struct Parser {
    buffer: Vec<u8>,
    started: bool,
    state: State,
    response: Response,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Head,
    Length(u64),
    ChunkSize,
    ChunkData(u64),
    ChunkEnd,
    Trailers,
    UntilClose,
}

impl Parser {
    /// Creates a parser that expects the start of a response.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns whether any byte of the response has been received.
    pub fn started(&self) -> bool {
        self.started
    }

    /// Takes the bytes received after a complete response.
    pub fn leftover(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.buffer)
    }

    /// Adds bytes, and returns the response once they complete it.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Option<Response>, Malformed> {
        self.started |= !bytes.is_empty();
        self.buffer.extend_from_slice(bytes);
        loop {
            match self.state {
                State::Head => {
                    let Some(end) = find(&self.buffer, b"\r\n\r\n") else {
                        return match self.buffer.len() > LIMIT {
                            true => Err(Malformed("endless head".into())),
                            false => Ok(None),
                        };
                    };
                    let head: Vec<u8> = self.buffer.drain(..end + 4).collect();
                    self.head(&head[..end])?;
                }
                State::Length(0) => return Ok(Some(self.take())),
                State::Length(left) | State::ChunkData(left) if left > 0 => {
                    if self.buffer.is_empty() {
                        return Ok(None);
                    }
                    let now = left.min(self.buffer.len() as u64);
                    self.body(now as usize);
                    self.state = match self.state {
                        State::Length(_) => State::Length(left - now),
                        _ => State::ChunkData(left - now),
                    };
                }
                State::Length(_) => unreachable!(),
                State::ChunkData(_) => self.state = State::ChunkEnd,
                State::ChunkSize => {
                    let Some(line) = self.line()? else { return Ok(None) };
                    let digits = line.split(';').next().unwrap_or_default().trim();
                    let size = u64::from_str_radix(digits, 16)
                        .map_err(|_| Malformed(format!("chunk size `{line}`")))?;
                    self.state = if size == 0 { State::Trailers } else { State::ChunkData(size) };
                }
                State::ChunkEnd => {
                    let Some(line) = self.line()? else { return Ok(None) };
                    if !line.is_empty() {
                        return Err(Malformed("chunk longer than its size".into()));
                    }
                    self.state = State::ChunkSize;
                }
                State::Trailers => {
                    let Some(line) = self.line()? else { return Ok(None) };
                    if line.is_empty() {
                        return Ok(Some(self.take()));
                    }
                }
                State::UntilClose => {
                    self.body(self.buffer.len());
                    return Ok(None);
                }
            }
        }
    }

    /// Reports the end of the connection, which completes a response without a length, and no other.
    pub fn end(&mut self) -> Option<Response> {
        matches!(self.state, State::UntilClose).then(|| self.take())
    }

    fn head(&mut self, head: &[u8]) -> Result<(), Malformed> {
        let head = std::str::from_utf8(head).map_err(|_| Malformed("head is not text".into()))?;
        let mut lines = head.split("\r\n");
        let line = lines.next().unwrap_or_default();
        let status = || {
            let (version, rest) = line.strip_prefix("HTTP/1.")?.split_once(' ')?;
            let status = rest.split(' ').next()?;
            (status.len() == 3).then_some((version == "1", status.parse::<u16>().ok()?))
        };
        let (one_one, status) =
            status().ok_or_else(|| Malformed(format!("status line `{line}`")))?;
        let mut response = Response { status, keep_alive: one_one, ..Response::default() };
        for line in lines {
            let (name, value) =
                line.split_once(':').ok_or_else(|| Malformed(format!("header `{line}`")))?;
            response.headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        if (100..200).contains(&status) && status != 101 {
            return Ok(());
        }
        match response.header("connection").map(str::to_ascii_lowercase).as_deref() {
            Some("close") => response.keep_alive = false,
            Some("keep-alive") => response.keep_alive = true,
            _ => {}
        }
        let chunked = response
            .header("transfer-encoding")
            .is_some_and(|value| value.to_ascii_lowercase().ends_with("chunked"));
        self.state = match response.header("content-length") {
            _ if matches!(status, 101 | 204 | 304) => State::Length(0),
            _ if chunked => State::ChunkSize,
            Some(length) => State::Length(
                length.parse().map_err(|_| Malformed(format!("content-length `{length}`")))?,
            ),
            None => State::UntilClose,
        };
        if matches!(self.state, State::UntilClose) {
            response.keep_alive = false;
        }
        self.response = response;
        Ok(())
    }

    fn line(&mut self) -> Result<Option<String>, Malformed> {
        let Some(end) = find(&self.buffer, b"\r\n") else {
            return match self.buffer.len() > LIMIT {
                true => Err(Malformed("endless line".into())),
                false => Ok(None),
            };
        };
        let line = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
        self.buffer.drain(..end + 2);
        Ok(Some(line))
    }

    fn body(&mut self, length: usize) {
        let keep = length.min(LIMIT.saturating_sub(self.response.body.len()));
        self.response.body.extend_from_slice(&self.buffer[..keep]);
        self.response.body_len += length as u64;
        self.buffer.drain(..length);
    }

    fn take(&mut self) -> Response {
        self.state = State::Head;
        self.started = false;
        std::mem::take(&mut self.response)
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Option<Response>, Malformed> {
        // The result must not depend on how the bytes are split.
        let mut whole = Parser::new();
        let whole = whole.feed(text.as_bytes());
        let mut parser = Parser::new();
        let mut bytes = text.as_bytes().chunks(1);
        let pieces = bytes.find_map(|byte| parser.feed(byte).transpose()).transpose();
        assert_eq!(whole, pieces);
        whole
    }

    #[test]
    fn body_with_content_length_is_complete() {
        let response = parse("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: y\r\n\r\nhello").unwrap();
        let response = response.unwrap();
        assert_eq!((response.status, response.text().as_str()), (200, "hello"));
        assert!(response.keep_alive);
        assert_eq!(response.header("x"), Some("y"));
        assert_eq!(parse("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell").unwrap(), None);
    }

    #[test]
    fn chunked_body_is_decoded() {
        let text = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n\
                    3;x=y\r\nabc\r\nA\r\n0123456789\r\n0\r\nT: v\r\n\r\n";
        let response = parse(text).unwrap().unwrap();
        assert_eq!(response.text(), "abc0123456789");
        assert_eq!(response.body_len, 13);
        assert!(parse(&text.replace("3;x", "2;x")).is_err());
        assert!(parse(&text.replace("3;x", "z;x")).is_err());
    }

    #[test]
    fn interim_response_is_skipped() {
        let text = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n";
        assert_eq!(parse(text).unwrap().unwrap().status, 204);
    }

    #[test]
    fn body_without_length_ends_with_the_connection() {
        let mut parser = Parser::new();
        assert!(!parser.started());
        assert_eq!(parser.end(), None);
        let fed = parser.feed(b"HTTP/1.0 200 OK\r\n\r\nall of it").unwrap();
        assert!(parser.started() && fed.is_none());
        let response = parser.end().unwrap();
        assert_eq!(response.text(), "all of it");
        assert!(!response.keep_alive);
    }

    #[test]
    fn bytes_after_the_response_are_kept() {
        let mut parser = Parser::new();
        parser.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nHTTP/1.1").unwrap().unwrap();
        assert_eq!(parser.leftover(), b"HTTP/1.1");
    }

    #[test]
    fn keep_alive_follows_version_and_connection_header() {
        let keeps = |head: &str| {
            parse(&format!("{head}\r\nContent-Length: 0\r\n\r\n")).unwrap().unwrap().keep_alive
        };
        assert!(keeps("HTTP/1.1 200 OK"));
        assert!(!keeps("HTTP/1.1 200 OK\r\nConnection: Close"));
        assert!(!keeps("HTTP/1.0 200 OK"));
        assert!(keeps("HTTP/1.0 200 OK\r\nConnection: keep-alive"));
    }

    #[test]
    fn malformed_responses_are_errors() {
        assert!(parse("SSH-2.0-OpenSSH_9\r\n\r\n").is_err());
        assert!(parse("HTTP/1.1 2000 OK\r\n\r\n").is_err());
        assert!(parse("HTTP/1.1 200 OK\r\nnonsense\r\n\r\n").is_err());
        assert!(parse("HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n").is_err());
    }

    #[test]
    fn numbers_are_found_in_the_body() {
        let response =
            Response { body: b"generation=3 pid=4711\nversion=2".to_vec(), ..Response::default() };
        assert_eq!(response.number("generation"), Some(3));
        assert_eq!(response.number("pid"), Some(4711));
        assert_eq!(response.number("version"), Some(2));
        assert_eq!(response.number("eneration"), None);
    }
}
