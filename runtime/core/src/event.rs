//! The interface of the supervisor's [`machine`](crate::machine): [`Event`]s in, [`Action`]s out.
//!
//! The driver turns what happens in the process into events, passes each to the machine together with the
//! current time, and carries out the actions that the machine returns, in their order. [`Policy`] holds the
//! settings on which decisions depend.

use std::path::PathBuf;
use std::time::Duration;

use crate::Instant;

use crate::Exit;
use crate::Ledger;
use crate::json::{FromJson, ToJson};
use crate::policy::Policy;

/// Identifies a worker: unique among all workers that a supervisor ever spawned, and never reused.
pub type WorkerId = u64;
/// The number of a generation. Each restart takes the next one, whether it succeeds or not.
pub type Generation = u32;
/// Identifies a connected control client. A client sends one request and gets one [`ClientAnswer`].
pub type ClientId = u64;

/// Something that happened, as the driver reports it to the machine.
///
/// Events about a worker that is unknown or has ended are ignored.
#[derive(Debug, Clone)]
pub enum Event {
    /// The supervisor has its locks and sockets: the first generation may start.
    Begin,
    /// The process requested by [`Action::Spawn`] could not be created.
    SpawnFailed {
        /// The worker that was to be spawned.
        worker: WorkerId,
        /// The error, in words.
        reason: String,
    },
    /// The worker sent *hello*; its settings are accepted and all listeners that it declares are bound.
    Hello {
        /// The sender.
        worker: WorkerId,
        /// The policy in the settings that it sent. A respawned worker has the policy of its generation.
        policy: Policy,
    },
    /// The worker's start cannot go on: its *hello* is unacceptable, or it could not be sent its *welcome*.
    HelloRejected {
        /// The worker that sent the *hello*.
        worker: WorkerId,
        /// What is wrong with it.
        reason: String,
    },
    /// The worker is ready: it could serve.
    Ready {
        /// The sender.
        worker: WorkerId,
    },
    /// The worker reports why it is about to exit.
    Failing {
        /// The sender.
        worker: WorkerId,
        /// The cause, which is more useful in reports than the exit code.
        reason: String,
    },
    /// The worker began to drain without a [`WorkerCommand::Drain`].
    SelfDraining {
        /// The sender.
        worker: WorkerId,
        /// `true` if its `main` ended while it was paused; `false` if it got SIGTERM from outside the
        /// supervisor.
        main_ended: bool,
    },
    /// The program reported itself unhealthy. Within the confirm window this aborts the restart.
    Unhealthy {
        /// The sender.
        worker: WorkerId,
        /// The program's own words.
        reason: String,
    },
    /// The program asks to be confirmed before the confirm window is over.
    ConfirmEarly {
        /// The sender.
        worker: WorkerId,
    },
    /// A health check of the program began or passed. Each check that begins must pass before the worker's
    /// generation is confirmed.
    HealthCheck {
        /// The sender.
        worker: WorkerId,
        /// `false` when a check begins, `true` when one has passed.
        passed: bool,
    },
    /// The worker's runtime answered a [`WorkerCommand::Ping`].
    Pong {
        /// The sender.
        worker: WorkerId,
    },
    /// What a starting worker has not done yet. Reported just before its `ready_timeout` is checked and
    /// part of the message if it is over.
    ReadinessBlockedBy {
        /// The starting worker.
        worker: WorkerId,
        /// What is missing, in words.
        what: String,
    },
    /// The supervisor link of the worker was closed or cannot be used; the process may still exist.
    LinkLost {
        /// The worker at the other end.
        worker: WorkerId,
        /// How the link was lost.
        reason: String,
    },
    /// The worker's process ended and was reaped.
    Exited {
        /// The worker that ended.
        worker: WorkerId,
        /// Its exit code or signal.
        exit: Exit,
        /// What became of its connections.
        ledger: Ledger,
    },
    /// A client or a signal requests a restart from the image on disk.
    Restart {
        /// The client to answer; `None` for a signal.
        client: Option<ClientId>,
        /// Whether the answer waits until the old generation has drained.
        wait: bool,
    },
    /// A client requests a restart from an image at another path. If the new generation is confirmed,
    /// later restarts use this path too.
    RestartFrom {
        /// The absolute path of the image.
        exe: PathBuf,
        /// The client to answer.
        client: Option<ClientId>,
        /// Whether the answer waits until the old generation has drained.
        wait: bool,
    },
    /// A client or a signal asks the daemon to stop. Each further signal is more urgent: the second stops
    /// at once, the third kills all workers.
    Stop {
        /// The client to answer; `None` for a signal.
        client: Option<ClientId>,
        /// Whether to skip the lame duck and the drain timeout.
        at_once: bool,
    },
    /// A client disconnected; it can no longer be answered.
    ClientGone {
        /// The client that disconnected.
        client: ClientId,
    },
    /// The last orphan has ended.
    OrphansGone,
    /// The upgrade requested by [`Action::Upgrade`] is over.
    UpgradeFinished {
        /// `None` if the supervisor now runs the new image; else the reason why it kept its own.
        kept: Option<String>,
    },
    /// The time of [`Machine::deadline`](super::machine::Machine::deadline) has come.
    Tick,
}

