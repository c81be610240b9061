//! The key `max_connections`: the number of open connections of a listener at which a worker stops accepting.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

use tokio::sync::Notify;

/// Counts the open connections of a listener. Connections that an older generation hands off are never
/// refused, so the count may exceed the limit.
#[derive(Debug)]
pub(super) struct ConnectionLimit {
    most: u32,
    taken: AtomicU32,
    left: Notify,
}

/// The permit of one open connection. Dropping it makes room for another.
#[derive(Debug)]
pub(crate) struct ConnectionPermit(Arc<ConnectionLimit>);

impl ConnectionLimit {
    /// `None` means no limit.
    pub(super) fn new(most: Option<u32>) -> Arc<ConnectionLimit> {
        let most = most.unwrap_or(u32::MAX);
        Arc::new(ConnectionLimit { most, taken: AtomicU32::new(0), left: Notify::new() })
    }

    /// Completes when there is room for one more. Only one task may await it at a time, because only one is
    /// notified.
    pub(super) async fn wait(&self) {
        while self.taken.load(SeqCst) >= self.most {
            self.left.notified().await;
        }
    }

    pub(super) fn acquire(self: &Arc<ConnectionLimit>) -> ConnectionPermit {
        self.taken.fetch_add(1, SeqCst);
        ConnectionPermit(Arc::clone(self))
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, SeqCst);
        self.0.left.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::pin::{Pin, pin};
    use std::task::{Context, Waker};

    use super::*;

    #[tokio::test]
    async fn accepting_waits_while_limit_is_exceeded() {
        let room = ConnectionLimit::new(Some(2));
        let (first, _second) = (room.acquire(), room.acquire());
        // One more than the limit, as after a handoff.
        let third = room.acquire();
        let mut waits = pin!(room.wait());
        let pending = |waits: Pin<&mut dyn Future<Output = ()>>| {
            waits.poll(&mut Context::from_waker(Waker::noop())).is_pending()
        };
        assert!(pending(waits.as_mut()));
        drop(first);
        assert!(pending(waits.as_mut()));
        drop(third);
        waits.await;
    }
}
