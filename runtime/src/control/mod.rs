//! The control socket: the protocol of `stop`, `restart`, `status` and probes with a daemon.
//!
//! It is a unix socket of mode 0600 in the runtime directory that carries one JSON object per packet. A
//! client sends one [`Request`] and gets any number of [`Reply::Progress`], then one other [`Reply`]. Peers
//! are checked by `SO_PEERCRED` (unix(7)); requests are limited in size, number and time. [`socket`] binds
//! and connects, [`clients`] serves the connected clients.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::counters::{Ledger, Remaining};
use crate::image::{Image, OnDisk};
use crate::json::{FromJson, ToJson};
use crate::listener::{Bound, ListenerSource};
use crate::owned_files::FileStatus;
use crate::probe::Probe;
use crate::sys::privileges::Account;
use unbroken_core::event::{ClientAnswer, RestartReport};

mod clients;
pub(crate) mod socket;

pub(crate) use clients::{ClientInput, Clients, ClientsState as PackedClients};
pub(crate) use socket::{ControlSocket, connect, path_of, prepare_directory};

/// A request to a daemon.
#[derive(Debug, ToJson, FromJson)]
#[json(tag = "type", rename_all = "kebab-case")]
pub(crate) enum Request {
    /// Asks for everything that `status` shows.
    Status {},
    /// Asks for a restart from the image on disk.
    Restart {
        /// Whether the answer comes when the old generation has drained; else at the end of the transition.
        #[json(default)]
        wait: bool,
    },
    /// Asks for a restart from an image at another path. If its generation is confirmed, later restarts use
    /// this path too.
    RestartFrom {
        /// The path, which must be absolute.
        exe: PathBuf,
        /// As in [`Request::Restart`].
        #[json(default)]
        wait: bool,
    },
    /// Asks whether the daemon is alive, ready or started.
    Probe { probe: Probe },
    /// Asks the daemon to drain and exit.
    Stop {},
    /// A request of a later release.
    #[json(other)]
    Unknown,
}

/// A reply of a daemon: any number of `Progress`, then one of the others.
#[derive(Debug, ToJson, FromJson)]
#[json(tag = "type", rename_all = "kebab-case")]
pub(crate) enum Reply {
    /// A step, in words.
    Progress { text: String },
    /// The answer to `Status`.
    Status { status: Box<Status> },
    /// The answer to `Probe`.
    Probed {
        /// Whether the probe passes.
        ok: bool,
        /// Why, in a few words.
        text: String,
    },
    /// The restart is over, successful or not.
    Restarted {
        #[json(flatten)]
        outcome: RestartOutcome,
    },
    /// All workers have ended; the process exits now.
    Stopped {
        ledger: Ledger,
        /// The time from the request to the end of the last worker.
        #[json(default)]
        to_drained_ms: Option<f64>,
        /// Workers that did not end as they should.
        #[json(default)]
        warnings: Vec<String>,
    },
    /// The request was not carried out. The reason says what to do.
    Refused { reason: String },
    /// A reply of a later release.
    #[json(other)]
    Unknown,
}

impl Reply {
    /// Converts an answer of the machine.
    pub(crate) fn of(answer: ClientAnswer) -> Reply {
        match answer {
            ClientAnswer::Restarted(report) | ClientAnswer::Aborted(report) => {
                Reply::Restarted { outcome: RestartOutcome::of(&report, Vec::new()) }
            }
            ClientAnswer::Stopped { ledger, to_drained, warnings } => {
                let to_drained_ms = Some(to_drained.as_secs_f64() * 1000.0);
                Reply::Stopped { ledger, to_drained_ms, warnings }
            }
            ClientAnswer::Refused { reason } => Reply::Refused { reason },
        }
    }
}

/// The outcome of a restart.
#[derive(Debug, Clone, ToJson, FromJson)]
pub(crate) struct RestartOutcome {
    /// `ok` or `aborted`.
    pub(crate) result: String,
    /// Why it was aborted.
    #[json(default)]
    pub(crate) reason: Option<String>,
    /// A remark that is not about success: that the daemon had rolled back to an earlier image, or that the
    /// supervisor kept its own.
    #[json(default)]
    pub(crate) note: Option<String>,
    /// The generation that was started.
    pub(crate) generation: u32,
    /// The generation that served before.
    #[json(default)]
    pub(crate) from: Option<u32>,
    /// What became of the connections of the generation that ended: the old one or, if the restart was
    /// aborted after its commit, the new one.
    #[json(default)]
    pub(crate) ledger: Option<Ledger>,
    /// The time from the request to the commit.
    #[json(default)]
    pub(crate) to_commit_ms: Option<f64>,
    /// The time from the request to the end of the last worker of the old generation.
    #[json(default)]
    pub(crate) to_drained_ms: Option<f64>,
    /// The last lines that the failed worker wrote.
    #[json(default)]
    pub(crate) output: Vec<String>,
    /// Unexpected ends of workers during the restart.
    #[json(default)]
    pub(crate) warnings: Vec<String>,
}

impl RestartOutcome {
    /// Converts a report of the machine.
    pub(crate) fn of(report: &RestartReport, output: Vec<String>) -> RestartOutcome {
        let ms = |duration: Option<Duration>| duration.map(|d| d.as_secs_f64() * 1000.0);
        RestartOutcome {
            result: if report.committed { "ok" } else { "aborted" }.into(),
            reason: report.reason.clone(),
            note: report.note.clone(),
            generation: report.to,
            from: report.from,
            ledger: report.ledger,
            to_commit_ms: ms(report.to_commit),
            to_drained_ms: ms(report.to_drained),
            output,
            warnings: report.warnings.clone(),
        }
    }
}