/// The image that a worker is started from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageSource {
    /// The file that the daemon's path names now, for a new generation.
    Disk,
    /// The image that the worker's generation has run from its beginning, for a respawn.
    Pinned,
    /// The image and settings of the given earlier generation, which was confirmed, for a new generation
    /// that rolls back to it.
    KnownGood(Generation),
}

/// A command to a worker over its supervisor link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkerCommand {
    /// Start to accept connections.
    Go,
    /// Pause: stop accepting, but be able to resume.
    Quiesce,
    /// Accept again after a pause.
    Resume,
    /// Finish what is in flight, then exit.
    Drain {
        /// The drain deadline: SIGTERM follows when it passes.
        deadline: Instant,
        /// Whether no other worker takes over, so that idle connections cannot be handed off.
        last: bool,
        /// Its listeners end with the daemon; else only those end that the generation that serves does not
        /// have.
        listeners_end: bool,
    },
    /// Have the runtime answer with a *pong*, for the watchdog.
    Ping,
}

/// Something that the driver must do. The actions of one event are carried out in their order.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    Spawn {
        /// The number of the new worker.
        worker: WorkerId,
        /// The generation that it belongs to.
        generation: Generation,
        /// Where its image comes from.
        source: ImageSource,
    },
    /// Answer a worker's *hello* with its generation, settings and listeners.
    Welcome {
        /// The receiver.
        worker: WorkerId,
    },
    /// Send a command to a worker.
    SendToWorker {
        /// The receiver.
        worker: WorkerId,
        /// The command.
        command: WorkerCommand,
    },
    /// Give two workers a channel over which `from` hands off its connections to `to`.
    OpenHandoffChannel {
        /// The worker that drains.
        from: WorkerId,
        /// The worker that serves.
        to: WorkerId,
    },
    /// Log the state of each thread of a worker that does not answer its watchdog.
    DumpThreads {
        /// The hung worker.
        worker: WorkerId,
    },
    /// Send SIGTERM to a worker that missed its drain deadline.
    Terminate {
        /// The worker.
        worker: WorkerId,
    },
    /// Send SIGKILL to a worker.
    Kill {
        /// The worker.
        worker: WorkerId,
    },
    /// Send a client the only answer to its request.
    Answer {
        /// The client, which has not disconnected.
        client: ClientId,
        /// The answer.
        answer: ClientAnswer,
    },
    /// Show a step to all clients that wait for an answer.
    Progress {
        /// The step, in words.
        text: String,
    },
    /// Write a line to the daemon's log.
    Log {
        /// The severity.
        level: Level,
        /// The line.
        text: String,
        /// The generation that the line is about, if it is about one.
        generation: Option<Generation>,
    },
    /// The first generation serves: report the daemon as ready.
    FirstReady {
        /// The generation.
        generation: Generation,
    },
    /// Replace the supervisor's own image with that of a generation; [`Event::UpgradeFinished`] reports the
    /// end, successful or not.
    Upgrade {
        /// The generation, which is confirmed.
        generation: Generation,
    },
    /// Have all orphans drain. Unless the drain is the `last`, they hand off to the generation that serves.
    DrainOrphans {
        /// As in [`WorkerCommand::Drain`].
        deadline: Instant,
        /// As in [`WorkerCommand::Drain`].
        last: bool,
        /// As in [`WorkerCommand::Drain`].
        listeners_end: bool,
    },
    /// Send SIGKILL to all orphans.
    KillOrphans,
    /// The generation is to be confirmed: everything behind this action follows from that, up to
    /// [`Action::Confirmed`].
    Confirming { generation: Generation },
    /// The state, the health or one of the generations of [`Machine`](crate::Machine) is not what it was
    /// before the event. Only confirmations and the exit come after it.
    StateChanged,
    /// The confirmation of the generation in place of `previous` is carried out.
    Confirmed { generation: Generation, previous: Option<Generation> },
    /// The daemon stops: close the supervisor's copies of the listeners, except those that the service
    /// manager keeps. The draining workers then hold the last ones.
    CloseListeners,
    /// The last worker of a generation that was replaced has ended: log its completed report.
    Drained {
        /// The report of the restart that replaced the generation.
        report: RestartReport,
    },
    /// Release what is held for a generation that has no workers and will get none.
    ReleaseGeneration {
        /// The generation.
        generation: Generation,
        /// Whether to keep its image and settings for a rollback.
        keep: bool,
    },
    /// All workers have ended: exit. No action follows, and the machine ignores all further events.
    Exit {
        /// The exit code of the supervisor.
        code: u8,
        /// Why the daemon ends; `None` if it was asked to.
        reason: Option<String>,
    },
}

