//! What was said, in order.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use unbroken::handoff::HandoffState;

/// How much of it is kept, and goes to the next generation, in bytes of text.
const KEPT: usize = 32 * 1024;

/// The place of a message: its generation, and its number there. A later generation begins when the
/// earlier one has said everything, so that this is the order in which it was said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Place(u32, u64);

/// Who said what.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Message {
    pub(crate) name: String,
    pub(crate) text: String,
}

/// What was said in earlier generations.
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
    /// Counts changes, for those who wait for one.
    changes: watch::Sender<u64>,
    handed_over: watch::Sender<bool>,
}

struct Said {
    messages: BTreeMap<Place, Message>,
    length: usize,
    last: u64,
    /// Nothing is said here any more.
    closed: bool,
    /// What came from earlier generations after this one had begun, in order of arrival.
    late: Vec<Place>,
}

/// How much of a room somebody has heard.
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

    /// Says something to everyone; false where the next generation has the word already.
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

    /// What somebody who heard this much has not heard yet.
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

    /// Somebody who heard up to this place in the generation before, from which everything has come.
    pub(crate) fn heard(&self, upto: Option<Place>) -> Heard {
        Heard { upto, late: self.said().late.len() }
    }

    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Adds what earlier generations heard.
    pub(crate) fn add(&self, History(messages): History) {
        let mut said = self.said();
        for (place, message) in messages {
            said.late.push(place);
            said.insert(place, message);
        }
        drop(said);
        self.changes.send_modify(|changes| *changes += 1);
    }

    /// The last word; returns what the next generation should know.
    pub(crate) fn close(&self) -> History {
        let mut said = self.said();
        said.closed = true;
        History(said.messages.iter().map(|(place, message)| (*place, message.clone())).collect())
    }

    pub(crate) fn handed_over(&self) {
        self.handed_over.send_replace(true);
    }

    pub(crate) async fn wait_handed_over(&self) {
        // Its sender lives as long as the room.
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
