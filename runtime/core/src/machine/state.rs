//! The state of the daemon, and the changes of what is shown of it.

use std::fmt;

use super::lifecycle::{Active, Lifecycle};
use super::{Actions, Machine};
use crate::event::{Action, Generation, WorkerCommand};
use crate::health::Health;

/// The state of the daemon, as `status` shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// No generation is committed yet.
    Starting,
    Running,
    /// Asked to stop, and still accepting.
    LameDuck,
    /// No longer accepting, or gone.
    Stopping,
}

impl State {
    pub fn as_str(self) -> &'static str {
        match self {
            State::Starting => "starting",
            State::Running => "running",
            State::LameDuck => "lame-duck",
            State::Stopping => "stopping",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What the driver shows of the machine.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Shown {
    state: State,
    serving: Option<Generation>,
    pub(super) confirmed: Option<Generation>,
    starting: Option<Generation>,
    health: Health,
}

impl Machine {
    pub fn state(&self) -> State {
        match &self.life {
            Lifecycle::Stopping(_) | Lifecycle::Exited => State::Stopping,
            Lifecycle::Active(Active { lame_duck: Some(_), .. }) => State::LameDuck,
            Lifecycle::Active(_) if self.current.is_none() => State::Starting,
            Lifecycle::Active(_) => State::Running,
        }
    }

    pub(super) fn shown(&self) -> Shown {
        Shown {
            state: self.state(),
            serving: self.serving_generation(),
            confirmed: self.confirmed_generation(),
            starting: self.life.transition().map(|transition| transition.generation),
            health: self.health(),
        }
    }

    /// Adds the actions that follow from a difference to what was shown `before` the event.
    ///
    /// [`Action::Confirming`] precedes everything that follows from the confirmation; the others come last.
    pub(super) fn announce_changes(&self, before: &Shown, out: &mut Actions) {
        let now = self.shown();
        let confirmed = now.confirmed.filter(|_| now.confirmed != before.confirmed);
        if let Some(generation) = confirmed {
            out.insert(0, Action::Confirming { generation });
        }
        if now != *before {
            out.push(Action::StateChanged);
        }
        if let Some(generation) = confirmed {
            out.push(Action::Confirmed { generation, previous: before.confirmed });
        }
    }

    /// A worker that drains as the daemon stops hands nothing over, and its listeners end with the daemon. The
    /// stop may follow from the same event, after the order to drain.
    pub(super) fn mark_last_drains(&self, out: &mut Actions) {
        if self.state() != State::Stopping {
            return;
        }
        for action in out {
            if let Action::SendToWorker {
                command: WorkerCommand::Drain { last, listeners_end, .. },
                ..
            } = action
            {
                (*last, *listeners_end) = (true, true);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::State;

    #[test]
    fn states_read_as_in_status() {
        let all = [State::Starting, State::Running, State::LameDuck, State::Stopping];
        let words = all.map(|state| state.to_string());
        assert_eq!(words, ["starting", "running", "lame-duck", "stopping"]);
    }
}
