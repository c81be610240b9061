//! The control socket: how `stop`, `restart` and `status` talk to a daemon.
//!
//! One JSON object a packet over a unix socket of mode 0600 in the runtime directory. Peers are checked
//! by `SO_PEERCRED` (unix(7)); requests are bounded in size, number and time.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::counters::Ledger;
use crate::image::{Image, OnDisk};
use crate::json::{FromJson, ToJson};
use crate::listener::{Bound, ListenerSource};
use crate::owned_files::FileStatus;
use crate::probe::Probe;
use crate::sys::privileges::Account;

mod clients;
pub(crate) mod socket;

pub(crate) use clients::{ClientInput, Clients, ClientsState as PackedClients};
pub(crate) use socket::{ControlSocket, connect, path_of, prepare_directory};

/// A request to a daemon.
#[derive(Debug, ToJson, FromJson)]
#[json(tag = "type", rename_all = "kebab-case")]
pub(crate) enum Request {
    /// What is running?
    Status {},
    /// A new generation from the image on disk.
    Restart {
        /// Answer when the old worker is gone, else when the transition ends.
        #[json(default)]
        wait: bool,
    },
    /// As a restart, from another path: it is the daemon's from then on, if its generation is confirmed.
    RestartFrom {
        exe: PathBuf,
        #[json(default)]
        wait: bool,
    },
    /// Is it alive, ready, started?
    Probe { probe: Probe },
    /// Drain and end.
    Stop {},
    /// A request of a later release.
    #[json(other)]
    Unknown,
}

/// What a daemon replies: any number of `Progress`, then one of the others.
#[derive(Debug, ToJson, FromJson)]
#[json(tag = "type", rename_all = "kebab-case")]
pub(crate) enum Reply {
    /// A step, for people.
    Progress { text: String },
    /// The answer to `Status`.
    Status { status: Box<Status> },
    /// The answer to `Probe`.
    Probed {
        ok: bool,
        /// Why, in a few words.
        text: String,
    },
    /// The end of a restart.
    Restarted {
        #[json(flatten)]
        outcome: RestartOutcome,
    },
    /// All workers are gone; the process ends now.
    Stopped {
        ledger: Ledger,
        /// From the request to the end of the last worker.
        #[json(default)]
        to_drained_ms: Option<f64>,
        /// Workers that did not end as they should.
        #[json(default)]
        warnings: Vec<String>,
    },
    /// Not done: why, and what to do.
    Refused { reason: String },
    /// A reply of a later release.
    #[json(other)]
    Unknown,
}

/// How a restart ended.
#[derive(Debug, Clone, ToJson, FromJson)]
pub(crate) struct RestartOutcome {
    /// `ok` or `aborted`.
    pub(crate) result: String,
    #[json(default)]
    pub(crate) reason: Option<String>,
    /// What should be known besides: that the daemon had gone back to an earlier image.
    #[json(default)]
    pub(crate) note: Option<String>,
    /// The generation that was started.
    pub(crate) generation: u32,
    /// The generation that served before.
    #[json(default)]
    pub(crate) from: Option<u32>,
    #[json(default)]
    pub(crate) ledger: Option<Ledger>,
    #[json(default)]
    pub(crate) to_commit_ms: Option<f64>,
    #[json(default)]
    pub(crate) to_drained_ms: Option<f64>,
    /// What the failed worker wrote last.
    #[json(default)]
    pub(crate) output: Vec<String>,
    /// What went wrong all the same: ends of workers that nobody had asked for.
    #[json(default)]
    pub(crate) warnings: Vec<String>,
}

/// Everything `status` shows.
#[derive(Debug, ToJson, FromJson)]
pub(crate) struct Status {
    pub(crate) name: String,
    pub(crate) pid: u32,
    /// `supervised` or `solo`.
    pub(crate) mode: String,
    /// `starting`, `running`, `lame-duck` or `stopping`.
    pub(crate) state: String,
    /// Seconds since the daemon began.
    pub(crate) uptime: f64,
    /// Seconds since 1970.
    pub(crate) since: u64,
    #[json(default)]
    pub(crate) generation: Option<u32>,
    pub(crate) workers: Vec<WorkerStatus>,
    pub(crate) listeners: Vec<ListenerStatus>,
    /// Where probes are answered.
    #[json(default)]
    pub(crate) probes: Vec<SocketAddr>,
    pub(crate) image: ImageStatus,
    /// The image that last confirmed.
    #[json(default)]
    pub(crate) known_good: Option<ImageStatus>,
    /// What the supervisor itself runs.
    #[json(default)]
    pub(crate) supervisor_image: Option<ImageStatus>,
    /// The image of the next generation, as it is now.
    #[json(default)]
    pub(crate) on_disk: Option<DiskStatus>,
    pub(crate) pidfile: PathBuf,
    /// Files of the daemon's that were removed, restored or not.
    #[json(default)]
    pub(crate) files: Vec<FileStatus>,
    #[json(default)]
    pub(crate) log: Option<PathBuf>,
    /// Why other code runs than was asked for.
    #[json(default)]
    pub(crate) note: Option<String>,
    /// What became of the connections of the generation that serves so far, with those of its workers that
    /// have crashed.
    #[json(default)]
    pub(crate) ledger: Option<Ledger>,
    #[json(default)]
    pub(crate) restarts: Vec<PastRestart>,
}

