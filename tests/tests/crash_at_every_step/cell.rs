//! What is done at which step, and what is to come of it.

use std::fmt;

use unbroken::failpoint::{Point, points};

/// What goes on when a process gets to the step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Scenario {
    /// A restart.
    Restart,
    /// A restart into a program with one more listener.
    Listener,
    /// A restart whose new worker is killed in its confirm window.
    Undone,
    /// The worker was killed, and is respawned.
    Respawn,
    /// The worker serves, and nobody asks for anything.
    Serving,
    /// The daemon is stopped.
    Stop,
}

impl Scenario {
    pub(crate) const ALL: [Scenario; 6] = [
        Scenario::Restart,
        Scenario::Listener,
        Scenario::Undone,
        Scenario::Respawn,
        Scenario::Serving,
        Scenario::Stop,
    ];

    pub(crate) fn title(self) -> &'static str {
        match self {
            Scenario::Restart => "A restart",
            Scenario::Listener => "A restart that adds a listener",
            Scenario::Undone => "A restart that is undone in its confirm window",
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

    /// As the failpoint has it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Action::Kill => "kill",
            Action::Stop => "stop",
            Action::Delay => "delay(150ms)",
            Action::Error => "error",
        }
    }
}

/// What whoever asked is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Told {
    /// Done.
    Done,
    /// The restart was undone.
    Undone,
    /// That the daemon is gone, as was wanted, without the ledger that went with it.
    Ended,
    /// Nothing: the supervisor is gone, and the verb says so.
    Nothing,
    /// Nobody asked.
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

/// Every step, in every scenario that gets there, with every action.
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

/// Where a step belongs.
///
/// # Panics
///
/// At a step that nobody has thought of here.
fn scenarios(step: &str) -> &'static [Scenario] {
    use Scenario::{Listener, Respawn, Restart, Serving, Stop, Undone};
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
        "worker.resume" => &[Undone],
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
        "supervisor.before-reap" | "supervisor.after-reap" => &[Restart, Undone, Respawn, Stop],
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
    /// Whether the supervisor is what gets there.
    pub(crate) fn is_supervisor(&self) -> bool {
        self.point.name.starts_with("supervisor.") && !self.is_child()
    }

    /// A forked child: a worker before it is one, or the rehearsal of the supervisor's upgrade.
    pub(crate) fn is_child(&self) -> bool {
        ["supervisor.before-exec", "supervisor.in-rehearsal"].contains(&self.point.name)
    }

    /// Whether the supervisor keeps its image, which is one more than the two that are there at rest.
    pub(crate) fn keeps_image(&self) -> bool {
        let upgrade = ["rehearsal", "upgrade", "takeover"];
        let fails = matches!(self.action, Action::Kill | Action::Error);
        fails && upgrade.iter().any(|part| self.point.name.ends_with(part))
    }

    /// Whether only the new generation is meant, where the old one gets there too.
    pub(crate) fn of_new(&self) -> bool {
        let both = ["worker.before-accept", "worker.after-accept", "worker.in-request"];
        self.scenario == Scenario::Restart && both.contains(&self.point.name)
    }

    /// What whoever asked is to be told.
    pub(crate) fn told(&self) -> Told {
        let killed = self.action == Action::Kill;
        match self.scenario {
            Scenario::Respawn | Scenario::Serving => Told::Unasked,
            // It was told before.
            Scenario::Stop if self.point.name == "supervisor.before-removing-pidfile" => Told::Done,
            Scenario::Stop if killed && self.is_supervisor() => Told::Ended,
            _ if killed && self.is_supervisor() => Told::Nothing,
            Scenario::Stop => Told::Done,
            Scenario::Undone => Told::Undone,
            Scenario::Restart | Scenario::Listener => match self.action {
                _ if self.keeps_image() => Told::Done,
                Action::Kill if self.is_child() || self.of_new() => Told::Undone,
                Action::Kill => match self.point.name {
                    "worker.before-hello"
                    | "worker.after-welcome"
                    | "worker.runtime-built"
                    | "worker.before-ready"
                    | "worker.go" => Told::Undone,
                    _ => Told::Done,
                },
                Action::Error => match self.point.name {
                    "supervisor.before-connect"
                    | "supervisor.before-drain"
                    | "supervisor.before-reap"
                    | "worker.before-accept"
                    | "worker.before-handoff"
                    | "worker.handoff-received" => Told::Done,
                    _ => Told::Undone,
                },
                Action::Stop | Action::Delay => Told::Done,
            },
        }
    }
}
