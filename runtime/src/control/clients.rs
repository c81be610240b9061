//! The clients connected to the control socket. No call here waits for a client, so that a stuck one does
//! no harm.

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
    /// The clients by number.
    connected: SortedMap<u64, Client>,
    /// The number of the client that connected last.
    last: u64,
    /// The end of the pause in accepting, after an error.
    rests: Option<Instant>,
}

/// A connected client.
#[derive(Debug)]
struct Client {
    socket: OwnedFd,
    /// When its request must have arrived; `None` once it has.
    deadline: Option<Instant>,
}

/// What was read from a client.
#[derive(Debug)]
pub(crate) enum ClientInput {
    /// Its request.
    Request(Request),
    /// It disconnected, or was closed because it broke the protocol.
    Gone,
    /// Nothing yet.
    Nothing,
}

/// The clients in the state that a supervisor hands to its next image.
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

    /// Returns whether the control socket should be polled: not during the pause after an error.
    pub(crate) fn accepts(&self, now: Instant) -> bool {
        self.rests.is_none_or(|until| until <= now)
    }

    /// Accepts the clients that wait at the socket, at most [`MAX_CLIENTS`] at a time, so that the caller can
    /// handle other descriptors in between. After an error, accepting pauses.
    pub(crate) fn accept(&mut self, socket: &ControlSocket, now: Instant) -> io::Result<()> {
        self.rests = None;
        for _ in 0..MAX_CLIENTS {
            let accepted =
                socket.accept().inspect_err(|_| self.rests = Some(now + ACCEPT_RETRY_DELAY))?;
            let Some(client) = accepted else { break };
            if !self.make_room() {
                let reason =
                    format!("{MAX_CLIENTS} clients are already waiting for an answer; try again");
                // The client is closed, whether it reads this or not.
                let _ = crate::link::send(&client, &Reply::Refused { reason }, &[]);
                continue;
            }
            self.last += 1;
            let deadline = Some(now + REQUEST_TIMEOUT);
            self.connected.insert(self.last, Client { socket: client, deadline });
        }
        Ok(())
    }

    /// Makes room for one more client, if necessary by closing the oldest that has sent no request. Returns
    /// whether there is room.
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

    /// Returns the sockets to poll.
    pub(crate) fn sockets(&self) -> impl Iterator<Item = (u64, BorrowedFd<'_>)> {
        self.connected.iter().map(|(id, client)| (*id, client.socket.as_fd()))
    }

    /// Reads from a client whose socket is readable, and closes it if it has disconnected.
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

    /// Sends a reply, and closes the client after a final one or if it does not read.
    pub(crate) fn reply(&mut self, id: u64, reply: &Reply) {
        let Some(client) = self.connected.get(&id) else { return };
        let sent = crate::link::send(&client.socket, reply, &[]);
        if sent.is_err() || !matches!(reply, Reply::Progress { .. }) {
            self.connected.remove(&id);
        }
    }

    /// Shows a step to all clients that wait for an answer.
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

    /// Refuses a request and closes the client.
    fn refuse(&mut self, id: u64, reason: &str) {
        self.reply(id, &Reply::Refused { reason: reason.to_owned() });
    }

    /// Closes the clients that sent no request in time.
    pub(crate) fn expire(&mut self, now: Instant) {
        self.connected.retain(|_, client| client.deadline.is_none_or(|deadline| deadline > now));
        self.rests = self.rests.filter(|until| *until > now);
    }

    /// Returns when [`Clients::expire`] or [`Clients::accept`] is due next.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.connected.values().filter_map(|client| client.deadline).chain(self.rests).min()
    }
}
