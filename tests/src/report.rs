//! The output of the verbs with `--json`.

use serde::Deserialize;

use crate::http::Target;

/// The output of `status --json`.
#[derive(Debug, Clone, Deserialize)]
pub struct Status {
    /// The daemon's name.
    pub name: String,
    /// The PID of the supervisor, or of the one process of a solo daemon.
    pub pid: u32,
    /// `supervised` or `solo`.
    pub mode: String,
    /// `starting`, `running`, `lame-duck` or `stopping`.
    pub state: String,
    /// Seconds since the start.
    pub uptime: f64,
    /// The start, in seconds since 1970.
    pub since: f64,
    /// The serving generation. `None` if none serves yet.
    pub generation: Option<u64>,
    /// All workers of all generations.
    pub workers: Vec<Worker>,
    /// The listeners.
    pub listeners: Vec<Listener>,
    /// The addresses at which probes are answered.
    #[serde(default)]
    pub probes: Vec<String>,
    /// The image of the serving generation.
    pub image: Image,
    /// The known-good image: the one that was confirmed last.
    pub known_good: Option<Image>,
    /// The file that the next restart would execute.
    pub on_disk: Option<OnDisk>,
    /// The image that the supervisor itself runs.
    pub supervisor_image: Option<Image>,
    /// The pidfile's path.
    pub pidfile: String,
    /// The reason why the code that runs is not the code that was requested last.
    #[serde(default)]
    pub note: Option<String>,
    /// The ledger of the serving generation, including its crashed workers.
    pub ledger: Option<ConnectionLedger>,
    /// The last ten restarts, the latest first.
    pub restarts: Vec<PastRestart>,
}

/// A worker in [`Status`].
#[derive(Debug, Clone, Deserialize)]
pub struct Worker {
    /// The worker's PID.
    pub pid: u32,
    /// The worker's generation.
    pub generation: u64,
    /// `starting`, `ready`, `serving`, `quiesced`, `draining` or `stopping`.
    pub state: String,
    /// Seconds since the worker's start.
    pub uptime: f64,
    /// Open connections.
    pub connections: u64,
    /// Requests being answered.
    pub requests_in_flight: u64,
    /// The worker's ledger so far.
    pub ledger: ConnectionLedger,
    /// Tasks of `Daemon::spawn` that run.
    #[serde(default)]
    pub tasks: u64,
    /// Whether `main` has returned.
    pub main_ended: Option<bool>,
}

/// A listener in [`Status`].
#[derive(Debug, Clone, Deserialize)]
pub struct Listener {
    /// The listener's name.
    pub name: String,
    /// The address it is bound to.
    pub addr: String,
    /// `manager` or `store`, if the socket came from the service manager.
    pub source: Option<String>,
}

/// An image in [`Status`].
#[derive(Debug, Clone, Deserialize, PartialEq)]
pub struct Image {
    /// The path on disk.
    pub path: String,
    /// The release that the image reports.
    pub release: Option<String>,
    /// The generation that runs it.
    pub generation: Option<u64>,
    /// The build id, if its linker wrote one.
    pub build_id: Option<String>,
    /// The size in bytes.
    pub size: Option<u64>,
    /// The time of its last modification, in seconds since 1970.
    pub modified: Option<u64>,
    /// The time at which its generation began to serve, or was confirmed, in seconds since 1970.
    pub since: Option<u64>,
}

/// The file at the image's path, in [`Status`].
#[derive(Debug, Clone, Deserialize)]
pub struct OnDisk {
    /// The path.
    pub path: String,
    /// `same`, `same-build`, `other`, `missing` or `unusable`.
    pub state: String,
    /// The build id, if the file differs from the image that runs.
    pub build_id: Option<String>,
    /// The reason why the file is unusable.
    pub reason: Option<String>,
}

/// A restart in [`Status`].
#[derive(Debug, Clone, Deserialize)]
pub struct PastRestart {
    /// The time of the request, in seconds since 1970.
    pub at: u64,
    /// The generation that served before.
    pub from: Option<u64>,
    /// The generation that was started.
    pub generation: u64,
    /// The ledger of the generation that served before, once its workers have ended.
    pub ledger: Option<ConnectionLedger>,
    /// From the request to the commit.
    pub to_commit_ms: Option<f64>,
    /// From the request to the end of the old generation.
    pub to_drained_ms: Option<f64>,
    /// `ok` or `aborted`.
    pub result: String,
    /// The reason for the abort.
    pub reason: Option<String>,
}

