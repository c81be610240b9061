//! The little server that answers probes, in the poll loop of whoever minds the daemon.
//!
//! No call here waits. A client has one request, a few kilobytes and a few seconds for it; past
//! [`MAX_CONNECTIONS`] the oldest makes room.

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

/// Listens where it was told to, if anywhere.
#[derive(Debug, Default)]
pub(crate) struct Server {
    /// By the address that was asked for; more than one while a restart changes it.
    listeners: SortedMap<SocketAddr, TcpListener>,
    connections: SortedMap<u64, Connection>,
    last: u64,
    /// Until when accepting rests, as it failed.
    rests: Option<Instant>,
}

#[derive(Debug)]
struct Connection {
    socket: TcpStream,
    read: Vec<u8>,
    /// What comes now is read, so that the answer is not lost to a reset, and not looked at.
    answered: bool,
    deadline: Instant,
}

/// What of a server is readable.
#[derive(Debug, Clone, Copy)]
pub(crate) enum ProbeSource {
    Listener(SocketAddr),
    Connection(u64),
}

/// A server on its way to the next program.
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

impl Server {
    /// One that listens at `addr`, or nowhere.
    pub(crate) fn bind(addr: Option<SocketAddr>) -> Result<Server> {
        let mut server = Server::default();
        if let Some(addr) = addr {
            server.listen(addr)?;
        }
        Ok(server)
    }

    /// Listens at `addr` too, unless it does.
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

    /// Takes over the listener that this process bound before its last exec.
    pub(crate) fn adopt(addr: SocketAddr, socket: OwnedFd) -> Server {
        let listeners = SortedMap::from([(addr, TcpListener::from(socket))]);
        Server { listeners, ..Server::default() }
    }

    /// The listeners, by the address that was asked for.
    pub(crate) fn listeners(&self) -> impl Iterator<Item = (SocketAddr, BorrowedFd<'_>)> {
        self.listeners.iter().map(|(addr, listener)| (*addr, listener.as_fd()))
    }

    /// Where it listens, with the port that the kernel chose.
    pub(crate) fn addrs(&self) -> impl Iterator<Item = SocketAddr> {
        self.listeners.iter().map(|(addr, it)| it.local_addr().unwrap_or(*addr))
    }

    /// Listens no longer at any address but these.
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

    pub(crate) fn unpack(packed: ProbeServerState) -> Result<Server> {
        let mut server = Server::default();
        for (addr, socket) in packed.listeners {
            let socket = socket.duplicate("the listener of probes")?;
            server.listeners.insert(addr, TcpListener::from(socket));
        }
        for ProbeConnectionState { socket, read, answered, deadline } in packed.connections {
            let socket = TcpStream::from(socket.duplicate("a client that probes")?);
            server.last += 1;
            let connection = Connection { socket, read, answered, deadline };
            server.connections.insert(server.last, connection);
        }
        Ok(server)
    }

    /// What to poll.
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

    /// Does what a readable source is readable for.
    ///
    /// # Errors
    /// Accepting failed, and rests for a moment: it would be the same at once.
    pub(crate) fn serve(
        &mut self,
        source: ProbeSource,
        now: Instant,
        verdict: impl Fn(Probe) -> ProbeResult,
    ) -> io::Result<()> {
        match source {
            ProbeSource::Listener(addr) => self.accept(addr, now),
            ProbeSource::Connection(id) => {
                if let Some(connection) = self.connections.get_mut(&id)
                    && connection.read(now, verdict).is_none()
                {
                    self.connections.remove(&id);
                }
                Ok(())
            }
        }
    }

    /// No more at a time than are served: others have to be heard as well.
    fn accept(&mut self, addr: SocketAddr, now: Instant) -> io::Result<()> {
        self.rests = None;
        for _ in 0..MAX_CONNECTIONS {
            let Some(listener) = self.listeners.get(&addr) else { break };
            let socket = match listener.accept() {
                Ok((socket, _)) => socket,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // One that has hung up before it was accepted is nobody's fault.
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
            let connection = Connection { socket, read: Vec::new(), answered: false, deadline };
            self.connections.insert(self.last, connection);
        }
        Ok(())
    }

    /// Hangs up on those whose time is over.
    pub(crate) fn expire(&mut self, now: Instant) {
        self.connections.retain(|_, connection| connection.deadline > now);
        self.rests = self.rests.filter(|until| *until > now);
    }

    /// When [`Server::expire`] or accepting is due next.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.connections.values().map(|connection| connection.deadline).chain(self.rests).min()
    }
}

impl Connection {
    /// Reads once, and answers when the request is whole. `None`: the connection is over.
    fn read(&mut self, now: Instant, verdict: impl Fn(Probe) -> ProbeResult) -> Option<()> {
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
        let Some(answer) = response(parsed, verdict) else { return Some(()) };
        // A new socket has room for so little; a client that broke it has no use for the answer.
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
    fn turn(server: &mut Server, limit: Duration) {
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

    fn local() -> (Server, SocketAddr) {
        let server = Server::bind(Some("127.0.0.1:0".parse().unwrap())).unwrap();
        let addr = server.addrs().next().unwrap();
        (server, addr)
    }

    const SOON: Duration = Duration::from_millis(50);

    #[test]
    fn one_request_one_answer() {
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
    fn those_who_say_nothing_are_bounded_in_number_and_time() {
        let (mut server, addr) = local();
        let mut silent = Vec::new();
        for _ in 0..3 {
            silent.extend((0..MAX_CONNECTIONS).map(|_| TcpStream::connect(addr).unwrap()));
            turn(&mut server, SOON);
        }
        assert_eq!(server.connections.len(), MAX_CONNECTIONS);
        // One that does say something is answered all the same.
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
    fn a_taken_address_is_named() {
        let (_server, addr) = local();
        let error = Server::bind(Some(addr)).unwrap_err().to_string();
        assert!(error.contains(&addr.to_string()) && error.contains("`probe`"), "{error}");
    }
}
