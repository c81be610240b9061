//! The state that a supervisor hands to its next image.
//!
//! It is JSON with a schema version, and refers to descriptors by number. A later release may add fields,
//! which an earlier one ignores; it raises the version if the earlier one could not go on without them.

use std::collections::VecDeque;
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::time::{Instant, SystemTime};

use crate::claim::Claim;
use crate::config::{Address, Configuration};
use crate::control::{Clients, ControlSocket, PackedClients};
use crate::daemon_io::DaemonIo;
use crate::error::{Error, ErrorKind, Result};
use crate::image::{self, Image};
use crate::inherited_fd::{FdTable, InheritedFd};
use crate::json::{self, FromJson, ToJson};
use crate::launch::role::LaunchOrigin;
use crate::launch::startup_pipe::StartupNotifier;
use crate::launch::until_started::UntilStarted;
use crate::logs::{DaemonLog, LogFile};
use crate::owned_files::{FileStatus, OwnedFiles};
use crate::pidfile::PidFile;
use crate::probe;
use crate::reattach::orphans::{self, Orphans};
use crate::supervisor::driver::Driver;
use crate::supervisor::generation_times::GenerationTimes;
use crate::supervisor::generations::{self, Generations};
use crate::supervisor::workers::{self, WorkerProcesses};
use crate::sys::process;
use crate::sys::signals::{SighupAction, Signals};
use crate::systemd::notify::{Health, Notifier};
use unbroken_core::event::{Generation, WorkerId};
use unbroken_core::machine::Machine;
use unbroken_core::sorted::SortedMap;

/// The schema version that this release writes, and the latest that it reads.
pub(super) const VERSION: u32 = 1;

/// The most bytes of a state that is read, far more than it has. The limit keeps a damaged length from
/// taking all memory.
pub(super) const MAX_BYTES: u64 = 64 * 1024 * 1024;

/// The state of a whole supervisor.
#[derive(Debug, ToJson, FromJson)]
pub(crate) struct SupervisorState {
    version: u32,
    /// The release that wrote it, for messages.
    release: String,
    machine: Machine,
    generations: generations::GenerationsState,
    workers: SortedMap<WorkerId, workers::WorkerProcessState>,
    #[json(default)]
    orphans: Vec<orphans::OrphanState>,
    clients: PackedClients,
    /// The image that the supervisor that wrote it runs.
    image: image::ImageState,
    configuration: Configuration,
    origin: LaunchOrigin,
    hang_up: SighupAction,
    pidfile: Path,
    #[json(default)]
    claim: Option<InheritedFd>,
    control: Path,
    /// The removed and restored files, as `status` shows them.
    #[json(default)]
    files: Vec<FileStatus>,
    log: Option<Path>,
    log_length: u64,
    timestamps: bool,
    #[json(with = crate::sys::clock::instant)]
    began: Instant,
    began_at: SystemTime,
    asked: VecDeque<(Generation, SystemTime)>,
    tenure: GenerationTimes,
    /// The state last reported to the service manager.
    #[json(default)]
    reported: Option<Health>,
    /// The messages that could not be sent to the service manager yet.
    #[json(default)]
    unsent: VecDeque<String>,
    #[json(default)]
    probes: probe::ProbeServerState,
    /// The listeners in the service manager's fd store.
    #[json(default)]
    held: SortedMap<String, Address>,
    /// When it was written. The supervisor does nothing from then until the new image has read it.
    #[json(with = crate::sys::clock::instant)]
    pub(super) paused: Instant,
    /// All descriptors that it refers to.
    pub(super) descriptors: Vec<RawFd>,
}

/// A file, by its path and an open descriptor.
#[derive(Debug, ToJson, FromJson)]
struct Path {
    path: PathBuf,
    fd: InheritedFd,
}

/// The part that is read first, to decide whether the rest can be understood.
#[derive(Debug, FromJson)]
struct Version {
    version: u32,
    #[json(default)]
    release: String,
}