/// The output of `restart --json` and `stop --json`.
#[derive(Debug, Clone, Deserialize)]
pub struct Report {
    /// `ok`, `aborted` or `stopped`.
    pub result: String,
    /// The reason for the abort.
    pub reason: Option<String>,
    /// A note that the daemon had rolled back to the known-good image before.
    #[serde(default)]
    pub note: Option<String>,
    /// The generation that was started, or the last generation of a daemon that stopped.
    pub generation: Option<u64>,
    /// The last lines of output of a worker that failed.
    #[serde(default)]
    pub output: Vec<String>,
    /// The ledger of the generation that drained.
    pub ledger: Option<ConnectionLedger>,
    /// From the request to the commit.
    pub to_commit_ms: Option<f64>,
    /// From the request to the end of the old generation.
    pub to_drained_ms: Option<f64>,
    /// Problems that did not make the restart fail.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// The ledger of a generation or of a worker.
#[derive(Debug, Clone, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct ConnectionLedger {
    /// Connections accepted.
    pub accepted: u64,
    /// Connections received from the generation before.
    pub received: u64,
    /// Connections that ended by themselves.
    pub finished: u64,
    /// Connections handed off to the next generation.
    pub handed_off: u64,
    /// Connections closed after the peer was notified.
    pub closed: u64,
    /// Connections cut at the drain deadline.
    pub forced: u64,
    /// Connections lost with a killed process.
    pub lost: u64,
    /// Requests answered.
    pub requests: u64,
    /// Connections still open.
    pub open: u64,
    /// Workers whose `main` was cut at the drain deadline.
    pub forced_main: u64,
    /// Tasks of `Daemon::spawn` that were cut at the drain deadline.
    pub forced_tasks: u64,
    /// Tasks of `tokio::spawn` that still ran when the runtime was dropped.
    pub dropped_tasks: u64,
}

impl ConnectionLedger {
    /// # Panics
    ///
    /// If the ends and the open connections do not add up to those accepted and received.
    #[track_caller]
    pub fn assert_balanced(&self) {
        let Self { accepted, received, finished, handed_off, closed, forced, lost, open, .. } =
            *self;
        let ended = finished + handed_off + closed + forced + lost;
        assert_eq!(accepted + received, ended + open, "{self:?}");
    }
}

impl Report {
    /// Returns the ledger of the drain.
    ///
    /// # Panics
    ///
    /// If the report has no ledger.
    #[track_caller]
    pub fn ledger(&self) -> &ConnectionLedger {
        self.ledger.as_ref().unwrap_or_else(|| panic!("no ledger: {self:?}"))
    }
}

impl Status {
    /// Returns the serving generation.
    ///
    /// # Panics
    ///
    /// If none does.
    #[track_caller]
    pub fn generation(&self) -> u64 {
        self.generation.unwrap_or_else(|| panic!("no generation serves: {self:?}"))
    }

    /// Returns the last restart.
    pub fn last_restart(&self) -> Option<&PastRestart> {
        self.restarts.first()
    }

    /// Returns the worker that serves.
    ///
    /// # Panics
    ///
    /// If none does.
    #[track_caller]
    pub fn serving(&self) -> &Worker {
        let serves = |worker: &&Worker| {
            Some(worker.generation) == self.generation && worker.state == "serving"
        };
        self.workers.iter().find(serves).unwrap_or_else(|| panic!("no worker serves: {self:?}"))
    }

    /// Returns the address to which a listener is bound.
    ///
    /// # Panics
    ///
    /// If there is no listener of that name.
    #[track_caller]
    pub fn target(&self, name: &str) -> Target {
        let listener = self.listeners.iter().find(|listener| listener.name == name);
        let listener = listener.unwrap_or_else(|| panic!("no listener `{name}`: {self:?}"));
        listener.addr.parse().unwrap_or_else(|error: String| panic!("listener `{name}`: {error}"))
    }
}
