//! The time limits of one connection: for the head of a request, between two requests, and for its age.
//!
//! The times are handed off with the connection. If each generation started them again, restarts would give
//! a slow or idle client more time.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

use crate::config::HttpSettings;
use crate::sys::clock;

/// The event that a connection waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WaitingFor {
    /// Nothing from the client: a request is in flight, or the connection is closing.
    Busy,
    /// The rest of a request's head, or the first byte of the connection.
    Head,
    /// The next request.
    Request,
}

/// The limit that a connection has exceeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ExceededLimit {
    /// `header_timeout` or `idle_timeout`.
    Waited,
    /// `max_connection_age`: the connection has to end with its next response. Returned once.
    Age,
}

/// The limits of one connection, and the time since when it waits.
pub(super) struct Timeouts {
    /// Zero means no limit.
    header: Duration,
    /// Zero means no limit.
    idle: Duration,
    /// When the connection exceeds its age; `None` without a limit and after that was returned.
    end: Option<Instant>,
    /// The event that the connection waited for at the last poll, and the number of its requests then. If
    /// either changes, a new wait begins.
    seen: (WaitingFor, u64),
    /// When the current wait began.
    since: Instant,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Timeouts {
    /// `seen`: what the connection waits for, and the number of its requests; it began to wait at `since`.
    /// `accepted` and `since` are nanoseconds of `CLOCK_MONOTONIC`; zero means now.
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
        // Up to 10 % less at random: connections accepted at the same time, as after a restart, must not all
        // end at the same time.
        let age = age - age.mul_f64(crate::worker::daemon::random_part() / 10.0);
        let end = (!age.is_zero()).then(|| at(accepted) + age);
        let (header, idle) = (settings.header_timeout, settings.idle_timeout);
        Timeouts { header, idle, end, seen, since: at(since), timer: None }
    }

    /// Returns when the current wait began, in nanoseconds of `CLOCK_MONOTONIC`.
    pub(super) fn since(&self) -> u64 {
        clock::to_monotonic_ns(self.since.into_std())
    }

    /// Restarts the current wait, for a connection whose next request arrived at the moment of its timeout.
    pub(super) fn restart(&mut self) {
        self.since = Instant::now();
    }

    /// Completes when the connection exceeds a limit. `waiting` and `requests`: what it waits for now, and
    /// the number of its requests.
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
        // A timer that is set too early stays: one needless wakeup costs less than moving it at each request.
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

    /// Returns which limit is exceeded next, and when; `None` without a limit.
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

    /// A connection, and the time at which it was accepted.
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

    /// The next limit, in seconds after the connection was accepted.
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
    fn each_wait_has_its_own_limit() {
        let (mut clock, at) = accepted(0);
        let waited = |at| Some((at, ExceededLimit::Waited));
        assert_eq!(next(&mut clock, (WaitingFor::Head, 0), at, 0), waited(HEADER));
        // More bytes of the same head do not extend the limit.
        assert_eq!(next(&mut clock, (WaitingFor::Head, 0), at, 29), waited(HEADER));
        assert_eq!(next(&mut clock, (WaitingFor::Busy, 1), at, 29), None);
        assert_eq!(next(&mut clock, (WaitingFor::Request, 1), at, 1000), waited(1000 + IDLE));
        // A request was answered in between.
        assert_eq!(next(&mut clock, (WaitingFor::Request, 2), at, 1050), waited(1050 + IDLE));
        assert_eq!(next(&mut clock, (WaitingFor::Head, 2), at, 1060), waited(1060 + HEADER));
        assert_eq!(next(&mut clock, (WaitingFor::Head, 2), at, 1080), waited(1060 + HEADER));
    }

    /// A connection keeps the rest of its time however often it is handed off.
    #[test]
    fn handoff_does_not_restart_a_wait() {
        let (first, at) = accepted(0);
        let mut since = first.since();
        for handoff in 1..=3 {
            let settings = HttpSettings::default();
            let mut clock = Timeouts::new(&settings, since, since, (WaitingFor::Head, 0));
            let next = next(&mut clock, (WaitingFor::Head, 0), at, handoff * 5);
            assert_eq!(next, Some((HEADER, ExceededLimit::Waited)), "{handoff}");
            since = clock.since();
        }
        // An idle connection that received the beginning of a request during the handoff begins a new wait.
        let mut clock =
            Timeouts::new(&HttpSettings::default(), since, since, (WaitingFor::Request, 1));
        let next = next(&mut clock, (WaitingFor::Head, 1), at, 70);
        assert_eq!(next, Some((70 + HEADER, ExceededLimit::Waited)));
    }

    #[test]
    fn age_limit_applies_to_every_state() {
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
    async fn age_limit_is_returned_once() {
        let max_connection_age = Duration::from_millis(1);
        let (header_timeout, idle_timeout) = (Duration::ZERO, Duration::ZERO);
        let limits = HttpSettings { header_timeout, idle_timeout, ..HttpSettings::default() };
        let settings = HttpSettings { max_connection_age, ..limits };
        let mut clock = Timeouts::new(&settings, 0, 0, (WaitingFor::Head, 0));
        let limit = poll_fn(|cx| clock.poll(cx, WaitingFor::Busy, 1)).await;
        assert_eq!(limit, ExceededLimit::Age);
        // There is no other limit.
        for waiting in [WaitingFor::Busy, WaitingFor::Head, WaitingFor::Request] {
            assert_eq!(clock.next(waiting, 1, Instant::now), None);
        }
    }

    /// The limit is neither missed nor returned early if the timer was set for another wait.
    #[tokio::test]
    async fn timer_follows_the_current_wait() {
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
