//! What the verbs say with `--json`.

use serde::Deserialize;

use crate::http::Target;

/// `status --json`.
#[derive(Debug, Clone, Deserialize)]
pub struct Status {
    /// The daemon's name.
    pub name: String,
    /// The PID that stays: the supervisor's, or of the one solo process.
    pub pid: u32,
    /// `supervised` or `solo`.
    pub mode: String,
    /// `starting`, `running`, `lame-duck` or `stopping`.
    pub state: String,
    /// Seconds since the start.
    pub uptime: f64,
    /// The start, in seconds since 1970.
    pub since: f64,
    /// The serving generation. `None`: none does yet.
    pub generation: Option<u64>,
    /// All workers, of whatever generation.
    pub workers: Vec<Worker>,
    /// The listeners and what they are bound to.
    pub listeners: Vec<Listener>,
    /// Where probes are answered.
    #[serde(default)]
    pub probes: Vec<String>,
    /// The image of the serving generation.
    pub image: Image,
    /// The image that last confirmed.
    pub known_good: Option<Image>,
    /// What the next restart would find.
    pub on_disk: Option<OnDisk>,
    /// What the supervisor itself runs.
    pub supervisor_image: Option<Image>,
    /// The pidfile's path.
    pub pidfile: String,
    /// Why other code runs than was asked for.
    #[serde(default)]
    pub note: Option<String>,
    /// What became of the connections of the serving generation, with those of its crashed workers.
    pub ledger: Option<ConnectionLedger>,
    /// The last ten restarts, the latest first.
    pub restarts: Vec<PastRestart>,
}

/// A worker in [`Status`].
#[derive(Debug, Clone, Deserialize)]
pub struct Worker {
    /// Its PID.
    pub pid: u32,
    /// Its generation.
    pub generation: u64,
    /// `starting`, `ready`, `serving`, `quiesced`, `draining` or `stopping`.
    pub state: String,
    /// Seconds since its start.
    pub uptime: f64,
    /// Open connections.
    pub connections: u64,
    /// Requests being answered.
    pub requests_in_flight: u64,
    /// What became of its connections so far.
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
    /// Its name.
    pub name: String,
    /// The address it is bound to.
    pub addr: String,
    /// `manager` or `store`, where a service manager had it first.
    pub source: Option<String>,
}

/// An image in [`Status`].
#[derive(Debug, Clone, Deserialize, PartialEq)]
pub struct Image {
    /// The path on disk.
    pub path: String,
    /// The release the image says it is.
    pub release: Option<String>,
    /// The generation that runs it.
    pub generation: Option<u64>,
    /// The build id, if its linker wrote one.
    pub build_id: Option<String>,
    /// In bytes.
    pub size: Option<u64>,
    /// When it was written, in seconds since 1970.
    pub modified: Option<u64>,
    /// When its generation began to serve, or was confirmed, in seconds since 1970.
    pub since: Option<u64>,
}

/// What lies on disk, in [`Status`].
#[derive(Debug, Clone, Deserialize)]
pub struct OnDisk {
    /// Where.
    pub path: String,
    /// `same`, `same-build`, `other`, `missing` or `unusable`.
    pub state: String,
    /// The build id of another program.
    pub build_id: Option<String>,
    /// Why it is unusable.
    pub reason: Option<String>,
}

/// A restart in [`Status`].
#[derive(Debug, Clone, Deserialize)]
pub struct PastRestart {
    /// When it was asked for, in seconds since 1970.
    pub at: u64,
    /// The generation before.
    pub from: Option<u64>,
    /// The generation that was to follow.
    pub generation: u64,
    /// What became of the connections of the one before, once it is gone.
    pub ledger: Option<ConnectionLedger>,
    /// From the request to the commit.
    pub to_commit_ms: Option<f64>,
    /// From the request to the end of the old generation.
    pub to_drained_ms: Option<f64>,
    /// `ok` or `aborted`.
    pub result: String,
    /// Why it was aborted.
    pub reason: Option<String>,
}

/// `restart --json` and `stop --json`.
#[derive(Debug, Clone, Deserialize)]
pub struct Report {
    /// `ok`, `aborted` or `stopped`.
    pub result: String,
    /// Why it was aborted.
    pub reason: Option<String>,
    /// That the daemon had gone back to an earlier image.
    #[serde(default)]
    pub note: Option<String>,
    /// The generation that was started, or the last one there was.
    pub generation: Option<u64>,
    /// The last words of a worker that failed.
    #[serde(default)]
    pub output: Vec<String>,
    /// What became of the connections of the generation that drained.
    pub ledger: Option<ConnectionLedger>,
    /// From the request to the commit.
    pub to_commit_ms: Option<f64>,
    /// From the request to the end of the old generation.
    pub to_drained_ms: Option<f64>,
    /// What went wrong all the same.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// The ledger in a [`Report`].
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
    /// Connections cut at the deadline.
    pub forced: u64,
    /// Connections lost with a killed process.
    pub lost: u64,
    /// Requests answered.
    pub requests: u64,
    /// Connections still open.
    pub open: u64,
    /// Workers whose `main` was cut at the deadline.
    pub forced_main: u64,
    /// Tasks of `Daemon::spawn` that were cut at the deadline.
    pub forced_tasks: u64,
    /// Tasks of `tokio::spawn` that were left.
    pub dropped_tasks: u64,
}

impl ConnectionLedger {
    /// # Panics
    ///
    /// If a connection is missing, or counted twice.
    #[track_caller]
    pub fn assert_balanced(&self) {
        let Self { accepted, received, finished, handed_off, closed, forced, lost, open, .. } =
            *self;
        let ended = finished + handed_off + closed + forced + lost;
        assert_eq!(accepted + received, ended + open, "{self:?}");
    }
}

impl Report {
    /// The ledger of a drain.
    ///
    /// # Panics
    ///
    /// If there is none.
    #[track_caller]
    pub fn ledger(&self) -> &ConnectionLedger {
        self.ledger.as_ref().unwrap_or_else(|| panic!("no ledger: {self:?}"))
    }
}

impl Status {
    /// The generation that serves.
    ///
    /// # Panics
    ///
    /// If none does.
    #[track_caller]
    pub fn generation(&self) -> u64 {
        self.generation.unwrap_or_else(|| panic!("no generation serves: {self:?}"))
    }

    /// The last restart.
    pub fn last_restart(&self) -> Option<&PastRestart> {
        self.restarts.first()
    }

    /// The worker that serves.
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

    /// Where a listener is bound.
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
