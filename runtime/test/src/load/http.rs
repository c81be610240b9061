//! The client's side of HTTP/1.1, as far as a `GET` needs it (RFC 9112).

use std::io::{self, BufRead, BufReader, Read};

/// The most bytes of a line or of all headers.
const MAX_HEAD: u64 = 64 * 1024;

/// A complete HTTP response.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Names in lower case, and values, in the order received.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Response {
    /// Returns the first value of a header, whose name is in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Returns the body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Returns whether a header lists a word.
    fn lists(&self, name: &str, word: &str) -> bool {
        let words = self.header(name).into_iter().flat_map(|value| value.split(','));
        words.map(str::trim).any(|it| it.eq_ignore_ascii_case(word))
    }
}

/// Reads the response to a `GET`, and whether it is the last of its connection.
pub(super) fn read_response(reader: impl Read) -> io::Result<(Response, bool)> {
    let mut reader = BufReader::new(reader);
    let (mut response, persistent) = loop {
        let (response, persistent) = read_head(&mut reader)?;
        // Interim responses precede the response itself.
        if !(100..200).contains(&response.status) || response.status == 101 {
            break (response, persistent);
        }
    };
    let length = response.header("content-length").map(str::parse::<u64>).transpose();
    let length = length.map_err(|_| malformed("its content-length is not a number"))?;
    let mut last = !persistent;
    if matches!(response.status, 101 | 204 | 304) {
        // Without a body.
    } else if response.lists("transfer-encoding", "chunked") {
        response.body = read_chunks(&mut reader)?;
    } else if let Some(length) = length {
        response.body = read_exactly(&mut reader, length)?;
    } else {
        reader.read_to_end(&mut response.body)?;
        last = true;
    }
    match reader.buffer() {
        [] => Ok((response, last)),
        _ => Err(malformed("more bytes follow it")),
    }
}

/// Reads the status line and the headers, and whether the connection persists.
fn read_head(reader: &mut impl BufRead) -> io::Result<(Response, bool)> {
    if reader.fill_buf()?.is_empty() {
        let message = "the connection ended before the response";
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, message));
    }
    let mut head = reader.take(MAX_HEAD);
    let line = read_line(&mut head)?;
    let parsed = line.strip_prefix("HTTP/1.").and_then(|rest| {
        let (minor, rest) = rest.split_once(' ')?;
        let digits = rest.split(' ').next().filter(|digits| digits.len() == 3)?;
        Some((minor == "1", digits.parse().ok()?))
    });
    let (one_one, status) = parsed.ok_or_else(|| malformed(&format!("it begins with `{line}`")))?;
    let mut response = Response { status, ..Response::default() };
    loop {
        let line = read_line(&mut head)?;
        if line.is_empty() {
            break;
        }
        let header = line.split_once(':');
        let (name, value) = header.ok_or_else(|| malformed(&format!("`{line}` is no header")))?;
        response.headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let persistent = match one_one {
        true => !response.lists("connection", "close"),
        false => response.lists("connection", "keep-alive"),
    };
    Ok((response, persistent))
}

fn read_chunks(reader: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = read_line(&mut reader.take(MAX_HEAD))?;
        let digits = line.split(';').next().unwrap_or_default().trim();
        let size = u64::from_str_radix(digits, 16)
            .map_err(|_| malformed(&format!("`{line}` is no size of a chunk")))?;
        if size == 0 {
            break;
        }
        body.extend(read_exactly(reader, size)?);
        if !read_line(&mut reader.take(MAX_HEAD))?.is_empty() {
            return Err(malformed("a chunk is longer than its size"));
        }
    }
    let mut trailers = reader.take(MAX_HEAD);
    while !read_line(&mut trailers)?.is_empty() {}
    Ok(body)
}

fn read_exactly(reader: &mut impl Read, length: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = reader.take(length).read_to_end(&mut bytes)?;
    if (read as u64) < length { Err(truncated()) } else { Ok(bytes) }
}

/// Reads a line without its end.
fn read_line(reader: &mut impl BufRead) -> io::Result<String> {
    let mut line = Vec::new();
    reader.read_until(b'\n', &mut line)?;
    match line.strip_suffix(b"\r\n") {
        Some(text) => {
            String::from_utf8(text.to_vec()).map_err(|_| malformed("a line is not UTF-8"))
        }
        None if line.ends_with(b"\n") => Err(malformed("a line ends without CR")),
        None => Err(truncated()),
    }
}

fn truncated() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the connection ended within the response")
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the response is malformed: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> io::Result<(Response, bool)> {
        read_response(text.as_bytes())
    }

    #[test]
    fn body_with_content_length() {
        let text = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: y\r\n\r\nhello";
        let (response, last) = read(text).unwrap();
        assert_eq!((response.status, response.text().as_str(), last), (200, "hello", false));
        assert_eq!(response.header("x"), Some("y"));
        for cut in 1..text.len() {
            assert_eq!(read(&text[..cut]).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        }
        assert_eq!(read(&format!("{text}!")).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn chunked_body() {
        let text = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n\
                    3;x=y\r\nabc\r\nA\r\n0123456789\r\n0\r\nT: v\r\n\r\n";
        assert_eq!(read(text).unwrap().0.text(), "abc0123456789");
        for cut in 1..text.len() {
            assert!(read(&text[..cut]).is_err(), "{cut}");
        }
        assert!(read(&text.replace("3;x", "2;x")).is_err());
        assert!(read(&text.replace("3;x", "z;x")).is_err());
    }

    #[test]
    fn body_to_the_end_of_the_connection() {
        let (response, last) = read("HTTP/1.0 200 OK\r\n\r\nall of it").unwrap();
        assert_eq!((response.text().as_str(), last), ("all of it", true));
    }

    #[test]
    fn interim_response_is_skipped() {
        let text = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n";
        assert_eq!(read(text).unwrap().0.status, 204);
    }

    #[test]
    fn last_response_of_a_connection() {
        let last = |head: &str| read(&format!("{head}\r\nContent-Length: 0\r\n\r\n")).unwrap().1;
        assert!(!last("HTTP/1.1 200 OK"));
        assert!(last("HTTP/1.1 200 OK\r\nConnection: Close"));
        assert!(last("HTTP/1.0 200 OK"));
        assert!(!last("HTTP/1.0 200 OK\r\nConnection: keep-alive"));
    }

    #[test]
    fn malformed_responses() {
        for text in [
            "SSH-2.0-OpenSSH_9\r\n\r\n",
            "HTTP/1.1 2000 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\nnonsense\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
            "HTTP/1.1 200 OK\n\n",
        ] {
            assert_eq!(read(text).unwrap_err().kind(), io::ErrorKind::InvalidData, "{text}");
        }
    }
}
