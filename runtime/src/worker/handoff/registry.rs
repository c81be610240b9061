//! A worker's ways to other generations, and who takes what comes by them.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, OnceLock};

use tokio::sync::{mpsc, watch};

use super::channel::{self, HandoffChannel, Successor};
use super::message::{Handoff, HandoffTarget};
use super::receiving::PendingAck;
use crate::worker::state::{SharedState, lock};
use unbroken_core::sorted::SortedMap;

/// Takes a connection and answers for it, or drops the receipt.
pub(crate) type HandoffHandler = Arc<dyn Fn(Handoff<OwnedFd>, PendingAck) + Send + Sync + 'static>;

/// Part of the worker's state.
pub(crate) struct HandoffRegistry {
    successor: watch::Sender<Option<Successor>>,
    adopters: Mutex<SortedMap<HandoffTarget, HandoffHandler>>,
    /// Once a runtime is there to work at them.
    channels: OnceLock<mpsc::UnboundedSender<HandoffChannel>>,
}

/// An adopter is registered for as long as this lives.
#[cfg(feature = "http")]
#[must_use = "the adopter goes when this is dropped"]
pub(crate) struct Registration<'a> {
    passage: &'a HandoffRegistry,
    place: HandoffTarget,
    adopter: HandoffHandler,
}

#[cfg(feature = "http")]
impl Drop for Registration<'_> {
    fn drop(&mut self) {
        let mut adopters = lock(&self.passage.adopters);
        // A later one may have taken over.
        if adopters.get(&self.place).is_some_and(|now| Arc::ptr_eq(now, &self.adopter)) {
            adopters.remove(&self.place);
        }
    }
}

impl HandoffRegistry {
    pub(crate) fn new() -> HandoffRegistry {
        HandoffRegistry {
            successor: watch::Sender::new(None),
            adopters: Mutex::new(SortedMap::new()),
            channels: OnceLock::new(),
        }
    }

    /// Begins to work at channels, on the current runtime.
    pub(crate) fn open_on_runtime(state: &Arc<SharedState>) {
        state.passage.channels.get_or_init(|| {
            let (sender, channels) = mpsc::unbounded_channel();
            state.own.spawn(channel::run_channels(Arc::clone(state), channels));
            sender
        });
    }

    /// What is passed to this worker for `place` is taken by `adopter`.
    pub(crate) fn register(&self, place: HandoffTarget, adopter: HandoffHandler) {
        lock(&self.adopters).insert(place, adopter);
    }

    /// As [`Passage::adopt_by`], until what is returned is dropped.
    #[cfg(feature = "http")]
    pub(crate) fn register_while(
        &self,
        place: HandoffTarget,
        adopter: HandoffHandler,
    ) -> Registration<'_> {
        self.register(place.clone(), Arc::clone(&adopter));
        Registration { passage: self, place, adopter }
    }

    pub(super) fn handler(&self, place: &HandoffTarget) -> Option<HandoffHandler> {
        lock(&self.adopters).get(place).cloned()
    }

    /// A channel to the generation that serves. Hung up at once where there is no runtime.
    pub(crate) fn open_successor(&self, socket: OwnedFd) {
        let (channel, successor) = HandoffChannel::to_successor(socket);
        if self.open(channel) {
            self.successor.send_replace(Some(successor));
        }
    }

    /// A channel from a generation that drains. Hung up at once where there is no runtime.
    pub(crate) fn open_predecessor(&self, socket: OwnedFd) {
        self.open(HandoffChannel::FromPredecessor(socket));
    }

    fn open(&self, channel: HandoffChannel) -> bool {
        self.channels.get().is_some_and(|channels| channels.send(channel).is_ok())
    }

    pub(crate) fn successors(&self) -> watch::Receiver<Option<Successor>> {
        self.successor.subscribe()
    }

    /// The number of the successor that connections are passed to now.
    #[cfg(feature = "http")]
    pub(crate) fn successor(&self) -> Option<u64> {
        self.successor.borrow().as_ref().map(|successor| successor.number)
    }
}
