//! A small HTTP server for probes, driven by the poll loop of the supervisor or of a solo daemon's control
//! thread.
//!
//! No call here waits. A client may send one request, of a few kilobytes and within a few seconds; past
//! [`MAX_CONNECTIONS`] the oldest connection is closed.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use super::http::{MAX_HEAD, ParsedProbe, parse, response};
use super::{Probe, ProbeResult};
use crate::error::{Error, ErrorKind, Result};
use crate::inherited_fd::{FdTable, InheritedFd};
use crate::json::{FromJson, ToJson};
use unbroken_core::sorted::SortedMap;

/// The most clients of probes that are connected at the same time. Each takes a descriptor of the
/// supervisor.
const MAX_CONNECTIONS: usize = 64;

/// How long a client may take to send its request, and how long to close after the answer. Probes
/// time out after 1 s by default in Kubernetes; a longer time only lets idle clients hold the few
/// places.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long no connection is accepted after an error. Most errors are a lack of descriptors, which
/// lasts; without the delay the supervisor would poll in a busy loop, and a much longer one would
/// fail probes.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_secs(1);

/// The server. Without a configured address it has no listener.
#[derive(Debug, Default)]
pub(crate) struct ProbeServer {
    /// By configured address; two while a restart changes the address.
    listeners: SortedMap<SocketAddr, TcpListener>,
    connections: SortedMap<u64, ProbeConnection>,
    /// The number of the last connection.
    last: u64,
    /// The end of the pause after a failure to accept.
    rests: Option<Instant>,
}

#[derive(Debug)]
struct ProbeConnection {
    socket: TcpStream,
    read: Vec<u8>,
    /// Whether the response was sent. Further bytes are read and ignored: closing a socket with unread bytes
    /// resets the connection, and the client could lose the response.
    answered: bool,
    deadline: Instant,
}

/// A descriptor of the server to poll.
#[derive(Debug, Clone, Copy)]
pub(crate) enum ProbeSource {
    Listener(SocketAddr),
    Connection(u64),
}

/// A server in the state for the next image.
#[derive(Debug, Default, ToJson, FromJson)]
pub(crate) struct ProbeServerState {
    #[json(default)]
    listeners: Vec<(SocketAddr, InheritedFd)>,
    #[json(default)]
    connections: Vec<ProbeConnectionState>,
}

#[derive(Debug, ToJson, FromJson)]
struct ProbeConnectionState {
    socket: InheritedFd,
    read: Vec<u8>,
    answered: bool,
    #[json(with = crate::sys::clock::instant)]
    deadline: Instant,
}

impl ProbeServer {
    /// A server that listens at `addr`, if there is one.
    pub(crate) fn bind(addr: Option<SocketAddr>) -> Result<ProbeServer> {
        let mut server = ProbeServer::default();
        if let Some(addr) = addr {
            server.listen(addr)?;
        }
        Ok(server)
    }

    /// Listens at `addr` in addition, unless it already does.
    pub(crate) fn listen(&mut self, addr: SocketAddr) -> Result<()> {
        if self.listeners.contains_key(&addr) {
            return Ok(());
        }
        let bound = TcpListener::bind(addr)
            .and_then(|listener| listener.set_nonblocking(true).map(|()| listener));
        let listener = bound.map_err(|error| {
            let advice = match error.kind() {
                io::ErrorKind::AddrInUse => {
                    "; another process listens there: stop it or change `probe`"
                }
                _ => "; change `probe`",
            };
            let what = format!("cannot bind {addr} for probes{advice}");
            Error::os(ErrorKind::Listen, what, error)
        })?;
        self.listeners.insert(addr, listener);
        Ok(())
    }

    /// A server with the listener that this process bound before its last exec.
    pub(crate) fn adopt(addr: SocketAddr, socket: OwnedFd) -> ProbeServer {
        let listeners = SortedMap::from([(addr, TcpListener::from(socket))]);
        ProbeServer { listeners, ..ProbeServer::default() }
    }

    /// The listeners, by configured address.
    pub(crate) fn listeners(&self) -> impl Iterator<Item = (SocketAddr, BorrowedFd<'_>)> {
        self.listeners.iter().map(|(addr, listener)| (*addr, listener.as_fd()))
    }