/// Everything that `status` shows.
#[derive(Debug, Default, ToJson, FromJson)]
pub(crate) struct Status {
    pub(crate) name: String,
    /// The process id of the supervisor, or of the solo daemon.
    pub(crate) pid: u32,
    /// `supervised` or `solo`.
    pub(crate) mode: String,
    /// `starting`, `running`, `lame-duck` or `stopping`.
    pub(crate) state: String,
    /// Seconds since the daemon began.
    pub(crate) uptime: f64,
    /// When the daemon began, in seconds since 1970.
    pub(crate) since: u64,
    /// The generation that serves.
    #[json(default)]
    pub(crate) generation: Option<u32>,
    pub(crate) workers: Vec<WorkerStatus>,
    pub(crate) listeners: Vec<ListenerStatus>,
    /// The addresses at which probes are answered.
    #[json(default)]
    pub(crate) probes: Vec<SocketAddr>,
    /// The image of the generation that serves.
    pub(crate) image: ImageStatus,
    /// The image that was confirmed last.
    #[json(default)]
    pub(crate) known_good: Option<ImageStatus>,
    /// The image that the supervisor itself runs.
    #[json(default)]
    pub(crate) supervisor_image: Option<ImageStatus>,
    /// The file that the next restart would use, as it is now.
    #[json(default)]
    pub(crate) on_disk: Option<DiskStatus>,
    pub(crate) pidfile: PathBuf,
    /// The daemon's files that were removed, restored or not.
    #[json(default)]
    pub(crate) files: Vec<FileStatus>,
    /// The path of the log file.
    #[json(default)]
    pub(crate) log: Option<PathBuf>,
    /// Why a rolled-back image runs instead of the one that was asked for.
    #[json(default)]
    pub(crate) note: Option<String>,
    /// What became of the connections of the generation that serves so far, including those of its workers
    /// that have ended.
    #[json(default)]
    pub(crate) ledger: Option<Ledger>,
    /// The last restarts, the latest first.
    #[json(default)]
    pub(crate) restarts: Vec<PastRestart>,
}

/// A worker, as `status` shows it.
#[derive(Debug, Default, ToJson, FromJson)]
pub(crate) struct WorkerStatus {
    pub(crate) pid: i32,
    pub(crate) generation: u32,
    /// `starting`, `serving`, `paused`, `draining` or `stopping`.
    pub(crate) state: String,
    /// Seconds since it was spawned.
    pub(crate) uptime: f64,
    /// The connections that are open.
    pub(crate) connections: u64,
    pub(crate) requests_in_flight: u64,
    /// All requests so far.
    #[json(default)]
    pub(crate) requests: u64,
    /// What became of its connections so far.
    #[json(default)]
    pub(crate) ledger: Ledger,
    /// The tasks of `Daemon::spawn` that run.
    #[json(default)]
    pub(crate) tasks: u64,
    /// Whether its `main` has ended; `None` for a worker of an earlier release.
    #[json(default)]
    pub(crate) main_ended: Option<bool>,
    /// The program's last text from `Daemon::status`.
    #[json(default)]
    pub(crate) text: Option<String>,
}

impl WorkerStatus {
    /// Returns the part that the worker counts itself.
    pub(crate) fn of(ledger: Ledger, remaining: Remaining) -> WorkerStatus {
        WorkerStatus {
            connections: ledger.open,
            requests_in_flight: ledger.in_flight,
            requests: ledger.requests,
            ledger,
            tasks: remaining.tasks,
            main_ended: remaining.main.map(|runs| !runs),
            ..WorkerStatus::default()
        }
    }
}

/// A listener, as `status` shows it.
#[derive(Debug, ToJson, FromJson)]
pub(crate) struct ListenerStatus {
    pub(crate) name: String,
    pub(crate) addr: String,
    /// `manager` if the service manager passed it, `store` if it is from the service manager's fd store; left
    /// out if the daemon bound it.
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

/// An image, as `status` shows it.
#[derive(Debug, Default, ToJson, FromJson)]
pub(crate) struct ImageStatus {
    pub(crate) path: PathBuf,
    /// The version of the program, if known.
    #[json(default)]
    pub(crate) release: Option<String>,
    /// The generation that runs it.
    #[json(default)]
    pub(crate) generation: Option<u32>,
    /// The build ID of the ELF file, if it has one.
    #[json(default)]
    pub(crate) build_id: Option<String>,
    /// The size in bytes.
    #[json(default)]
    pub(crate) size: Option<u64>,
    /// The modification time of the file, in seconds since 1970.
    #[json(default)]
    pub(crate) modified: Option<u64>,
    /// When its generation began to serve or, for the known-good image, was confirmed; in seconds since 1970.
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

/// The file that the next restart would use, compared with the image that serves.
#[derive(Debug, ToJson, FromJson)]
pub(crate) struct DiskStatus {
    pub(crate) path: PathBuf,
    /// `same`, `same-build`, `other`, `missing` or `unusable`.
    pub(crate) state: String,
    /// Its build ID, if the state is `other`.
    #[json(default)]
    pub(crate) build_id: Option<String>,
    /// Why it is unusable.
    #[json(default)]
    pub(crate) reason: Option<String>,
}

impl DiskStatus {
    /// Compares the file at `path` with the image that serves. It is unusable if one of the users in
    /// `workers` could modify it.
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

/// A restart in the past.
#[derive(Debug, Clone, ToJson, FromJson)]
pub(crate) struct PastRestart {
    /// When it was requested, in seconds since 1970.
    pub(crate) at: u64,
    #[json(flatten)]
    pub(crate) outcome: RestartOutcome,
}

/// Converts a time to seconds since 1970.
pub(crate) fn unix_seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
