//! The clients connected to the control socket. A stuck one costs nothing: no call here waits.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use super::{ControlSocket, Reply, Request};
use crate::error::Result;
use crate::inherited_fd::{FdTable, InheritedFd};
use crate::json::{FromJson, ToJson};
use unbroken_core::sorted::SortedMap;

/// The most clients that are connected at the same time; past that one that sent no request is
/// disconnected. Each takes a descriptor of the supervisor.
const MAX_CLIENTS: usize = 128;

/// How long a client may take to send its request. Commands send it at once; a longer time only
/// lets idle clients hold their places.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// How long no client is accepted after an error. Most errors are a lack of descriptors, which
/// lasts; without the delay the supervisor would poll in a busy loop.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_secs(1);

/// All connected clients.
#[derive(Debug, Default)]
pub(crate) struct Clients {
    connected: SortedMap<u64, Client>,
    last: u64,
    /// Until when accepting rests, as it failed.
    rests: Option<Instant>,
}

#[derive(Debug)]
struct Client {
    socket: OwnedFd,
    /// Until it has said what it wants.
    deadline: Option<Instant>,
}

/// What a readable client had to say.
#[derive(Debug)]
pub(crate) enum ClientInput {
    Request(Request),
    /// It hung up, or talks nonsense and was closed.
    Gone,
    Nothing,
}

/// The clients on their way to the next program, with what they wait for.
#[derive(Debug, ToJson, FromJson)]
pub(crate) struct ClientsState {
    connected: SortedMap<u64, ClientState>,
    last: u64,
}

#[derive(Debug, ToJson, FromJson)]
struct ClientState {
    socket: InheritedFd,
    #[json(default, with = crate::sys::clock::optional_instant)]
    deadline: Option<Instant>,
}

impl Clients {
    pub(crate) fn pack(&self, packing: &mut FdTable) -> ClientsState {
        let connected = self.connected.iter().map(|(id, client)| {
            let socket = packing.add(&client.socket);
            (*id, ClientState { socket, deadline: client.deadline })
        });
        ClientsState { connected: connected.collect(), last: self.last }
    }

    pub(crate) fn unpack(packed: ClientsState) -> Result<Clients> {
        let mut clients = Clients { last: packed.last, ..Clients::default() };
        for (id, ClientState { socket, deadline }) in packed.connected {
            let socket = socket.duplicate("a control client")?;
            clients.connected.insert(id, Client { socket, deadline });
        }
        Ok(clients)
    }

    /// Whether accepting does not rest: else who waits at the socket shall not be polled for.
    pub(crate) fn accepts(&self, now: Instant) -> bool {
        self.rests.is_none_or(|until| until <= now)
    }

    /// Takes in who waits at the socket, though not more at a time than are served: others than clients
    /// have to be heard as well. Rests for a moment after an error, such as that no
    /// descriptor is left: it would be the same at once.
    pub(crate) fn accept(&mut self, socket: &ControlSocket, now: Instant) -> io::Result<()> {
        self.rests = None;
        for _ in 0..MAX_CLIENTS {
            let accepted =
                socket.accept().inspect_err(|_| self.rests = Some(now + ACCEPT_RETRY_DELAY))?;
            let Some(client) = accepted else { break };
            if !self.make_room() {
                let reason =
                    format!("{MAX_CLIENTS} clients are already waiting for an answer; try again");
                // Turned away: whether it listens is its affair.
                let _ = crate::link::send(&client, &Reply::Refused { reason }, &[]);
                continue;
            }
            self.last += 1;
            let deadline = Some(now + REQUEST_TIMEOUT);
            self.connected.insert(self.last, Client { socket: client, deadline });
        }
        Ok(())
    }

    /// Closes the oldest of those that say nothing, where there are too many: who means to ask does so at
    /// once. `false`: all have asked.
    fn make_room(&mut self) -> bool {
        if self.connected.len() < MAX_CLIENTS {
            return true;
        }
        let mut connected = self.connected.iter();
        let silent = connected.find(|(_, client)| client.deadline.is_some()).map(|(id, _)| *id);
        if let Some(silent) = silent {
            self.refuse(
                silent,
                "disconnected: too many clients, and this one sent no request; try again",
            );
        }
        silent.is_some()
    }

    /// The sockets to poll.
    pub(crate) fn sockets(&self) -> impl Iterator<Item = (u64, BorrowedFd<'_>)> {
        self.connected.iter().map(|(id, client)| (*id, client.socket.as_fd()))
    }

    /// Reads from a client that is readable. One that is gone is closed.
    pub(crate) fn read(&mut self, id: u64) -> ClientInput {
        let Some(client) = self.connected.get_mut(&id) else { return ClientInput::Nothing };
        match crate::link::receive::<Request>(&client.socket) {
            Ok(Some((request, _))) if client.deadline.is_some() => {
                client.deadline = None;
                ClientInput::Request(request)
            }
            Ok(Some(_)) => {
                self.refuse(id, "only one request per connection");
                ClientInput::Gone
            }
            Ok(None) => {
                self.connected.remove(&id);
                ClientInput::Gone
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => ClientInput::Nothing,
            Err(error) => {
                self.refuse(id, &format!("cannot parse the request: {error}"));
                ClientInput::Gone
            }
        }
    }

    /// Sends a reply. A client that does not read is closed.
    pub(crate) fn reply(&mut self, id: u64, reply: &Reply) {
        let Some(client) = self.connected.get(&id) else { return };
        let sent = crate::link::send(&client.socket, reply, &[]);
        if sent.is_err() || !matches!(reply, Reply::Progress { .. }) {
            self.connected.remove(&id);
        }
    }

    /// Shows a step to everyone who waits for an answer.
    pub(crate) fn progress(&mut self, text: &str) {
        let waiting: Vec<u64> = self
            .connected
            .iter()
            .filter(|(_, client)| client.deadline.is_none())
            .map(|(id, _)| *id)
            .collect();
        for id in waiting {
            self.reply(id, &Reply::Progress { text: text.to_owned() });
        }
    }

    fn refuse(&mut self, id: u64, reason: &str) {
        self.reply(id, &Reply::Refused { reason: reason.to_owned() });
    }

    /// Closes those that said nothing in time.
    pub(crate) fn expire(&mut self, now: Instant) {
        self.connected.retain(|_, client| client.deadline.is_none_or(|deadline| deadline > now));
        self.rests = self.rests.filter(|until| *until > now);
    }

    /// When [`Clients::expire`] or [`Clients::accept`] is due next.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.connected.values().filter_map(|client| client.deadline).chain(self.rests).min()
    }
}