    /// The addresses of the listeners, with the ports that the kernel chose.
    pub(crate) fn addrs(&self) -> impl Iterator<Item = SocketAddr> {
        self.listeners.iter().map(|(addr, it)| it.local_addr().unwrap_or(*addr))
    }

    /// Closes the listeners at all other addresses.
    pub(crate) fn keep(&mut self, wanted: &[SocketAddr]) {
        self.listeners.retain(|addr, _| wanted.contains(addr));
    }

    pub(crate) fn pack(&self, packing: &mut FdTable) -> ProbeServerState {
        ProbeServerState {
            listeners: self.listeners.iter().map(|(addr, it)| (*addr, packing.add(it))).collect(),
            connections: self
                .connections
                .values()
                .map(|connection| ProbeConnectionState {
                    socket: packing.add(&connection.socket),
                    read: connection.read.clone(),
                    answered: connection.answered,
                    deadline: connection.deadline,
                })
                .collect(),
        }
    }

    pub(crate) fn unpack(packed: ProbeServerState) -> Result<ProbeServer> {
        let mut server = ProbeServer::default();
        for (addr, socket) in packed.listeners {
            let socket = socket.duplicate("the listener of probes")?;
            server.listeners.insert(addr, TcpListener::from(socket));
        }
        for ProbeConnectionState { socket, read, answered, deadline } in packed.connections {
            let socket = TcpStream::from(socket.duplicate("a client that probes")?);
            server.last += 1;
            let connection = ProbeConnection { socket, read, answered, deadline };
            server.connections.insert(server.last, connection);
        }
        Ok(server)
    }

    /// The descriptors to poll.
    pub(crate) fn sources(
        &self,
        now: Instant,
    ) -> impl Iterator<Item = (ProbeSource, BorrowedFd<'_>)> {
        let accepts = self.rests.is_none_or(|until| until <= now);
        let listeners = self.listeners.iter().filter(move |_| accepts);
        let listeners = listeners.map(|(addr, it)| (ProbeSource::Listener(*addr), it.as_fd()));
        let connections = self.connections.iter();
        listeners
            .chain(connections.map(|(id, it)| (ProbeSource::Connection(*id), it.socket.as_fd())))
    }

    /// Accepts connections from a readable listener, or reads from a readable connection.
    ///
    /// # Errors
    /// Fails if accepting failed, which then pauses for a moment.
    pub(crate) fn serve(
        &mut self,
        source: ProbeSource,
        now: Instant,
        check: impl Fn(Probe) -> ProbeResult,
    ) -> io::Result<()> {
        match source {
            ProbeSource::Listener(addr) => self.accept(addr, now),
            ProbeSource::Connection(id) => {
                if let Some(connection) = self.connections.get_mut(&id)
                    && connection.read(now, check).is_none()
                {
                    self.connections.remove(&id);
                }
                Ok(())
            }
        }
    }

    /// Accepts at most [`MAX_CONNECTIONS`] in one call, to let the poll loop attend to other descriptors.
    fn accept(&mut self, addr: SocketAddr, now: Instant) -> io::Result<()> {
        self.rests = None;
        for _ in 0..MAX_CONNECTIONS {
            let Some(listener) = self.listeners.get(&addr) else { break };
            let socket = match listener.accept() {
                Ok((socket, _)) => socket,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // The client closed its connection before it was accepted.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
                Err(error) => {
                    self.rests = Some(now + ACCEPT_RETRY_DELAY);
                    return Err(error);
                }
            };
            socket.set_nonblocking(true)?;
            if self.connections.len() >= MAX_CONNECTIONS {
                self.connections.pop_first();
            }
            self.last += 1;
            let deadline = now + CLIENT_TIMEOUT;
            let connection =
                ProbeConnection { socket, read: Vec::new(), answered: false, deadline };
            self.connections.insert(self.last, connection);
        }
        Ok(())
    }

    /// Closes the connections that are past their deadline.
    pub(crate) fn expire(&mut self, now: Instant) {
        self.connections.retain(|_, connection| connection.deadline > now);
        self.rests = self.rests.filter(|until| *until > now);
    }

    /// The next time at which [`Server::expire`] is due or accepting resumes.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.connections.values().map(|connection| connection.deadline).chain(self.rests).min()
    }
}

