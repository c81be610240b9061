use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::{Parser, Response, Target};

/// The time that a connect or a single read may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// One blocking connection that the test drives byte by byte.
#[derive(Debug)]
pub struct Connection {
    stream: Stream,
    parser: Parser,
    leftover: Vec<u8>,
}

#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Connection {
    /// Connects to `target`.
    pub fn open(target: &Target) -> io::Result<Self> {
        let stream = match target {
            Target::Tcp(addr) => {
                let stream = TcpStream::connect_timeout(addr, PATIENCE)?;
                stream.set_nodelay(true)?;
                Stream::Tcp(stream)
            }
            Target::Unix(path) => Stream::Unix(UnixStream::connect(path)?),
        };
        let connection = Self { stream, parser: Parser::new(), leftover: Vec::new() };
        connection.patience(PATIENCE)?;
        Ok(connection)
    }

    /// Sets the time that a single read may take from now on.
    pub fn patience(&self, patience: Duration) -> io::Result<()> {
        match &self.stream {
            Stream::Tcp(stream) => stream.set_read_timeout(Some(patience)),
            Stream::Unix(stream) => stream.set_read_timeout(Some(patience)),
        }
    }

    /// Sends raw bytes, for example half a request head or a WebSocket frame.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.write_all(bytes.as_ref())
    }

    /// Reads the next response. If the connection ends first, the error is
    /// [`UnexpectedEof`](io::ErrorKind::UnexpectedEof).
    pub fn response(&mut self) -> io::Result<Response> {
        let mut bytes = std::mem::take(&mut self.leftover);
        loop {
            match self.parser.feed(&bytes).map_err(io::Error::other)? {
                Some(response) => {
                    self.leftover = self.parser.leftover();
                    return Ok(response);
                }
                None => bytes.resize(16 * 1024, 0),
            }
            match self.stream_read(&mut bytes)? {
                0 => return self.parser.end().ok_or(io::ErrorKind::UnexpectedEof.into()),
                read => bytes.truncate(read),
            }
        }
    }

    /// Sends a request that keeps the connection open, and reads the response.
    pub fn get(&mut self, path: &str) -> io::Result<Response> {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n"))?;
        self.response()
    }

    /// Waits until the peer closes the connection. Any byte before that is an error.
    pub fn closed(&mut self) -> io::Result<()> {
        let mut byte = [0];
        match self.read(&mut byte)? {
            0 => Ok(()),
            _ => Err(io::Error::other("the peer sent more")),
        }
    }

    /// Returns whether the peer has neither closed the connection nor sent anything.
    pub fn is_quiet(&self) -> bool {
        self.leftover.is_empty() && super::connection::is_quiet(self.as_fd())
    }

    /// Shuts down the sending direction.
    pub fn finish(&self) -> io::Result<()> {
        match &self.stream {
            Stream::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Stream::Unix(stream) => stream.shutdown(Shutdown::Write),
        }
    }

    fn stream_read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.stream {
            Stream::Tcp(stream) => stream.read(buffer),
            Stream::Unix(stream) => stream.read(buffer),
        }
    }
}

/// Yields the bytes received after the last response first, then those of the socket.
impl Read for Connection {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.leftover.is_empty() {
            return self.stream_read(buffer);
        }
        let length = buffer.len().min(self.leftover.len());
        buffer[..length].copy_from_slice(&self.leftover[..length]);
        self.leftover.drain(..length);
        Ok(length)
    }
}

impl Write for Connection {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.stream {
            Stream::Tcp(stream) => stream.write(bytes),
            Stream::Unix(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.stream {
            Stream::Tcp(stream) => stream.as_fd(),
            Stream::Unix(stream) => stream.as_fd(),
        }
    }
}

/// Returns whether a read would block: there is neither a byte nor an end of file nor an error.
fn is_quiet(fd: BorrowedFd<'_>) -> bool {
    use rustix::net::{RecvFlags, recv};
    let mut byte = [0u8; 1];
    let peeked = recv(fd, &mut byte[..], RecvFlags::PEEK | RecvFlags::DONTWAIT);
    matches!(peeked, Err(rustix::io::Errno::AGAIN))
}
