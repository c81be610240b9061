use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::io::unix::AsyncFd;

/// The schedule of a load, shared by its clients: the number of the next request, and when it is due.
#[derive(Debug)]
pub(super) struct Pace {
    pub(super) start: Instant,
    next: AtomicU64,
    requests: u64,
    end: Option<Instant>,
    interval: Option<f64>,
}

impl Pace {
    pub(super) fn new(
        requests: Option<u64>,
        duration: Option<Duration>,
        rate: Option<f64>,
    ) -> Self {
        let start = Instant::now();
        Self {
            start,
            next: AtomicU64::new(0),
            requests: requests.unwrap_or(u64::MAX),
            end: duration.map(|duration| start + duration),
            interval: rate.map(f64::recip),
        }
    }

    /// Returns the next request's number and, in an open loop, the time at which it is due. Returns `None` at
    /// the end of the load.
    pub(super) fn deal(&self) -> Option<(u64, Option<Instant>)> {
        let index = self.next.fetch_add(1, Ordering::Relaxed);
        let due = self
            .interval
            .map(|interval| self.start + Duration::from_secs_f64(interval * index as f64));
        let starts = due.unwrap_or_else(Instant::now);
        let over = index >= self.requests || self.end.is_some_and(|end| starts >= end);
        (!over).then_some((index, due))
    }
}

/// A timer with a resolution of microseconds; that of Tokio has a resolution of a millisecond.
#[derive(Debug)]
pub(super) struct Timer(AsyncFd<std::os::fd::OwnedFd>);

impl Timer {
    #[expect(deprecated, reason = "its successor is unsafe; an owned descriptor is fine with both")]
    pub(super) fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        AsyncFd::new(timer).map(Self)
    }

    pub(super) async fn sleep_until(&self, due: Instant) -> io::Result<()> {
        let Some(left) = due.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
        else {
            return Ok(());
        };
        let value = Timespec::try_from(left).expect("a deadline within the clock's range");
        let never = Timespec { tv_sec: 0, tv_nsec: 0 };
        let once = Itimerspec { it_interval: never, it_value: value };
        timerfd_settime(&self.0, TimerfdTimerFlags::empty(), &once)?;
        loop {
            let mut ready = self.0.readable().await?;
            let expired = ready.try_io(|fd| Ok(rustix::io::read(fd, &mut [0; 8])?));
            if let Ok(expired) = expired {
                return expired.map(drop);
            }
        }
    }
}
