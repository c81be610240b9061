//! The limits in time of one connection: for the head of a request, between two requests, and its age.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

use crate::config::HttpSettings;
use crate::sys::clock;

/// What a connection waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WaitingFor {
    /// A request is in flight, or the end near: the client waits for us.
    Busy,
    /// The rest of a request's head, or the first byte of a connection.
    Head,
    /// The next request.
    Request,
}

/// Which limit a connection has reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ExceededLimit {
    /// It waited for too long.
    Waited,
    /// It is so old that it is to end with its next response. Said once.
    Age,
}

/// The limits, and since when a connection waits. Its times go with it when it is handed off, so that
/// restarts give a client no more time.
pub(super) struct Timeouts {
    header: Duration,
    idle: Duration,
    /// When it is too old, until that was said.
    end: Option<Instant>,
    /// What it waited for last, and after how many requests.
    seen: (WaitingFor, u64),
    since: Instant,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Timeouts {
    /// A connection that waits for this, after so many requests, `since` then. Both times are nanoseconds
    /// of `CLOCK_MONOTONIC`, and zero is now.
    pub(super) fn new(
        settings: &HttpSettings,
        accepted: u64,
        since: u64,
        seen: (WaitingFor, u64),
    ) -> Timeouts {
        let at = |ns| match ns {
            0 => Instant::now(),
            ns => Instant::from_std(clock::from_monotonic_ns(ns)),
        };
        let age = settings.max_connection_age;
        // Those that came together, as after a restart, do not all end together.
        let age = age - age.mul_f64(crate::worker::daemon::random_part() / 10.0);
        let end = (!age.is_zero()).then(|| at(accepted) + age);
        let (header, idle) = (settings.header_timeout, settings.idle_timeout);
        Timeouts { header, idle, end, seen, since: at(since), timer: None }
    }

    /// Since when it waits, in nanoseconds of `CLOCK_MONOTONIC`.
    pub(super) fn since(&self) -> u64 {
        clock::to_monotonic_ns(self.since.into_std())
    }

    /// What waited for too long has moved at last: its time begins anew.
    pub(super) fn restart(&mut self) {
        self.since = Instant::now();
    }

    /// Completes when a limit is reached by a connection that waits for this and has had so many requests.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        waiting: WaitingFor,
        requests: u64,
    ) -> Poll<ExceededLimit> {
        let Some((at, overdue)) = self.next(waiting, requests, Instant::now) else {
            return Poll::Pending;
        };
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(at)));
        // One that is too early stays: to move it with every request costs more than to wake up in vain.
        if timer.deadline() > at {
            timer.as_mut().reset(at);
        }
        ready!(timer.as_mut().poll(cx));
        if timer.deadline() < at {
            timer.as_mut().reset(at);
            ready!(timer.as_mut().poll(cx));
        }
        if overdue == ExceededLimit::Age {
            self.end = None;
        }
        Poll::Ready(overdue)
    }

    /// Which limit is reached next, and when.
    fn next(
        &mut self,
        waiting: WaitingFor,
        requests: u64,
        now: impl FnOnce() -> Instant,
    ) -> Option<(Instant, ExceededLimit)> {
        if self.seen != (waiting, requests) {
            self.seen = (waiting, requests);
            self.since = now();
        }
        let limit = match waiting {
            WaitingFor::Busy => Duration::ZERO,
            WaitingFor::Head => self.header,
            WaitingFor::Request => self.idle,
        };
        let waited = (!limit.is_zero()).then(|| (self.since + limit, ExceededLimit::Waited));
        let age = self.end.map(|end| (end, ExceededLimit::Age));
        waited.into_iter().chain(age).min_by_key(|(at, _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    const HEADER: u64 = 30;
    const IDLE: u64 = 75;

    /// A connection, and the moment in which it was accepted.
    fn accepted(age: u64) -> (Timeouts, Instant) {
        let max_connection_age = Duration::from_secs(age);
        let settings = HttpSettings { max_connection_age, ..HttpSettings::default() };
        let clock = Timeouts::new(&settings, 0, 0, (WaitingFor::Head, 0));
        let at = clock.since;
        (clock, at)
    }

    fn seconds(from: Instant, to: Instant) -> u64 {
        (to - from).as_secs_f64().round() as u64
    }

    /// What comes next, in seconds after it was accepted.
    fn next(
        clock: &mut Timeouts,
        (waiting, requests): (WaitingFor, u64),
        accepted: Instant,
        now: u64,
    ) -> Option<(u64, ExceededLimit)> {
        let next = clock.next(waiting, requests, || accepted + Duration::from_secs(now));
        next.map(|(at, overdue)| (seconds(accepted, at), overdue))
    }

    #[test]
    fn each_wait_has_its_own_time() {
        let (mut clock, at) = accepted(0);
        let waited = |at| Some((at, ExceededLimit::Waited));
        assert_eq!(next(&mut clock, (WaitingFor::Head, 0), at, 0), waited(HEADER));
        // More of a head is no reason to wait longer.
        assert_eq!(next(&mut clock, (WaitingFor::Head, 0), at, 29), waited(HEADER));
        assert_eq!(next(&mut clock, (WaitingFor::Busy, 1), at, 29), None);
        assert_eq!(next(&mut clock, (WaitingFor::Request, 1), at, 1000), waited(1000 + IDLE));
        // One was answered in between.
        assert_eq!(next(&mut clock, (WaitingFor::Request, 2), at, 1050), waited(1050 + IDLE));
        assert_eq!(next(&mut clock, (WaitingFor::Head, 2), at, 1060), waited(1060 + HEADER));
        assert_eq!(next(&mut clock, (WaitingFor::Head, 2), at, 1080), waited(1060 + HEADER));
    }

    /// What was handed off, however often, has the rest of its time.
    #[test]
    fn the_time_travels_along() {
        let (first, at) = accepted(0);
        let mut since = first.since();
        for handoff in 1..=3 {
            let settings = HttpSettings::default();
            let mut clock = Timeouts::new(&settings, since, since, (WaitingFor::Head, 0));
            let next = next(&mut clock, (WaitingFor::Head, 0), at, handoff * 5);
            assert_eq!(next, Some((HEADER, ExceededLimit::Waited)), "{handoff}");
            since = clock.since();
        }
        // What was idle, and moved on its way, begins anew.
        let mut clock =
            Timeouts::new(&HttpSettings::default(), since, since, (WaitingFor::Request, 1));
        let next = next(&mut clock, (WaitingFor::Head, 1), at, 70);
        assert_eq!(next, Some((70 + HEADER, ExceededLimit::Waited)));
    }

    #[test]
    fn age_counts_whatever_it_does() {
        let (mut clock, at) = accepted(1000);
        for now in [0, 500, 890] {
            for waiting in [WaitingFor::Busy, WaitingFor::Head, WaitingFor::Request] {
                let (next, overdue) = next(&mut clock, (waiting, now), at, now).unwrap();
                match overdue {
                    ExceededLimit::Age => assert!((900..=1000).contains(&next), "{next}"),
                    ExceededLimit::Waited => {
                        assert!(waiting != WaitingFor::Busy && next < 1000, "{next}")
                    }
                }
            }
        }
    }

    #[tokio::test]
    async fn age_is_said_once() {
        let max_connection_age = Duration::from_millis(1);
        let (header_timeout, idle_timeout) = (Duration::ZERO, Duration::ZERO);
        let limits = HttpSettings { header_timeout, idle_timeout, ..HttpSettings::default() };
        let settings = HttpSettings { max_connection_age, ..limits };
        let mut clock = Timeouts::new(&settings, 0, 0, (WaitingFor::Head, 0));
        let said = poll_fn(|cx| clock.poll(cx, WaitingFor::Busy, 1)).await;
        assert_eq!(said, ExceededLimit::Age);
        // There is no other limit.
        for waiting in [WaitingFor::Busy, WaitingFor::Head, WaitingFor::Request] {
            assert_eq!(clock.next(waiting, 1, Instant::now), None);
        }
    }

    /// A timer that was set for later or sooner does not count.
    #[tokio::test]
    async fn the_timer_follows() {
        let (header_timeout, idle_timeout) = (Duration::from_millis(1), Duration::from_secs(1000));
        let settings = HttpSettings { header_timeout, idle_timeout, ..HttpSettings::default() };
        let mut clock = Timeouts::new(&settings, 0, 0, (WaitingFor::Head, 0));
        let poll = async |clock: &mut Timeouts, waiting| {
            poll_fn(|cx| Poll::Ready(clock.poll(cx, waiting, 1))).await
        };
        assert!(poll(&mut clock, WaitingFor::Request).await.is_pending());
        assert_eq!(poll_fn(|cx| clock.poll(cx, WaitingFor::Head, 1)).await, ExceededLimit::Waited);
        assert!(poll(&mut clock, WaitingFor::Request).await.is_pending());
        assert_eq!(poll_fn(|cx| clock.poll(cx, WaitingFor::Head, 1)).await, ExceededLimit::Waited);
    }
}
