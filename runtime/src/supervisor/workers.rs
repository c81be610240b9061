//! The worker processes: spawning them, their links and their counters.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::config::Settings;
use crate::counters::{Counters, Ledger, Remaining};
use crate::error::{Error, ErrorKind, Result};
use crate::failpoint::{self, Step};
use crate::image::Image;
use crate::inherited_fd::{FdTable, InheritedFd};
use crate::json::{FromJson, ToJson};
use crate::launch::role::{LaunchOrigin, Role, RoleMarker, VARIABLE};
use crate::link::{self, FromWorker, ToWorker};
use crate::privileges;
use crate::sys::exec::{self, Program};
use crate::sys::process::{self, Child, Forked};
use crate::sys::{descriptors, seqpacket};
use crate::systemd::notify;
use unbroken_core::event::{Generation, WorkerId};
use unbroken_core::sorted::SortedMap;

/// The time between the end of a link and its report as lost. An exit closes the link a moment before the
/// process can be reaped; with a shorter time, normal exits would be reported as lost links.
const EXIT_LAG: Duration = Duration::from_millis(200);

/// All worker processes that are not reaped yet.
#[derive(Default)]
pub(crate) struct WorkerProcesses {
    workers: SortedMap<WorkerId, WorkerProcess>,
}

/// One worker process.
pub(crate) struct WorkerProcess {
    pub(crate) generation: Generation,
    pub(crate) child: Child,
    pub(crate) since: Instant,
    /// The program's last text for `status`.
    pub(crate) text: Option<String>,
    /// Whether its *hello* arrived.
    pub(crate) greeted: bool,
    /// Why it may never be ready: a listener that only the operator declared and it has not claimed.
    pub(crate) unclaimed: Option<String>,
    /// Whether its *welcome* was sent, and so its listeners.
    pub(crate) welcomed: bool,
    /// Whether the log was opened again between its fork and its *hello*: its output goes to the old file.
    pub(crate) old_output: bool,
    /// The socket at which it waits for the next supervisor, should this one be killed.
    pub(crate) reattach_path: Option<PathBuf>,
    counters: Counters,
    /// The shared memory of `counters`, to hand to the worker and to the supervisor's next image.
    counters_fd: OwnedFd,
    /// The supervisor's end of the link, until it is closed.
    link: Option<OwnedFd>,
    /// When the link was closed, until it is reported as lost.
    closed: Option<Instant>,
}

impl WorkerProcess {
    /// Returns its ledger so far.
    pub(crate) fn ledger(&self) -> Ledger {
        self.counters.read()
    }

    /// Returns the work that it would have to finish in a drain.
    pub(crate) fn remaining(&self) -> Remaining {
        self.counters.remaining()
    }

    /// Returns its ledger after its end, in which open connections are lost.
    pub(crate) fn final_ledger(&self) -> Ledger {
        self.counters.final_ledger()
    }

    /// Returns whether it has called `main`.
    pub(crate) fn has_run(&self) -> bool {
        self.counters.has_run()
    }

    /// Returns what it has not done yet to be ready.
    pub(crate) fn missing(&self, listeners: &[&str], manual: bool) -> String {
        self.counters.missing(listeners, manual)
    }

    pub(crate) fn counters_fd(&self) -> BorrowedFd<'_> {
        self.counters_fd.as_fd()
    }

    pub(crate) fn link(&self) -> Option<BorrowedFd<'_>> {
        self.link.as_ref().map(AsFd::as_fd)
    }

    /// Sends a message. An error means that the link is of no more use.
    pub(crate) fn send(&self, message: &ToWorker, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        match &self.link {
            Some(link) => link::send(link, message, fds),
            None => Err(io::Error::from(io::ErrorKind::NotConnected)),
        }
    }

    /// Receives the next message, if there is one. Notes when the link is closed.
    pub(crate) fn receive(&mut self, now: Instant) -> Result<Option<FromWorker>> {
        let Some(link) = &self.link else { return Ok(None) };
        match link::receive::<FromWorker>(link) {
            Ok(Some((message, _))) => Ok(Some(message)),
            Ok(None) => {
                self.link = None;
                self.closed = Some(now);
                Ok(None)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(Error::io("cannot parse its message", error)),
        }
    }
}

