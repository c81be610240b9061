//! One browser's connection, from its handshake or handoff until it closes or is handed off.

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tungstenite::protocol::frame::coding::CloseCode;
use unbroken::Daemon;
use unbroken::handoff::{HandoffError, HandoffState};
use unbroken::net::Stream;

use crate::BUILD;
use crate::frame::{self, Received};
use crate::room::{Heard, Message, Place, Room};

/// The number of unsent bytes at which a slow browser gets no new messages. They are part of the state that
/// is handed off, which may have 64 KiB.
const MAX_WAITING: usize = 16 * 1024;

/// The time over which browsers that cannot be handed off are asked to reconnect, each at a random moment.
const JITTER: Duration = Duration::from_secs(5);

pub(crate) struct Client {
    name: String,
    /// Whether the connection was handed off by an older generation.
    passed: bool,
    /// The last message that the browser received in an older generation.
    upto: Option<Place>,
    /// Bytes read that are not yet a complete frame.
    incoming: BytesMut,
    /// Bytes not yet written.
    outgoing: BytesMut,
}

/// The header of the handoff state: a line of JSON before the bytes of `incoming` and `outgoing`.
#[derive(Serialize, Deserialize)]
struct Known {
    name: String,
    upto: Option<Place>,
    incoming: usize,
}

/// A message to the page.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Told<'a> {
    /// The generation that serves the browser now.
    Served {
        generation: u32,
        build: &'a str,
        name: &'a str,
    },
    Said {
        at: Place,
        name: &'a str,
        text: &'a str,
    },
}

impl Client {
    /// A browser that has just joined; `read` are the bytes read after its handshake.
    pub(crate) fn new(name: String, read: &[u8]) -> Client {
        let (incoming, outgoing) = (BytesMut::from(read), BytesMut::new());
        Client { name, passed: false, upto: None, incoming, outgoing }
    }

    /// A browser that an older generation hands off. Returns `None` if its state cannot be read.
    pub(crate) fn restore(saved: &HandoffState) -> Option<Client> {
        if saved.version != 1 {
            return None;
        }
        let end = saved.bytes.iter().position(|byte| *byte == b'\n')?;
        let known: Known = serde_json::from_slice(&saved.bytes[..end]).ok()?;
        let (incoming, outgoing) = saved.bytes[end + 1..].split_at_checked(known.incoming)?;
        Some(Client {
            name: known.name,
            passed: true,
            upto: known.upto,
            incoming: incoming.into(),
            outgoing: outgoing.into(),
        })
    }

    fn save(&self) -> serde_json::Result<HandoffState> {
        let known =
            Known { name: self.name.clone(), upto: self.upto, incoming: self.incoming.len() };
        let mut bytes = serde_json::to_vec(&known)?;
        bytes.push(b'\n');
        bytes.extend_from_slice(&self.incoming);
        bytes.extend_from_slice(&self.outgoing);
        Ok(HandoffState { version: 1, bytes })
    }

    /// Serves the browser until it leaves or the next generation has accepted its connection.
    pub(crate) async fn run(mut self, daemon: Daemon, room: Arc<Room>, stream: Stream) {
        let mut heard = match self.passed {
            true => room.heard(self.upto),
            false => Heard::default(),
        };
        self.tell(&Told::Served {
            generation: room.generation(),
            build: BUILD,
            name: &self.name.clone(),
        });
        let talked = self.talk(&daemon, &room, &mut heard, stream).await;
        let stream = match talked {
            Ok(Some(stream)) => stream,
            Ok(None) => return,
            Err(error) => return eprintln!("{} is gone: {error}", self.name),
        };
        // The next generation receives the messages before it receives the browsers that have seen them.
        room.wait_handed_over().await;
        self.queue_news(&room, &mut heard);
        self.upto = heard.upto;
        let name = self.name.clone();
        if let Err(error) = self.leave(&daemon, stream).await {
            eprintln!("{name} could not be told to come again: {error}");
        }
    }

    /// Serves the browser until it leaves, or until the drain begins: then returns the stream.
    async fn talk(
        &mut self,
        daemon: &Daemon,
        room: &Room,
        heard: &mut Heard,
        stream: Stream,
    ) -> io::Result<Option<Stream>> {
        let mut changes = room.changes();
        let draining = daemon.draining_token();
        let (mut read, mut write) = tokio::io::split(stream);
        loop {
            if self.outgoing.len() < MAX_WAITING {
                self.queue_news(room, heard);
            }
            let act_on = self.hear(room);
            if act_on.is_break() {
                // The browser has closed or sent an invalid frame. `outgoing` ends with a close frame.
                write.write_all_buf(&mut self.outgoing).await?;
                write.shutdown().await?;
                return Ok(None);
            }
            // All of these are cancel safe: dropping one leaves the buffers unchanged.
            tokio::select! {
                () = draining.cancelled() => return Ok(Some(read.unsplit(write))),
                changed = changes.changed(), if self.outgoing.len() < MAX_WAITING => {
                    changed.map_err(io::Error::other)?;
                }
                length = read.read_buf(&mut self.incoming) => {
                    if length? == 0 {
                        return Ok(None);
                    }
                }
                written = write.write_buf(&mut self.outgoing), if self.outgoing.has_remaining() => {
                    written?;
                }
            }
        }
    }

    /// Acts on every complete frame in `incoming`. `Break` means that the connection ends.
    fn hear(&mut self, room: &Room) -> ControlFlow<()> {
        loop {
            let (length, received) = match frame::first(&self.incoming) {
                Ok(Some(first)) => first,
                Ok(None) => return ControlFlow::Continue(()),
                Err(code) => {
                    frame::close(&mut self.outgoing, code, "not understood");
                    return ControlFlow::Break(());
                }
            };
            match received {
                Received::Text(text) => {
                    let message = Message { name: self.name.clone(), text };
                    if !room.say(message) {
                        // The message stays in the buffer, and the next generation reads it there.
                        return ControlFlow::Continue(());
                    }
                }
                Received::Ping(payload) => frame::pong(&mut self.outgoing, payload),
                Received::Pong => {}
                Received::Close => {
                    frame::close(&mut self.outgoing, CloseCode::Normal, "");
                    return ControlFlow::Break(());
                }
            }
            self.incoming.advance(length);
        }
    }

    fn queue_news(&mut self, room: &Room, heard: &mut Heard) {
        for (at, Message { name, text }) in room.news(heard) {
            self.tell(&Told::Said { at, name: &name, text: &text });
        }
    }

    fn tell(&mut self, told: &Told<'_>) {
        match serde_json::to_string(told) {
            Ok(text) => frame::text(&mut self.outgoing, text),
            Err(error) => eprintln!("cannot tell {}: {error}", self.name),
        }
    }

    /// Hands off the connection to the next generation. If that fails, asks the browser to reconnect.
    async fn leave(mut self, daemon: &Daemon, stream: Stream) -> anyhow::Result<()> {
        let saved = self.save()?;
        let Err(HandoffError { mut stream, reason, .. }) =
            daemon.hand_off("client", stream, saved).await
        else {
            return Ok(());
        };
        eprintln!("{} is told to come again: {reason}", self.name);
        daemon.draining_with_jitter(JITTER).await;
        frame::close(&mut self.outgoing, CloseCode::Restart, "restart");
        stream.mark_closed();
        stream.write_all_buf(&mut self.outgoing).await?;
        Ok(stream.shutdown().await?)
    }
}