impl ProbeConnection {
    /// Reads once, and responds if the request is complete. `None`: the connection is to be closed.
    fn read(&mut self, now: Instant, check: impl Fn(Probe) -> ProbeResult) -> Option<()> {
        let mut bytes = [0; MAX_HEAD];
        let space = if self.answered { MAX_HEAD } else { MAX_HEAD - self.read.len() };
        let length = match self.socket.read(&mut bytes[..space]) {
            Ok(0) => return None,
            Ok(length) => length,
            Err(error) => {
                let later = [io::ErrorKind::WouldBlock, io::ErrorKind::Interrupted];
                return later.contains(&error.kind()).then_some(());
            }
        };
        if self.answered {
            return Some(());
        }
        self.read.extend_from_slice(&bytes[..length]);
        let parsed = parse(&self.read);
        debug_assert!(parsed != ParsedProbe::Partial || self.read.len() < MAX_HEAD);
        let Some(answer) = response(parsed, check) else { return Some(()) };
        // The send buffer of a new socket has room for a response. An error means that the client is gone.
        self.socket.write_all(&answer).ok()?;
        self.socket.shutdown(Shutdown::Write).ok()?;
        self.answered = true;
        self.read = Vec::new();
        self.deadline = self.deadline.max(now + CLIENT_TIMEOUT);
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::readiness::readable;

    /// Serves until there is nothing to be done for the next moment.
    fn turn(server: &mut ProbeServer, limit: Duration) {
        let until = Instant::now() + limit;
        loop {
            let now = Instant::now();
            let sources: Vec<(ProbeSource, BorrowedFd<'_>)> = server.sources(now).collect();
            let ready = readable(&sources, Some(until)).unwrap();
            drop(sources);
            if ready.is_empty() {
                return;
            }
            for source in ready {
                server.serve(source, now, |_| ProbeResult::passes("fine")).unwrap();
            }
        }
    }

    fn local() -> (ProbeServer, SocketAddr) {
        let server = ProbeServer::bind(Some("127.0.0.1:0".parse().unwrap())).unwrap();
        let addr = server.addrs().next().unwrap();
        (server, addr)
    }

    const SOON: Duration = Duration::from_millis(50);

    #[test]
    fn each_connection_gets_one_response() {
        let (mut server, addr) = local();
        let mut client = TcpStream::connect(addr).unwrap();
        client.write_all(b"GET /livez HT").unwrap();
        turn(&mut server, SOON);
        client.write_all(b"TP/1.1\r\n\r\nGET /livez HTTP/1.1\r\n\r\n").unwrap();
        turn(&mut server, SOON);
        let mut text = String::new();
        client.read_to_string(&mut text).unwrap();
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n") && text.ends_with("\r\n\r\nfine\n"));
        assert_eq!(server.connections.len(), 1, "until it has hung up");
        drop(client);
        turn(&mut server, SOON);
        assert_eq!(server.connections.len(), 0);
    }

    #[test]
    fn silent_clients_are_bounded_in_number_and_time() {
        let (mut server, addr) = local();
        let mut silent = Vec::new();
        for _ in 0..3 {
            silent.extend((0..MAX_CONNECTIONS).map(|_| TcpStream::connect(addr).unwrap()));
            turn(&mut server, SOON);
        }
        assert_eq!(server.connections.len(), MAX_CONNECTIONS);
        // A client that sends a request is answered all the same.
        let mut client = TcpStream::connect(addr).unwrap();
        client.write_all(b"GET /readyz HTTP/1.1\r\n\r\n").unwrap();
        turn(&mut server, SOON);
        let mut text = String::new();
        client.read_to_string(&mut text).unwrap();
        assert!(text.starts_with("HTTP/1.1 200 "), "{text}");
        let due = server.deadline().unwrap();
        assert!(due <= Instant::now() + CLIENT_TIMEOUT);
        server.expire(Instant::now() + CLIENT_TIMEOUT);
        assert_eq!((server.connections.len(), server.deadline()), (0, None));
        drop(silent);
    }

    #[test]
    fn address_in_use_is_named() {
        let (_server, addr) = local();
        let error = ProbeServer::bind(Some(addr)).unwrap_err().to_string();
        assert!(error.contains(&addr.to_string()) && error.contains("`probe`"), "{error}");
    }
}
