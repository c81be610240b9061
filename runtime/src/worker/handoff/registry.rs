//! A worker's handoff channels to other generations, and its handlers for connections that are handed off to
//! it.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, OnceLock};

use tokio::sync::{mpsc, watch};

use super::channel::{self, HandoffChannel, Successor};
use super::message::{Handoff, HandoffTarget};
use super::receiving::PendingAck;
use crate::worker::state::{SharedState, lock};
use unbroken_core::sorted::SortedMap;

/// Receives an offered connection. It acknowledges the connection with the [`PendingAck`], or drops that to
/// refuse the connection.
pub(crate) type HandoffHandler = Arc<dyn Fn(Handoff<OwnedFd>, PendingAck) + Send + Sync + 'static>;

/// The handoff part of the worker's [`SharedState`].
pub(crate) struct HandoffRegistry {
    /// The channel to the serving generation; `None` until the supervisor opens the first.
    successor: watch::Sender<Option<Successor>>,
    handlers: Mutex<SortedMap<HandoffTarget, HandoffHandler>>,
    /// Takes new channels to the task that runs them. Empty without a runtime, as in a sync `main`.
    channels: OnceLock<mpsc::UnboundedSender<HandoffChannel>>,
}

/// Keeps a handler registered until dropped.
#[cfg(feature = "http")]
#[must_use = "the handler goes when this is dropped"]
pub(crate) struct Registration<'a> {
    registry: &'a HandoffRegistry,
    place: HandoffTarget,
    handler: HandoffHandler,
}

#[cfg(feature = "http")]
impl Drop for Registration<'_> {
    fn drop(&mut self) {
        let mut adopters = lock(&self.registry.handlers);
        // A handler registered later for the same target stays.
        if adopters.get(&self.place).is_some_and(|now| Arc::ptr_eq(now, &self.handler)) {
            adopters.remove(&self.place);
        }
    }
}

impl HandoffRegistry {
    pub(crate) fn new() -> HandoffRegistry {
        HandoffRegistry {
            successor: watch::Sender::new(None),
            handlers: Mutex::new(SortedMap::new()),
            channels: OnceLock::new(),
        }
    }

    /// Starts running channels on the current runtime.
    pub(crate) fn open_on_runtime(state: &Arc<SharedState>) {
        state.handoffs.channels.get_or_init(|| {
            let (sender, channels) = mpsc::unbounded_channel();
            state.own.spawn(channel::run_channels(Arc::clone(state), channels));
            sender
        });
    }

    /// Registers `handler` as the handler for `place`, in place of an earlier one.
    pub(crate) fn register(&self, place: HandoffTarget, handler: HandoffHandler) {
        lock(&self.handlers).insert(place, handler);
    }

    /// Same as [`HandoffRegistry::register`], until the returned guard is dropped.
    #[cfg(feature = "http")]
    pub(crate) fn register_while(
        &self,
        place: HandoffTarget,
        handler: HandoffHandler,
    ) -> Registration<'_> {
        self.register(place.clone(), Arc::clone(&handler));
        Registration { registry: self, place, handler }
    }

    pub(super) fn handler(&self, place: &HandoffTarget) -> Option<HandoffHandler> {
        lock(&self.handlers).get(place).cloned()
    }

    /// Opens a channel to the serving generation. Without a runtime, closes the socket at once.
    pub(crate) fn open_successor(&self, socket: OwnedFd) {
        let (channel, successor) = HandoffChannel::to_successor(socket);
        if self.open(channel) {
            self.successor.send_replace(Some(successor));
        }
    }

    /// Opens a channel from a generation that drains. Without a runtime, closes the socket at once.
    pub(crate) fn open_predecessor(&self, socket: OwnedFd) {
        self.open(HandoffChannel::FromPredecessor(socket));
    }

    fn open(&self, channel: HandoffChannel) -> bool {
        self.channels.get().is_some_and(|channels| channels.send(channel).is_ok())
    }

    pub(crate) fn successors(&self) -> watch::Receiver<Option<Successor>> {
        self.successor.subscribe()
    }

    /// Returns the number of the successor that connections are handed off to now.
    #[cfg(feature = "http")]
    pub(crate) fn successor(&self) -> Option<u64> {
        self.successor.borrow().as_ref().map(|successor| successor.number)
    }
}
