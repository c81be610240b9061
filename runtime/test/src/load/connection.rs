use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::net::{RecvFlags, recv};

use super::http::{self, Response};
use crate::address::Address;

/// A blocking connection to a listener.
#[derive(Debug)]
pub struct Connection {
    stream: Stream,
    timeout: Duration,
    requests: u64,
    /// The last response was the last of this connection.
    over: bool,
}

#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Connection {
    /// Connects to an address. The connect and each later read or write fail after `timeout`.
    ///
    /// # Errors
    ///
    /// If the connection cannot be established.
    pub fn open(addr: &Address, timeout: Duration) -> io::Result<Self> {
        let stream = match addr {
            Address::Tcp(addr) => {
                let stream = TcpStream::connect_timeout(addr, timeout)?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(timeout))?;
                stream.set_write_timeout(Some(timeout))?;
                Stream::Tcp(stream)
            }
            Address::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(Some(timeout))?;
                stream.set_write_timeout(Some(timeout))?;
                Stream::Unix(stream)
            }
        };
        Ok(Connection { stream, timeout, requests: 0, over: false })
    }

    /// Sends an HTTP/1.1 request that keeps the connection open, and reads the response.
    ///
    /// # Errors
    ///
    /// If the connection ends before the response is complete, or the response is not HTTP/1.
    pub fn get(&mut self, path: &str) -> io::Result<Response> {
        self.request(path, true)
    }

    /// Shuts down the sending direction: the peer reads the end of file.
    ///
    /// # Errors
    ///
    /// If the peer has reset the connection.
    pub fn finish(&self) -> io::Result<()> {
        match &self.stream {
            Stream::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Stream::Unix(stream) => stream.shutdown(Shutdown::Write),
        }
    }

    /// Returns whether the connection is open and the peer has sent nothing that was not read.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        let peeked = recv(self, &mut [0_u8][..], RecvFlags::PEEK | RecvFlags::DONTWAIT);
        matches!(peeked, Err(rustix::io::Errno::AGAIN))
    }

    pub(super) fn request(&mut self, path: &str, keep: bool) -> io::Result<Response> {
        let close = if keep { "" } else { "Connection: close\r\n" };
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{close}\r\n");
        // A server may answer and close before it has read the request, so a failed write is not the end.
        let written = self.write_all(request.as_bytes());
        let response = http::read_response(&mut *self);
        let (response, last) = response.map_err(|error| written.err().unwrap_or(error))?;
        self.over = last;
        Ok(response)
    }

    pub(super) fn is_over(&self) -> bool {
        self.over
    }

    /// Counts a request; returns its number.
    pub(super) fn count_request(&mut self) -> u64 {
        self.requests += 1;
        self.requests
    }
}

impl Read for Connection {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = match &mut self.stream {
            Stream::Tcp(stream) => stream.read(buffer),
            Stream::Unix(stream) => stream.read(buffer),
        };
        read.map_err(|error| match error.kind() {
            // The kernel's words for it: "Resource temporarily unavailable".
            io::ErrorKind::WouldBlock => {
                let message = format!("nothing was received for {:?}", self.timeout);
                io::Error::new(io::ErrorKind::TimedOut, message)
            }
            _ => error,
        })
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
