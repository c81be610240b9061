//! `max_connections`: how many connections of a listener a worker has open before accepting waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

use tokio::sync::Notify;

/// Room for connections. Those that an older generation hands off find some in any case.
#[derive(Debug)]
pub(super) struct ConnectionLimit {
    most: u32,
    taken: AtomicU32,
    left: Notify,
}

/// One connection's room, until it is dropped.
#[derive(Debug)]
pub(crate) struct ConnectionPermit(Arc<ConnectionLimit>);

impl ConnectionLimit {
    /// `None`: as many as come.
    pub(super) fn new(most: Option<u32>) -> Arc<ConnectionLimit> {
        let most = most.unwrap_or(u32::MAX);
        Arc::new(ConnectionLimit { most, taken: AtomicU32::new(0), left: Notify::new() })
    }

    /// Completes when there is room for one more. To be awaited by one task at a time.
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
    async fn waits_while_it_is_full() {
        let room = ConnectionLimit::new(Some(2));
        let (first, _second) = (room.acquire(), room.acquire());
        // One more than there is room for.
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