/// One worker.
#[derive(Debug, ToJson, FromJson)]
pub(crate) struct WorkerStatus {
    pub(crate) pid: i32,
    pub(crate) generation: u32,
    /// `starting`, `serving`, `paused`, `draining` or `stopping`.
    pub(crate) state: String,
    pub(crate) uptime: f64,
    pub(crate) connections: u64,
    pub(crate) requests_in_flight: u64,
    #[json(default)]
    pub(crate) requests: u64,
    /// What became of its connections so far.
    #[json(default)]
    pub(crate) ledger: Ledger,
    /// Tasks of `Daemon::spawn` that run.
    #[json(default)]
    pub(crate) tasks: u64,
    /// `None` of a worker of an earlier release.
    #[json(default)]
    pub(crate) main_ended: Option<bool>,
    /// What the program said by `Daemon::status`.
    #[json(default)]
    pub(crate) text: Option<String>,
}

/// One listener.
#[derive(Debug, ToJson, FromJson)]
pub(crate) struct ListenerStatus {
    pub(crate) name: String,
    pub(crate) addr: String,
    /// `manager`: the service manager passed it. `store`: it kept it since an earlier start.
    #[json(default, skip_if = is_own)]
    pub(crate) source: ListenerSource,
}

impl ListenerStatus {
    pub(crate) fn of(name: &str, bound: &Bound) -> ListenerStatus {
        let (addr, source) = (bound.addr().to_string(), bound.source());
        ListenerStatus { name: name.to_owned(), addr, source }
    }
}

fn is_own(source: &ListenerSource) -> bool {
    *source == ListenerSource::Daemon
}

/// The image of a generation.
#[derive(Debug, Default, ToJson, FromJson)]
pub(crate) struct ImageStatus {
    pub(crate) path: PathBuf,
    /// The version of the program, where known.
    #[json(default)]
    pub(crate) release: Option<String>,
    #[json(default)]
    pub(crate) generation: Option<u32>,
    #[json(default)]
    pub(crate) build_id: Option<String>,
    /// In bytes.
    #[json(default)]
    pub(crate) size: Option<u64>,
    /// When the file was written, in seconds since 1970.
    #[json(default)]
    pub(crate) modified: Option<u64>,
    /// When its generation began to serve, or was confirmed if that is what it is shown for; in seconds
    /// since 1970.
    #[json(default)]
    pub(crate) since: Option<u64>,
}

impl ImageStatus {
    pub(crate) fn of(
        image: &Image,
        generation: impl Into<Option<u32>>,
        since: Option<u64>,
    ) -> ImageStatus {
        ImageStatus {
            path: image.path().to_owned(),
            release: None,
            generation: generation.into(),
            build_id: image.build_id().map(str::to_owned),
            size: Some(image.size()),
            modified: Some(image.modified()),
            since,
        }
    }
}

/// What the next restart would find.
#[derive(Debug, ToJson, FromJson)]
pub(crate) struct DiskStatus {
    pub(crate) path: PathBuf,
    /// `same`, `same-build`, `other`, `missing` or `unusable`.
    pub(crate) state: String,
    /// Where it is another program.
    #[json(default)]
    pub(crate) build_id: Option<String>,
    /// Why it is unusable.
    #[json(default)]
    pub(crate) reason: Option<String>,
}

impl DiskStatus {
    /// What the path leads to, compared with the image that serves.
    pub(crate) fn of(image: &Image, path: PathBuf, workers: &[Account]) -> DiskStatus {
        let (state, build_id, reason) = match image.compare(&path, workers) {
            OnDisk::Same => ("same", None, None),
            OnDisk::SameBuild => ("same-build", None, None),
            OnDisk::Other { build_id } => ("other", build_id, None),
            OnDisk::Missing => ("missing", None, None),
            OnDisk::Unusable { reason } => ("unusable", None, Some(reason)),
        };
        DiskStatus { path, state: state.into(), build_id, reason }
    }
}

/// One of the last restarts.
#[derive(Debug, Clone, ToJson, FromJson)]
pub(crate) struct PastRestart {
    /// When it was asked for, in seconds since 1970.
    pub(crate) at: u64,
    #[json(flatten)]
    pub(crate) outcome: RestartOutcome,
}

/// A time as clients are told it: in seconds since 1970.
pub(crate) fn unix_seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
