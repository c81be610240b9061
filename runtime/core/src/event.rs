//! What the machine hears and what it says: its whole interface.

use std::path::PathBuf;
use std::time::Duration;

use crate::Instant;

use crate::Exit;
use crate::Ledger;
use crate::json::{FromJson, ToJson};
use crate::policy::Policy;

/// Numbers a worker among all that a supervisor ever had.
pub type WorkerId = u64;
/// Numbers a generation.
pub type Generation = u32;
/// Numbers a connected control client: it asks for one thing and gets one answer.
pub type ClientId = u64;

/// What happened.
#[derive(Debug, Clone)]
pub enum Event {
    /// The supervisor has its locks and sockets: the first generation may start.
    Begin,
    /// The process asked for by [`Action::Spawn`] could not be made.
    SpawnFailed { worker: WorkerId, reason: String },
    /// The worker introduced itself and everything it declared is bound.
    Hello { worker: WorkerId, policy: Policy },
    /// The worker introduced itself with something that cannot be.
    HelloRejected { worker: WorkerId, reason: String },
    /// The worker could serve.
    Ready { worker: WorkerId },
    /// The worker says why it is about to end.
    Failing { worker: WorkerId, reason: String },
    /// The worker drains on its own: it was sent SIGTERM by somebody, or its `main` ended while it was
    /// quiesced.
    SelfDraining { worker: WorkerId, main_ended: bool },
    /// The program says that it should not serve.
    Unhealthy { worker: WorkerId, reason: String },
    /// The program is content with itself: the confirm window may end.
    ConfirmEarly { worker: WorkerId },
    /// The program has a check that must pass within the confirm window, or that has passed.
    HealthCheck { worker: WorkerId, passed: bool },
    /// The worker's runtime has answered.
    Pong { worker: WorkerId },
    /// What a starting worker has not done yet, for the message of a timeout.
    ReadinessBlockedBy { worker: WorkerId, what: String },
    /// The link ended or was misused; the process may still be there.
    LinkLost { worker: WorkerId, reason: String },
    /// The process is gone and reaped.
    Exited { worker: WorkerId, exit: Exit, ledger: Ledger },
    /// A restart is asked for, by a client or by a signal.
    Restart { client: Option<ClientId>, wait: bool },
    /// As a restart, from another path: it is the daemon's from then on, if its generation is confirmed.
    RestartFrom { exe: PathBuf, client: Option<ClientId>, wait: bool },
    /// The daemon is asked to stop. A second one without a client means it.
    Stop { client: Option<ClientId>, at_once: bool },
    /// A client hung up; nobody waits for its answer.
    ClientGone { client: ClientId },
    /// The supervisor runs the image asked for by [`Action::Upgrade`], or keeps its own: why.
    UpgradeFinished { kept: Option<String> },
    /// Time has passed.
    Tick,
}

/// The image a worker is started from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageSource {
    /// What the path names now: a new generation.
    Disk,
    /// What the generation has run since it began.
    Pinned,
    /// What that generation ran, which was confirmed: a new generation of known code and settings.
    KnownGood(Generation),
}

/// What a worker is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkerCommand {
    /// Accept.
    Go,
    /// Stop accepting; you may have to resume.
    Quiesce,
    /// Accept again.
    Resume,
    /// Finish what is in flight and exit.
    Drain {
        deadline: Instant,
        /// Nobody takes over what is idle.
        last: bool,
        /// Its listeners end with the daemon; else only those end that the generation that serves does not
        /// have.
        listeners_end: bool,
    },
    /// Say that your runtime runs.
    Ping,
}

/// What is to be done, in this order.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    Spawn {
        worker: WorkerId,
        generation: Generation,
        source: ImageSource,
    },
    Welcome {
        worker: WorkerId,
    },
    SendToWorker {
        worker: WorkerId,
        command: WorkerCommand,
    },
    /// Open a channel by which `from` passes its connections to `to`.
    OpenHandoffChannel {
        from: WorkerId,
        to: WorkerId,
    },
    /// Write down what a worker that does not answer is doing.
    DumpThreads {
        worker: WorkerId,
    },
    /// SIGTERM: the deadline is over.
    Terminate {
        worker: WorkerId,
    },
    /// SIGKILL.
    Kill {
        worker: WorkerId,
    },
    /// The one answer to a client.
    Answer {
        client: ClientId,
        answer: ClientAnswer,
    },
    /// A step worth showing to everyone who waits.
    Progress {
        text: String,
    },
    /// A line for the log.
    Log {
        level: Level,
        text: String,
        /// What it is about.
        generation: Option<Generation>,
    },
    /// The first generation serves.
    FirstReady {
        generation: Generation,
    },
    /// The image of this generation is to be the supervisor's own too.
    Upgrade {
        generation: Generation,
    },
    /// A stop was asked for: workers of an earlier supervisor drain until `deadline`, and are killed
    /// `kill_timeout` later. First in the list.
    DrainOrphans {
        deadline: Instant,
        kill_timeout: Duration,
    },
    /// The generation is to be confirmed: everything behind this action follows from that, up to
    /// [`Action::Confirmed`].
    Confirming {
        generation: Generation,
    },
    /// The state, the health or one of the generations of [`Machine`](crate::Machine) is not what it was
    /// before the event. Only confirmations and the exit come after it.
    StateChanged,
    /// The confirmation of the generation in place of `previous` is carried out.
    Confirmed {
        generation: Generation,
        previous: Option<Generation>,
    },
    /// The daemon ends: nobody new is let in while the rest drains.
    CloseListeners,
    /// The last worker of a generation that was replaced has ended; the report is complete.
    Drained {
        report: RestartReport,
    },
    /// No worker of this generation is left and none will come.
    ReleaseGeneration {
        generation: Generation,
        /// Its image and settings may be needed again.
        keep: bool,
    },
    /// All is done: leave with this code.
    Exit {
        code: u8,
        reason: Option<String>,
    },
}

/// How much a log line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    Info,
    Warn,
    Error,
}

/// What a client is told in the end.
#[derive(Debug, Clone, PartialEq)]
pub enum ClientAnswer {
    /// The new generation serves; where the client waited, the old one is gone.
    Restarted(RestartReport),
    /// The restart was undone.
    Aborted(RestartReport),
    /// The daemon stopped.
    Stopped { ledger: Ledger, to_drained: Duration, warnings: Vec<String> },
    /// Not now.
    Refused { reason: String },
}

/// A restart, told afterwards.
#[derive(Debug, Clone, PartialEq, ToJson, FromJson)]
pub struct RestartReport {
    pub from: Option<Generation>,
    pub to: Generation,
    pub committed: bool,
    pub reason: Option<String>,
    /// What whoever asks should know besides: that other code was served than was asked for.
    pub note: Option<String>,
    /// From the request to the commit.
    pub to_commit: Option<Duration>,
    /// From the request to the end of the old worker.
    pub to_drained: Option<Duration>,
    /// What became of the old worker's connections.
    pub ledger: Option<Ledger>,
    /// What went wrong all the same: ends of workers that nobody had asked for.
    #[json(default)]
    pub warnings: Vec<String>,
}