/// A worker process in the state that a supervisor hands to its next image.
#[derive(Debug, ToJson, FromJson)]
pub(super) struct WorkerProcessState {
    generation: Generation,
    pid: i32,
    pidfd: InheritedFd,
    #[json(with = crate::sys::clock::instant)]
    since: Instant,
    text: Option<String>,
    greeted: bool,
    #[json(default)]
    welcomed: bool,
    old_output: bool,
    #[json(default)]
    reattach_path: Option<PathBuf>,
    counters: InheritedFd,
    link: Option<InheritedFd>,
    #[json(default, with = crate::sys::clock::optional_instant)]
    closed: Option<Instant>,
}

impl WorkerProcess {
    fn pack(&self, packing: &mut FdTable) -> WorkerProcessState {
        WorkerProcessState {
            generation: self.generation,
            pid: self.child.pid(),
            pidfd: packing.add(&self.child),
            since: self.since,
            text: self.text.clone(),
            greeted: self.greeted,
            welcomed: self.welcomed,
            old_output: self.old_output,
            reattach_path: self.reattach_path.clone(),
            counters: packing.add(&self.counters_fd),
            link: self.link.as_ref().map(|link| packing.add(link)),
            closed: self.closed,
        }
    }

    fn unpack(packed: WorkerProcessState) -> Result<WorkerProcess> {
        let counters_fd = packed.counters.duplicate("the counters of a worker")?;
        let counters = Counters::open(&counters_fd)
            .map_err(|error| Error::io("cannot map the counters of a worker", error))?;
        let pidfd = packed.pidfd.duplicate("the process of a worker")?;
        Ok(WorkerProcess {
            generation: packed.generation,
            child: Child::adopt(packed.pid, pidfd)?,
            since: packed.since,
            text: packed.text,
            greeted: packed.greeted,
            unclaimed: None,
            welcomed: packed.welcomed,
            old_output: packed.old_output,
            reattach_path: packed.reattach_path,
            counters,
            counters_fd,
            link: packed.link.map(|link| link.duplicate("the link of a worker")).transpose()?,
            closed: packed.closed,
        })
    }
}

/// What a new worker is started with.
pub(crate) struct WorkerSpec<'a> {
    pub(crate) generation: Generation,
    pub(crate) image: &'a Image,
    pub(crate) args: &'a [std::ffi::OsString],
    pub(crate) vars: &'a [(std::ffi::OsString, std::ffi::OsString)],
    pub(crate) origin: &'a LaunchOrigin,
    /// Its settings, if they are known before its *hello*: some limits are set before the exec.
    pub(crate) settings: Option<&'a Settings>,
    /// Whether its generation has settings, so that it computes none itself.
    pub(crate) respawn: bool,
}

impl WorkerProcesses {
    pub(super) fn pack(&self, packing: &mut FdTable) -> SortedMap<WorkerId, WorkerProcessState> {
        self.workers.iter().map(|(id, process)| (*id, process.pack(packing))).collect()
    }

    pub(super) fn unpack(
        packed: SortedMap<WorkerId, WorkerProcessState>,
    ) -> Result<WorkerProcesses> {
        let workers =
            packed.into_iter().map(|(id, packed)| Ok((id, WorkerProcess::unpack(packed)?)));
        Ok(WorkerProcesses { workers: workers.collect::<Result<_>>()? })
    }

    /// Forks a worker that executes the image; returns its process id.
    pub(crate) fn spawn(
        &mut self,
        id: WorkerId,
        plan: &WorkerSpec<'_>,
        now: Instant,
    ) -> Result<i32> {
        plan.image.verify()?;
        let cannot = |what: &str| {
            let what = format!("cannot {what} for a worker");
            move |error: io::Error| Error::io(what, error)
        };
        let (ours, theirs) = seqpacket::pair().map_err(cannot("create a link"))?;
        descriptors::set_nonblocking(&ours).map_err(cannot("create a link"))?;
        let (counters, counters_fd) = Counters::create().map_err(cannot("create the counters"))?;
        failpoint::try_hit(Step::SupervisorBeforeFork, plan.generation)
            .map_err(|error| Error::io("cannot fork a process", error))?;
        match process::fork()? {
            Forked::Child => {
                let error = become_worker(&theirs, plan);
                let reason = error.to_string();
                // If even this fails, the exit code has to do.
                let _ = link::send(&theirs, &FromWorker::ExecFailed { reason }, &[]);
                process::exit_now(127);
            }
            Forked::Parent(child) => {
                failpoint::hit(Step::SupervisorAfterFork, plan.generation);
                let pid = child.pid();
                let process = WorkerProcess {
                    generation: plan.generation,
                    child,
                    since: now,
                    text: None,
                    greeted: false,
                    unclaimed: None,
                    welcomed: false,
                    old_output: false,
                    reattach_path: None,
                    counters,
                    counters_fd,
                    link: Some(ours),
                    closed: None,
                };
                self.workers.insert(id, process);
                Ok(pid)
            }
        }
    }

