//! One browser, from its handshake or its arrival from the generation before.

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

/// How much may wait for a browser that reads slowly before it hears nothing new.
const MAX_WAITING: usize = 16 * 1024;

/// Over what time browsers that cannot be passed are told to come again.
const JITTER: Duration = Duration::from_secs(5);

pub(crate) struct Client {
    name: String,
    /// It comes from the generation before.
    passed: bool,
    /// How much it has heard in its last generation.
    upto: Option<Place>,
    /// Read, but not yet a whole frame.
    incoming: BytesMut,
    /// Not yet written.
    outgoing: BytesMut,
}

/// The part of the state before the bytes.
#[derive(Serialize, Deserialize)]
struct Known {
    name: String,
    upto: Option<Place>,
    incoming: usize,
}

/// What the page is told.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Told<'a> {
    /// Who serves it now.
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
    /// One that has just joined; `read` came with its handshake.
    pub(crate) fn new(name: String, read: &[u8]) -> Client {
        let (incoming, outgoing) = (BytesMut::from(read), BytesMut::new());
        Client { name, passed: false, upto: None, incoming, outgoing }
    }

    /// One from an older generation.
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

    /// Talks with it until it leaves or the next generation has it.
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
        // First the next generation learns what was said, then it gets those who have heard it.
        room.wait_handed_over().await;
        self.queue_news(&room, &mut heard);
        self.upto = heard.upto;
        let name = self.name.clone();
        if let Err(error) = self.leave(&daemon, stream).await {
            eprintln!("{name} could not be told to come again: {error}");
        }
    }

    /// Until the drain, in which case the stream is returned, or its end.
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
                // It said goodbye or talks nonsense; the answer is the last it hears.
                write.write_all_buf(&mut self.outgoing).await?;
                write.shutdown().await?;
                return Ok(None);
            }
            // Each of these can be dropped and leaves the buffers as they are.
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

    /// Acts on every whole frame that has come. `Break`: this was the last one.
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
                        // It stays in the buffer, and is said in the next generation.
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

    /// Passes it to the next generation, or where that does not take it, tells it to come again.
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