/// The severity of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    Info,
    /// A fault that the daemon copes with.
    Warn,
    /// A fault that an operator should look at.
    Error,
}

/// The final answer to the request of a client.
#[derive(Debug, Clone, PartialEq)]
pub enum ClientAnswer {
    /// The restart was confirmed; if the client waited for the drain, the old generation has ended.
    Restarted(RestartReport),
    /// The restart was aborted; the old generation serves, or will once it is respawned.
    Aborted(RestartReport),
    /// The daemon stopped.
    Stopped {
        /// What became of the connections of all generations that were not released before the stop.
        ledger: Ledger,
        /// The time from the first request to stop until the last worker or orphan ended.
        to_drained: Duration,
        /// Workers that did not end as they should.
        warnings: Vec<String>,
    },
    /// The request was not carried out.
    Refused {
        /// Why not.
        reason: String,
    },
}

/// The outcome of a restart.
#[derive(Debug, Clone, PartialEq, ToJson, FromJson)]
pub struct RestartReport {
    pub from: Option<Generation>,
    pub to: Generation,
    pub committed: bool,
    pub reason: Option<String>,
    /// A remark that is not about success: that a rolled-back image was running instead of the one asked
    /// for, or that the supervisor kept its own image.
    pub note: Option<String>,
    /// The time from the request to the commit.
    pub to_commit: Option<Duration>,
    /// The time from the request to the end of the last worker of the old generation.
    pub to_drained: Option<Duration>,
    /// What became of the connections: of the old generation, or, if the restart was aborted after its
    /// commit, of the new one. `None` until the last worker of that generation has ended.
    pub ledger: Option<Ledger>,
    /// Unexpected ends of workers during the restart; at most `MAX_WARNINGS`.
    #[json(default)]
    pub warnings: Vec<String>,
}