impl SupervisorState {
    /// Serializes the state of a supervisor.
    pub(super) fn of(driver: &Driver, now: Instant) -> Result<Vec<u8>> {
        let mut packing = FdTable::default();
        let io = &driver.io;
        let state = SupervisorState {
            version: VERSION,
            release: env!("CARGO_PKG_VERSION").into(),
            generations: driver.generations.pack(&mut packing),
            workers: driver.workers.pack(&mut packing),
            orphans: driver.orphans.pack(&mut packing),
            clients: io.clients.pack(&mut packing),
            image: driver.image.pack(&mut packing),
            configuration: io.configuration.clone(),
            origin: io.origin.clone(),
            hang_up: io.hang_up,
            pidfile: Path { path: io.pidfile.path().to_owned(), fd: packing.add(&*io.pidfile) },
            control: Path { path: io.control.path().to_owned(), fd: packing.add(&*io.control) },
            claim: io.claim.as_ref().map(|claim| claim.pack(&mut packing)),
            files: io.upkeep.as_ref().map(OwnedFiles::status).unwrap_or_default(),
            log: io
                .log
                .as_ref()
                .map(|log| Path { path: log.path().to_owned(), fd: packing.add(log) }),
            log_length: driver.log_length,
            timestamps: io.say.has_timestamps(),
            began: io.began.0,
            began_at: io.began.1,
            asked: driver.asked.clone(),
            tenure: driver.times.clone(),
            reported: io.notifier.reported().cloned(),
            unsent: io.notifier.pending().clone(),
            probes: io.probes.pack(&mut packing),
            held: io.notifier.held().clone(),
            paused: now,
            machine: driver.machine.clone(),
            descriptors: packing.numbers(),
        };
        state.written()
    }

    /// Serializes the state.
    pub(super) fn written(&self) -> Result<Vec<u8>> {
        json::to_vec(self)
            .map_err(|error| Error::io("cannot serialize the supervisor's state", error))
    }

    /// Reads the state that some release has written. Fails if its version is later than [`VERSION`].
    pub(crate) fn read(bytes: &[u8]) -> Result<SupervisorState> {
        let not_understood = |error: json::Mistake| {
            Error::os(ErrorKind::Protocol, "this image cannot parse the supervisor's state", error)
        };
        let Version { version, release } = json::from_slice(bytes).map_err(not_understood)?;
        if version > VERSION {
            return Err(Error::new(
                ErrorKind::Protocol,
                format!(
                    "the supervisor's state has version {version} (release {release}), but this \
                     image supports versions up to {VERSION}; stop and start the daemon"
                ),
            ));
        }
        json::from_slice(bytes).map_err(not_understood)
    }

    /// Rebuilds the supervisor with duplicates of all descriptors; the originals stay open, for the old
    /// image if it has to resume.
    pub(super) fn driver(self) -> Result<Driver> {
        let settings = &self.configuration.settings;
        let vars = process::variables();
        let mut notifier = Notifier::new(&vars, self.reported, self.unsent);
        notifier.set_held(self.held);
        let say = DaemonLog::new(settings, self.timestamps);
        let io = DaemonIo {
            upkeep: Some(OwnedFiles::new(&settings.runtime_dir, self.files, &say)),
            clients: Clients::unpack(self.clients)?,
            events: VecDeque::new(),
            began: (self.began, self.began_at),
            pidfile: UntilStarted::started(PidFile::adopt(
                self.pidfile.path,
                self.pidfile.fd.duplicate("the pidfile")?,
            )),
            claim: match self.claim {
                Some(claim) => Some(Claim::adopt(claim.duplicate("the claim")?)),
                None => None,
            },
            control: UntilStarted::started(ControlSocket::adopt(
                self.control.path,
                self.control.fd.duplicate("the control socket")?,
            )),
            log: match self.log {
                Some(log) => {
                    Some(LogFile::adopt(log.path, settings.log_mode, log.fd.duplicate("the log")?))
                }
                None => None,
            },
            say,
            configuration: self.configuration,
            origin: self.origin,
            args: process::arguments(),
            notifier,
            vars,
            reporter: StartupNotifier::default(),
            probes: probe::ProbeServer::unpack(self.probes)?,
            hang_up: self.hang_up,
        };
        let signals =
            Signals::watch().map_err(|error| Error::io("cannot watch for signals", error))?;
        Ok(Driver {
            io,
            machine: self.machine,
            workers: WorkerProcesses::unpack(self.workers)?,
            orphans: Orphans::unpack(self.orphans)?,
            generations: Generations::unpack(self.generations)?,
            image: std::sync::Arc::new(Image::unpack(self.image)?),
            asked: self.asked,
            times: self.tenure,
            log_length: self.log_length,
            signals,
            exit: None,
            has_run: false,
            preflight: None,
            upgrade_ready: None,
        })
    }
}
