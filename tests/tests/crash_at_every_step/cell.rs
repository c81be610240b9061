//! The cells of the matrix: a scenario, a step and a fault, with the expected result.

use std::fmt;

use unbroken::failpoint::{Point, points};

/// The operation during which a process reaches the step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Scenario {
    /// A restart.
    Restart,
    /// A restart into a program with one more listener.
    Listener,
    /// A restart whose new worker is killed in its confirm window, which aborts it.
    Aborted,
    /// The respawn of a killed worker.
    Respawn,
    /// A worker that serves, without any request to the supervisor.
    Serving,
    /// A stop of the daemon.
    Stop,
}

impl Scenario {
    pub(crate) const ALL: [Scenario; 6] = [
        Scenario::Restart,
        Scenario::Listener,
        Scenario::Aborted,
        Scenario::Respawn,
        Scenario::Serving,
        Scenario::Stop,
    ];

    pub(crate) fn title(self) -> &'static str {
        match self {
            Scenario::Restart => "A restart",
            Scenario::Listener => "A restart that adds a listener",
            Scenario::Aborted => "A restart that is aborted in its confirm window",
            Scenario::Respawn => "The respawn of a killed worker",
            Scenario::Serving => "A worker that serves",
            Scenario::Stop => "A stop",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Action {
    Kill,
    Stop,
    Delay,
    Error,
}

impl Action {
    pub(crate) const ALL: [Action; 4] = [Action::Kill, Action::Stop, Action::Delay, Action::Error];

    /// The action in the syntax of failpoints.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Action::Kill => "kill",
            Action::Stop => "stop",
            Action::Delay => "delay(150ms)",
            Action::Error => "error",
        }
    }
}

/// The result that the caller of the verb gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Success.
    Done,
    /// The restart was aborted.
    Aborted,
    /// The daemon has stopped as requested, but without a ledger, which the killed supervisor had.
    Ended,
    /// No answer: the supervisor is gone, and the verb fails with that message.
    Nothing,
    /// No verb was run.
    Unasked,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Cell {
    pub(crate) scenario: Scenario,
    pub(crate) point: Point,
    pub(crate) action: Action,
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}={}", self.scenario, self.point.name, self.action.word())
    }
}

/// Returns every step, in every scenario that reaches it, with every action.
pub(crate) fn cells() -> Vec<Cell> {
    let mut cells = Vec::new();
    for scenario in Scenario::ALL {
        for &point in points() {
            if !scenarios(point.name).contains(&scenario) {
                continue;
            }
            let actions = Action::ALL.into_iter();
            let actions = actions.filter(|action| *action != Action::Error || point.can_fail());
            cells.extend(actions.map(|action| Cell { scenario, point, action }));
        }
    }
    cells
}

/// The scenarios that reach a step.
///
/// # Panics
///
/// If the step is missing here.
fn scenarios(step: &str) -> &'static [Scenario] {
    use Scenario::{Aborted, Listener, Respawn, Restart, Serving, Stop};
    match step {
        "supervisor.before-open"
        | "supervisor.after-open"
        | "supervisor.before-confirm"
        | "supervisor.after-confirm"
        | "supervisor.before-connect"
        | "supervisor.before-rehearsal"
        | "supervisor.in-rehearsal"
        | "supervisor.before-upgrade"
        | "supervisor.in-takeover"
        | "supervisor.after-takeover"
        | "worker.quiesce"
        | "worker.before-handoff"
        | "worker.after-handoff"
        | "worker.handoff-received"
        | "worker.handoff-answered" => &[Restart],
        "supervisor.before-bind" => &[Listener],
        "worker.resume" => &[Aborted],
        "supervisor.before-fork"
        | "supervisor.after-fork"
        | "supervisor.before-exec"
        | "supervisor.hello-received"
        | "supervisor.before-welcome"
        | "supervisor.after-welcome"
        | "supervisor.ready-received"
        | "supervisor.between-quiesce-and-go"
        | "supervisor.after-go"
        | "worker.before-hello"
        | "worker.after-welcome"
        | "worker.runtime-built"
        | "worker.before-ready"
        | "worker.go" => &[Restart, Respawn],
        "supervisor.before-reap" | "supervisor.after-reap" => &[Restart, Aborted, Respawn, Stop],
        "supervisor.request-received"
        | "supervisor.before-answer"
        | "supervisor.before-drain"
        | "worker.drain"
        | "worker.before-exit" => &[Restart, Stop],
        "worker.before-accept" | "worker.after-accept" | "worker.in-request" => &[Restart, Serving],
        "supervisor.before-closing-listeners" | "supervisor.before-removing-pidfile" => &[Stop],
        _ => panic!("the matrix does not know the step {step}: say where it belongs"),
    }
}

impl Cell {
    /// Returns whether the supervisor reaches the step.
    pub(crate) fn is_supervisor(&self) -> bool {
        self.point.name.starts_with("supervisor.") && !self.is_child()
    }

    /// Returns whether a forked child reaches the step: a worker before its exec, or the rehearsal of the
    /// supervisor's upgrade.
    pub(crate) fn is_child(&self) -> bool {
        ["supervisor.before-exec", "supervisor.in-rehearsal"].contains(&self.point.name)
    }

    /// Returns whether the supervisor's upgrade fails. The supervisor then keeps its old image open, in
    /// addition to the two images that it has open at rest.
    pub(crate) fn keeps_image(&self) -> bool {
        let upgrade = ["rehearsal", "upgrade", "takeover"];
        let fails = matches!(self.action, Action::Kill | Action::Error);
        fails && upgrade.iter().any(|part| self.point.name.ends_with(part))
    }

    /// Returns whether the fault is armed for the new generation only. The old generation reaches the step
    /// too.
    pub(crate) fn of_new(&self) -> bool {
        let both = ["worker.before-accept", "worker.after-accept", "worker.in-request"];
        self.scenario == Scenario::Restart && both.contains(&self.point.name)
    }

    /// Returns the result that the caller of the verb must get.
    pub(crate) fn answer(&self) -> Answer {
        let killed = self.action == Action::Kill;
        match self.scenario {
            Scenario::Respawn | Scenario::Serving => Answer::Unasked,
            // The answer was sent before this step.
            Scenario::Stop if self.point.name == "supervisor.before-removing-pidfile" => {
                Answer::Done
            }
            Scenario::Stop if killed && self.is_supervisor() => Answer::Ended,
            _ if killed && self.is_supervisor() => Answer::Nothing,
            Scenario::Stop => Answer::Done,
            Scenario::Aborted => Answer::Aborted,
            Scenario::Restart | Scenario::Listener => match self.action {
                _ if self.keeps_image() => Answer::Done,
                Action::Kill if self.is_child() || self.of_new() => Answer::Aborted,
                Action::Kill => match self.point.name {
                    "worker.before-hello"
                    | "worker.after-welcome"
                    | "worker.runtime-built"
                    | "worker.before-ready"
                    | "worker.go" => Answer::Aborted,
                    _ => Answer::Done,
                },
                Action::Error => match self.point.name {
                    "supervisor.before-connect"
                    | "supervisor.before-drain"
                    | "supervisor.before-reap"
                    | "worker.before-accept"
                    | "worker.before-handoff"
                    | "worker.handoff-received" => Answer::Done,
                    _ => Answer::Aborted,
                },
                Action::Stop | Action::Delay => Answer::Done,
            },
        }
    }
}
