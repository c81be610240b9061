use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt::IpBindAddressNoPort};
use rustix::net::{RecvFlags, recv};
use tokio::net::{TcpSocket, TcpStream, UnixStream};
use tokio::time::timeout;

use super::Outcome;
use crate::http::{Parser, Response, Target};

/// The number of loopback addresses that the client connects from, in turn. With a single one, a load with
/// a connection per request would run out of ports, which stay in TIME_WAIT for a minute.
const SOURCES: u64 = 32;

/// A failed request: its outcome, and the error.
#[derive(Debug)]
pub(super) struct Lost {
    pub(super) outcome: Outcome,
    pub(super) detail: String,
}

impl Lost {
    fn new(outcome: Outcome, detail: impl ToString) -> Self {
        Self { outcome, detail: detail.to_string() }
    }
}

/// The state of a kept connection before a request is written to it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Idle {
    Usable,
    Closed,
    Unsolicited,
}

/// The end of a connection after its last response.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    Closed,
    Reset,
    Never,
    Unsolicited,
}

#[derive(Debug)]
pub(super) struct Channel {
    stream: Stream,
    parser: Parser,
    /// The number of requests written.
    pub(super) requests: u64,
}

#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Channel {
    /// Connects to `target`. `number`, the connection's place in the load, selects the source address.
    pub(super) async fn open(
        target: &Target,
        number: u64,
        patience: Duration,
    ) -> Result<Self, Lost> {
        let stream = match timeout(patience, connect(target, number)).await {
            Ok(connected) => connected.map_err(|error| {
                let outcome = match error.kind() {
                    io::ErrorKind::ConnectionRefused => Outcome::ConnectRefused,
                    io::ErrorKind::TimedOut => Outcome::ConnectTimeout,
                    _ => Outcome::ConnectOther,
                };
                Lost::new(outcome, error)
            })?,
            Err(_) => return Err(Lost::new(Outcome::ConnectTimeout, "no connection in time")),
        };
        Ok(Self { stream, parser: Parser::new(), requests: 0 })
    }

    /// The client's own address, if the connection is over TCP.
    pub(super) fn local(&self) -> Option<SocketAddr> {
        match &self.stream {
            Stream::Tcp(stream) => stream.local_addr().ok(),
            Stream::Unix(_) => None,
        }
    }

    /// Returns the state of the connection. Asks the socket itself, because the runtime may not have polled
    /// it since the server closed it.
    pub(super) fn idle(&self) -> Idle {
        let mut byte = [0u8; 1];
        match recv(self.stream.as_fd(), &mut byte[..], RecvFlags::PEEK | RecvFlags::DONTWAIT) {
            Err(rustix::io::Errno::AGAIN) => Idle::Usable,
            Ok((_, 0)) | Err(_) => Idle::Closed,
            Ok(_) => Idle::Unsolicited,
        }
    }

    /// Sends one request and reads its response.
    pub(super) async fn exchange(&mut self, request: &[u8]) -> Result<Response, Lost> {
        self.requests += 1;
        // A server may respond and close before it has read the whole request, so a failed write is
        // not the end: the response still counts.
        let written = self.stream.write_all(request).await;
        let mut buffer = [0; 8192];
        loop {
            let read = match self.stream.read(&mut buffer).await {
                Ok(0) => {
                    if let Some(response) = self.parser.end() {
                        return Ok(response);
                    }
                    return Err(match (self.parser.started(), written) {
                        (true, _) => Lost::new(Outcome::Truncated, "end within the response"),
                        (false, Err(error)) if is_reset(&error) => Lost::new(Outcome::Reset, error),
                        (false, Err(error)) => Lost::new(Outcome::Io, error),
                        (false, Ok(())) => Lost::new(Outcome::Closed, "end before the response"),
                    });
                }
                Ok(read) => read,
                Err(error) => {
                    return Err(match (self.parser.started(), is_reset(&error)) {
                        (true, true) => Lost::new(Outcome::Truncated, error),
                        (false, true) => Lost::new(Outcome::Reset, error),
                        (_, false) => Lost::new(Outcome::Io, error),
                    });
                }
            };
            let fed = self.parser.feed(&buffer[..read]);
            if let Some(response) = fed.map_err(|error| Lost::new(Outcome::Malformed, error))? {
                if !self.parser.leftover().is_empty() {
                    return Err(Lost::new(Outcome::Malformed, "more than the response"));
                }
                return Ok(response);
            }
        }
    }

    /// Waits for the end of the connection after its last response, as a correct client does.
    pub(super) async fn linger(&mut self, patience: Duration) -> End {
        match timeout(patience, self.stream.read(&mut [0; 64])).await {
            Ok(Ok(0)) => End::Closed,
            Ok(Ok(_)) => End::Unsolicited,
            Ok(Err(_)) => End::Reset,
            Err(_) => End::Never,
        }
    }
}

fn is_reset(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
}

async fn connect(target: &Target, number: u64) -> io::Result<Stream> {
    let addr = match target {
        Target::Unix(path) => return UnixStream::connect(path).await.map(Stream::Unix),
        Target::Tcp(addr) => *addr,
    };
    let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if addr.ip() == IpAddr::V4(Ipv4Addr::LOCALHOST) {
        let source = Ipv4Addr::new(127, 0, 0, 2 + (number % SOURCES) as u8);
        setsockopt(&socket, IpBindAddressNoPort, &true)?;
        socket.bind(SocketAddr::from((source, 0)))?;
    }
    let stream = socket.connect(addr).await?;
    stream.set_nodelay(true)?;
    Ok(Stream::Tcp(stream))
}

impl Stream {
    async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let written = match self {
                Stream::Tcp(stream) => stream.try_write(bytes),
                Stream::Unix(stream) => stream.try_write(bytes),
            };
            match written {
                Ok(written) => bytes = &bytes[written..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => match self {
                    Stream::Tcp(stream) => stream.writable().await?,
                    Stream::Unix(stream) => stream.writable().await?,
                },
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let read = match self {
                Stream::Tcp(stream) => stream.try_read(buffer),
                Stream::Unix(stream) => stream.try_read(buffer),
            };
            match read {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => match self {
                    Stream::Tcp(stream) => stream.readable().await?,
                    Stream::Unix(stream) => stream.readable().await?,
                },
                read => return read,
            }
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Stream::Tcp(stream) => stream.as_fd(),
            Stream::Unix(stream) => stream.as_fd(),
        }
    }
}
