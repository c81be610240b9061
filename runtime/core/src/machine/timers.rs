//! The timers of the machine: what becomes due by itself, and when.

use crate::Instant;
use crate::event::WorkerId;
use crate::json::{FromJson, ToJson};

/// What becomes due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ToJson, FromJson)]
pub(super) enum Timer {
    /// SIGKILL follows.
    Kill(WorkerId),
    /// The state of the worker must be over.
    Deadline(WorkerId),
    /// The watchdog asks.
    Ping(WorkerId),
    /// The answer to the watchdog must have come.
    Pong(WorkerId),
    /// The confirm window of the transition is over.
    Confirm,
    /// The committed generation gets a worker again.
    Respawn,
    /// The lame duck is over.
    LameDuck,
    /// The orphans must be gone.
    Orphans,
}

impl Timer {
    fn worker(self) -> Option<WorkerId> {
        match self {
            Timer::Kill(id) | Timer::Deadline(id) | Timer::Ping(id) | Timer::Pong(id) => Some(id),
            Timer::Confirm | Timer::Respawn | Timer::LameDuck | Timer::Orphans => None,
        }
    }

    /// The order of timers that are due at once: worker by worker, the oldest first, then the others.
    fn rank(self) -> (WorkerId, u8) {
        let kind = match self {
            Timer::Kill(_) => 0,
            Timer::Deadline(_) => 1,
            Timer::Ping(_) => 2,
            Timer::Pong(_) => 3,
            Timer::Confirm => 4,
            Timer::Respawn => 5,
            Timer::LameDuck => 6,
            Timer::Orphans => 7,
        };
        (self.worker().unwrap_or(WorkerId::MAX), kind)
    }
}

/// Each timer that is set, once, with the moment at which it is due.
#[derive(Debug, Clone, Default, ToJson, FromJson)]
pub(super) struct Timers {
    due: Vec<(Timer, Instant)>,
}

impl Timers {
    /// Sets a timer, in place of what it was set to before.
    pub(super) fn set(&mut self, timer: Timer, at: Instant) {
        self.cancel(timer);
        self.due.push((timer, at));
    }

    /// Sets a timer, unless it is due earlier.
    pub(super) fn set_by(&mut self, timer: Timer, at: Instant) {
        self.set(timer, self.get(timer).map_or(at, |set| set.min(at)));
    }

    /// Returns whether the timer was set.
    pub(super) fn cancel(&mut self, timer: Timer) -> bool {
        let set = self.due.len();
        self.due.retain(|(other, _)| *other != timer);
        self.due.len() < set
    }

    /// Cancels all timers of a worker.
    pub(super) fn forget(&mut self, worker: WorkerId) {
        self.due.retain(|(timer, _)| timer.worker() != Some(worker));
    }

    pub(super) fn get(&self, timer: Timer) -> Option<Instant> {
        self.due.iter().find(|(other, _)| *other == timer).map(|(_, at)| *at)
    }

    pub(super) fn is_set(&self, timer: Timer) -> bool {
        self.get(timer).is_some()
    }

    pub(super) fn is_due(&self, timer: Timer, now: Instant) -> bool {
        self.get(timer).is_some_and(|at| at <= now)
    }

    /// When the first timer is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.due.iter().map(|(_, at)| *at).min()
    }

    /// The first timer that is due, of those whose turn comes after that of `last`.
    pub(super) fn expired(&self, now: Instant, last: Option<Timer>) -> Option<Timer> {
        let due = self.due.iter().filter(|(_, at)| *at <= now).map(|(timer, _)| *timer);
        let left = due.filter(|timer| last.is_none_or(|last| timer.rank() > last.rank()));
        left.min_by_key(|timer| timer.rank())
    }

    /// The workers that have a timer.
    #[cfg(test)]
    pub(super) fn workers(&self) -> impl Iterator<Item = WorkerId> {
        self.due.iter().filter_map(|(timer, _)| timer.worker())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json;

    fn at(nanos: u64) -> Instant {
        Instant::from_nanos(nanos)
    }

    #[test]
    fn each_timer_is_set_once() {
        let mut timers = Timers::default();
        assert_eq!((timers.next(), timers.get(Timer::Confirm)), (None, None));
        timers.set(Timer::Confirm, at(7));
        timers.set(Timer::Confirm, at(9));
        assert_eq!((timers.next(), timers.get(Timer::Confirm)), (Some(at(9)), Some(at(9))));
        timers.set_by(Timer::Confirm, at(11));
        assert_eq!(timers.next(), Some(at(9)));
        timers.set_by(Timer::Confirm, at(8));
        assert_eq!(timers.next(), Some(at(8)));
        assert!(!timers.is_due(Timer::Confirm, at(7)) && timers.is_due(Timer::Confirm, at(8)));
        assert!(timers.cancel(Timer::Confirm) && !timers.cancel(Timer::Confirm));
        assert_eq!(timers.next(), None);
    }

    #[test]
    fn timers_that_are_due_have_their_turn_once() {
        let mut timers = Timers::default();
        for timer in [Timer::LameDuck, Timer::Ping(2), Timer::Kill(2), Timer::Deadline(1)] {
            timers.set(timer, at(5));
        }
        timers.set(Timer::Respawn, at(6));
        let (mut turns, mut last) = (Vec::new(), None);
        while let Some(timer) = timers.expired(at(5), last) {
            turns.push(timer);
            // Due again, and not its turn.
            timers.set(Timer::Kill(1), at(5));
            last = Some(timer);
        }
        let due = [Timer::Deadline(1), Timer::Kill(2), Timer::Ping(2), Timer::LameDuck];
        assert_eq!(turns, due);
    }

    #[test]
    fn a_worker_that_is_gone_has_none() {
        let mut timers = Timers::default();
        for timer in [Timer::Kill(1), Timer::Deadline(1), Timer::Ping(1), Timer::Pong(1)] {
            timers.set(timer, at(5));
        }
        timers.set(Timer::Deadline(2), at(6));
        timers.set(Timer::Respawn, at(7));
        timers.forget(1);
        assert_eq!(timers.workers().collect::<Vec<_>>(), [2]);
        assert_eq!((timers.next(), timers.get(Timer::Respawn)), (Some(at(6)), Some(at(7))));
    }

    #[test]
    fn the_next_image_reads_them() {
        let mut timers = Timers::default();
        timers.set(Timer::Deadline(2), at(6));
        timers.set(Timer::Confirm, at(7));
        let text = json::to_string(&timers).unwrap();
        assert_eq!(text, r#"{"due":[[{"Deadline":2},6],["Confirm",7]]}"#);
        let read: Timers = json::from_slice(text.as_bytes()).unwrap();
        assert_eq!(read.due, timers.due);
    }
}