    /// Opens a channel over which one worker hands off its connections to another. If a worker does not take
    /// its end, connections stay where they are.
    pub(crate) fn connect(&self, from: WorkerId, to: WorkerId) -> io::Result<()> {
        let (Some(from), Some(to)) = (self.get(from), self.get(to)) else { return Ok(()) };
        let (sending, taking) = seqpacket::pair()?;
        to.send(&ToWorker::Predecessor {}, &[taking.as_fd()])?;
        from.send(&ToWorker::Successor {}, &[sending.as_fd()])
    }

    /// Opens a channel for handoffs to the worker of `generation`; returns the sending end.
    pub(crate) fn channel_to(&self, generation: Generation) -> io::Result<Option<OwnedFd>> {
        let Some((_, to)) = self.iter().find(|(_, it)| it.generation == generation) else {
            return Ok(None);
        };
        let (sending, taking) = seqpacket::pair()?;
        to.send(&ToWorker::Predecessor {}, &[taking.as_fd()])?;
        Ok(Some(sending))
    }

    pub(crate) fn get(&self, id: WorkerId) -> Option<&WorkerProcess> {
        self.workers.get(&id)
    }

    pub(crate) fn get_mut(&mut self, id: WorkerId) -> Option<&mut WorkerProcess> {
        self.workers.get_mut(&id)
    }

    /// Removes a worker that was reaped, and its socket for the next supervisor.
    pub(crate) fn remove(&mut self, id: WorkerId) -> Option<WorkerProcess> {
        let process = self.workers.remove(&id)?;
        if let Some(path) = &process.reattach_path {
            // A socket that cannot be removed is recognized as dead at the next start.
            let _ = std::fs::remove_file(path);
        }
        Some(process)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (WorkerId, &WorkerProcess)> {
        self.workers.iter().map(|(id, process)| (*id, process))
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut WorkerProcess> {
        self.workers.values_mut()
    }

    /// Returns whether a process is one of the workers.
    pub(crate) fn owns(&self, pid: i32) -> bool {
        self.workers.values().any(|process| process.child.pid() == pid)
    }

    /// Returns the workers whose links have been closed for longer than an exit takes, each once.
    pub(crate) fn expired_links(&mut self, now: Instant) -> Vec<WorkerId> {
        let mut mute = Vec::new();
        for (id, process) in &mut self.workers {
            if process.closed.is_some_and(|since| now >= since + EXIT_LAG) {
                process.closed = None;
                mute.push(*id);
            }
        }
        mute
    }

    /// Returns when [`expired_links`](Self::expired_links) is due.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.workers.values().filter_map(|process| process.closed).min().map(|at| at + EXIT_LAG)
    }
}

/// Becomes the program, in the forked child. Returns only if this fails.
fn become_worker(link: &OwnedFd, plan: &WorkerSpec<'_>) -> Error {
    let attempt = || -> Result<std::convert::Infallible> {
        descriptors::keep_across_exec(link.as_fd())
            .map_err(|error| Error::io("cannot keep the link open across exec", error))?;
        let marker = RoleMarker::text(Role::Worker {
            link: std::os::fd::AsRawFd::as_raw_fd(link),
            respawn: plan.respawn,
            origin: plan.origin.clone(),
        })?;
        plan.settings.map_or(Ok(()), privileges::limit)?;
        // The service manager's variables, such as `NOTIFY_SOCKET`, are for the supervisor only.
        let vars: Vec<_> =
            plan.vars.iter().filter(|(name, _)| !notify::is_private(name)).cloned().collect();
        let program = Program {
            image: plan.image.as_fd(),
            args: plan.args,
            vars: &vars,
            marker: (VARIABLE, &marker),
        };
        let executed = failpoint::try_hit(Step::SupervisorBeforeExec, plan.generation)
            .and_then(|()| exec::exec(&program));
        executed.map_err(|error| {
            Error::os(
                ErrorKind::Image,
                format!("cannot execute the image {}", plan.image.path().display()),
                error,
            )
        })
    };
    match attempt() {
        Ok(never) => match never {},
        Err(error) => error,
    }
}
