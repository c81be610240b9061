//! The chat room: its messages in order, which outlive a restart.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use unbroken::handoff::HandoffState;

/// The bytes of text that are kept and handed off. The state of a handoff may have 64 KiB, as JSON.
const KEPT: usize = 32 * 1024;

/// The position of a message: its generation and its number there. An older generation accepts no more
/// messages when it hands off its room, so this is the order in which messages were sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Place(u32, u64);

/// A chat message.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Message {
    pub(crate) name: String,
    pub(crate) text: String,
}

/// The messages of older generations.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct History(Vec<(Place, Message)>);

impl History {
    pub(crate) fn read(saved: &HandoffState) -> serde_json::Result<History> {
        serde_json::from_slice(&saved.bytes)
    }
}

pub(crate) struct Room {
    generation: u32,
    said: Mutex<Said>,
    /// The number of changes; clients wait for the next one.
    changes: watch::Sender<u64>,
    handed_over: watch::Sender<bool>,
}

struct Said {
    messages: BTreeMap<Place, Message>,
    length: usize,
    last: u64,
    /// The room accepts no more messages: this worker drains.
    closed: bool,
    /// Messages received from older generations after this one had started, in order of arrival.
    late: Vec<Place>,
}

/// The messages that a browser has received: all up to a place, and a number of late ones.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Heard {
    pub(crate) upto: Option<Place>,
    late: usize,
}

impl Room {
    pub(crate) fn new(generation: u32) -> Room {
        let said =
            Said { messages: BTreeMap::new(), length: 0, last: 0, closed: false, late: Vec::new() };
        Room {
            generation,
            said: Mutex::new(said),
            changes: watch::Sender::new(0),
            handed_over: watch::Sender::new(false),
        }
    }

    pub(crate) fn generation(&self) -> u32 {
        self.generation
    }

    /// Adds a message. Returns false if the room is closed because the next generation has taken over.
    pub(crate) fn say(&self, message: Message) -> bool {
        let mut said = self.said();
        if said.closed {
            return false;
        }
        said.last += 1;
        let place = Place(self.generation, said.last);
        said.insert(place, message);
        drop(said);
        self.changes.send_modify(|changes| *changes += 1);
        true
    }

    /// Returns the messages that a browser has not received yet, and updates `heard`.
    pub(crate) fn news(&self, heard: &mut Heard) -> Vec<(Place, Message)> {
        let said = self.said();
        let place = |place: &Place| Some((*place, said.messages.get(place)?.clone()));
        let mut news: Vec<_> = said.late.iter().skip(heard.late).filter_map(place).collect();
        heard.late = said.late.len();
        for (place, message) in &said.messages {
            if heard.upto.is_none_or(|upto| *place > upto) && news.iter().all(|(p, _)| p != place) {
                news.push((*place, message.clone()));
            }
        }
        heard.upto = heard.upto.max(said.messages.keys().next_back().copied());
        news
    }

    /// Returns what a browser has received that was handed off and had received messages up to `upto`. The
    /// older generation has handed off its room before the browser, so no late message is new to it.
    pub(crate) fn heard(&self, upto: Option<Place>) -> Heard {
        Heard { upto, late: self.said().late.len() }
    }

    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Adds the messages of older generations.
    pub(crate) fn add(&self, History(messages): History) {
        let mut said = self.said();
        for (place, message) in messages {
            said.late.push(place);
            said.insert(place, message);
        }
        drop(said);
        self.changes.send_modify(|changes| *changes += 1);
    }

    /// Closes the room and returns its messages for the next generation.
    pub(crate) fn close(&self) -> History {
        let mut said = self.said();
        said.closed = true;
        History(said.messages.iter().map(|(place, message)| (*place, message.clone())).collect())
    }

    /// Notes that the messages were handed off, or are lost.
    pub(crate) fn handed_over(&self) {
        self.handed_over.send_replace(true);
    }

    /// Waits for [`handed_over`](Self::handed_over).
    pub(crate) async fn wait_handed_over(&self) {
        // Cannot fail: the sender lives as long as the room.
        let _ = self.handed_over.subscribe().wait_for(|done| *done).await;
    }

    fn said(&self) -> MutexGuard<'_, Said> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Said {
    fn insert(&mut self, place: Place, message: Message) {
        self.length += message.name.len() + message.text.len();
        self.messages.insert(place, message);
        while self.length > KEPT
            && let Some((_, oldest)) = self.messages.pop_first()
        {
            self.length -= oldest.name.len() + oldest.text.len();
        }
    }
}
