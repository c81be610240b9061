//! The supervisor's processes: spawning them, their links and counters.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::event::{Generation, WorkerId};
use crate::config::Settings;
use crate::counters::{Counters, Held, Ledger};
use crate::error::{Error, ErrorKind, Result};
use crate::failpoint::{self, Step};
use crate::handed::{Handed, Packing};
use crate::image::Image;
use crate::json::{FromJson, ToJson};
use crate::link::{self, FromWorker, ToWorker};
use crate::marker::{Marker, Origin, Role, VARIABLE};
use crate::notify;
use crate::privileges;
use crate::sorted::SortedMap;
use crate::sys::exec::{self, Program};
use crate::sys::process::{self, Child, Forked};
use crate::sys::{descriptors, seqpacket};

/// How long a process may outlive its link before that is a failure of its own: an exit closes the link
/// a moment before the process can be waited for.
const EXIT_LAG: Duration = Duration::from_millis(200);

/// All workers that are not reaped yet.
#[derive(Default)]
pub(crate) struct Fleet {
    workers: SortedMap<WorkerId, Process>,
}

/// One worker process.
pub(crate) struct Process {
    pub(crate) generation: Generation,
    pub(crate) child: Child,
    pub(crate) since: Instant,
    /// What the program said of itself.
    pub(crate) text: Option<String>,
    pub(crate) greeted: bool,
    /// Why it may never be ready.
    pub(crate) unclaimed: Option<String>,
    /// It has its listeners.
    pub(crate) welcomed: bool,
    /// The log was opened again since it was forked.
    pub(crate) old_output: bool,
    /// Where the next supervisor finds it, should this one be killed.
    pub(crate) rendezvous: Option<PathBuf>,
    counters: Counters,
    counters_fd: OwnedFd,
    link: Option<OwnedFd>,
    /// Since when the link is closed, until that has been told.
    closed: Option<Instant>,
}

impl Process {
    /// The figures as they are now.
    pub(crate) fn ledger(&self) -> Ledger {
        self.counters.read()
    }

    /// What it would wait for, were it to drain.
    pub(crate) fn held(&self) -> Held {
        self.counters.held()
    }

    /// The figures after its end.
    pub(crate) fn final_ledger(&self) -> Ledger {
        self.counters.closed()
    }

    /// Whether it has called `main`.
    pub(crate) fn has_run(&self) -> bool {
        self.counters.has_run()
    }

    pub(crate) fn missing(&self, listeners: &[&str], manual: bool) -> String {
        self.counters.missing(listeners, manual)
    }

    pub(crate) fn counters_fd(&self) -> BorrowedFd<'_> {
        self.counters_fd.as_fd()
    }

    pub(crate) fn link(&self) -> Option<BorrowedFd<'_>> {
        self.link.as_ref().map(AsFd::as_fd)
    }

    /// Sends an order. A worker that does not take it is as good as gone.
    pub(crate) fn tell(&self, message: &ToWorker, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        match &self.link {
            Some(link) => link::send(link, message, fds),
            None => Err(io::Error::from(io::ErrorKind::NotConnected)),
        }
    }

    /// The next message, if one is there.
    pub(crate) fn hear(&mut self, now: Instant) -> Result<Option<FromWorker>> {
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

/// A process on its way to the supervisor's next image.
#[derive(Debug, ToJson, FromJson)]
pub(super) struct Packed {
    generation: Generation,
    pid: i32,
    pidfd: Handed,
    since: Instant,
    text: Option<String>,
    greeted: bool,
    #[json(default)]
    welcomed: bool,
    old_output: bool,
    #[json(default)]
    rendezvous: Option<PathBuf>,
    counters: Handed,
    link: Option<Handed>,
    closed: Option<Instant>,
}

impl Process {
    fn pack(&self, packing: &mut Packing) -> Packed {
        Packed {
            generation: self.generation,
            pid: self.child.pid(),
            pidfd: packing.hand(&self.child),
            since: self.since,
            text: self.text.clone(),
            greeted: self.greeted,
            welcomed: self.welcomed,
            old_output: self.old_output,
            rendezvous: self.rendezvous.clone(),
            counters: packing.hand(&self.counters_fd),
            link: self.link.as_ref().map(|link| packing.hand(link)),
            closed: self.closed,
        }
    }

    fn unpack(packed: Packed) -> Result<Process> {
        let counters_fd = packed.counters.duplicate("the counters of a worker")?;
        let counters = Counters::open(&counters_fd)
            .map_err(|error| Error::io("cannot map the counters of a worker", error))?;
        let pidfd = packed.pidfd.duplicate("the process of a worker")?;
        Ok(Process {
            generation: packed.generation,
            child: Child::adopt(packed.pid, pidfd)?,
            since: packed.since,
            text: packed.text,
            greeted: packed.greeted,
            unclaimed: None,
            welcomed: packed.welcomed,
            old_output: packed.old_output,
            rendezvous: packed.rendezvous,
            counters,
            counters_fd,
            link: packed.link.map(|link| link.duplicate("the link of a worker")).transpose()?,
            closed: packed.closed,
        })
    }
}

/// What a new worker is made of.
pub(crate) struct Plan<'a> {
    pub(crate) generation: Generation,
    pub(crate) image: &'a Image,
    pub(crate) args: &'a [std::ffi::OsString],
    pub(crate) vars: &'a [(std::ffi::OsString, std::ffi::OsString)],
    pub(crate) origin: &'a Origin,
    /// Where they are known before it says hello.
    pub(crate) settings: Option<&'a Settings>,
    pub(crate) respawn: bool,
}

impl Fleet {
    pub(super) fn pack(&self, packing: &mut Packing) -> SortedMap<WorkerId, Packed> {
        self.workers.iter().map(|(id, process)| (*id, process.pack(packing))).collect()
    }

    pub(super) fn unpack(packed: SortedMap<WorkerId, Packed>) -> Result<Fleet> {
        let workers = packed.into_iter().map(|(id, packed)| Ok((id, Process::unpack(packed)?)));
        Ok(Fleet { workers: workers.collect::<Result<_>>()? })
    }

    /// Forks a worker that execs the image.
    pub(crate) fn spawn(&mut self, id: WorkerId, plan: &Plan<'_>, now: Instant) -> Result<i32> {
        plan.image.verify()?;
        let cannot = |what: &str| {
            let what = format!("cannot {what} for a worker");
            move |error: io::Error| Error::io(what, error)
        };
        let (ours, theirs) = seqpacket::pair().map_err(cannot("create a link"))?;
        descriptors::set_nonblocking(&ours).map_err(cannot("create a link"))?;
        let (counters, counters_fd) = Counters::create().map_err(cannot("create the counters"))?;
        failpoint::attempt(Step::SupervisorBeforeFork, plan.generation)
            .map_err(|error| Error::io("cannot fork a process", error))?;
        match process::fork()? {
            Forked::Child => {
                let error = become_worker(&theirs, plan);
                let reason = error.to_string();
                // If even this fails, the exit code tells the rest.
                let _ = link::send(&theirs, &FromWorker::ExecFailed { reason }, &[]);
                process::exit_now(127);
            }
            Forked::Parent(child) => {
                failpoint::reach(Step::SupervisorAfterFork, plan.generation);
                let pid = child.pid();
                let process = Process {
                    generation: plan.generation,
                    child,
                    since: now,
                    text: None,
                    greeted: false,
                    unclaimed: None,
                    welcomed: false,
                    old_output: false,
                    rendezvous: None,
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

    /// Opens a channel by which one worker passes its connections to another. One that does not take
    /// its end has none, and what it has stays where it is.
    pub(crate) fn connect(&self, from: WorkerId, to: WorkerId) -> io::Result<()> {
        let (Some(from), Some(to)) = (self.get(from), self.get(to)) else { return Ok(()) };
        let (sending, taking) = seqpacket::pair()?;
        to.tell(&ToWorker::Predecessor {}, &[taking.as_fd()])?;
        from.tell(&ToWorker::Successor {}, &[sending.as_fd()])
    }

    /// As [`Fleet::connect`], to the worker of `generation`, from somebody who is given this end.
    pub(crate) fn channel_to(&self, generation: Generation) -> io::Result<Option<OwnedFd>> {
        let Some((_, to)) = self.iter().find(|(_, it)| it.generation == generation) else {
            return Ok(None);
        };
        let (sending, taking) = seqpacket::pair()?;
        to.tell(&ToWorker::Predecessor {}, &[taking.as_fd()])?;
        Ok(Some(sending))
    }

    pub(crate) fn get(&self, id: WorkerId) -> Option<&Process> {
        self.workers.get(&id)
    }

    pub(crate) fn get_mut(&mut self, id: WorkerId) -> Option<&mut Process> {
        self.workers.get_mut(&id)
    }

    pub(crate) fn remove(&mut self, id: WorkerId) -> Option<Process> {
        let process = self.workers.remove(&id)?;
        if let Some(path) = &process.rendezvous {
            // What cannot be removed is found dead by the next start.
            let _ = std::fs::remove_file(path);
        }
        Some(process)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (WorkerId, &Process)> {
        self.workers.iter().map(|(id, process)| (*id, process))
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Process> {
        self.workers.values_mut()
    }

    pub(crate) fn owns(&self, pid: i32) -> bool {
        self.workers.values().any(|process| process.child.pid() == pid)
    }

    /// Workers whose link has been closed for longer than an exit explains; each is named once.
    pub(crate) fn mute(&mut self, now: Instant) -> Vec<WorkerId> {
        let mut mute = Vec::new();
        for (id, process) in &mut self.workers {
            if process.closed.is_some_and(|since| now >= since + EXIT_LAG) {
                process.closed = None;
                mute.push(*id);
            }
        }
        mute
    }

    /// When [`Fleet::mute`] is due.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.workers.values().filter_map(|process| process.closed).min().map(|at| at + EXIT_LAG)
    }
}

/// In the forked child: becomes the program, or returns why not.
fn become_worker(link: &OwnedFd, plan: &Plan<'_>) -> Error {
    let attempt = || -> Result<std::convert::Infallible> {
        descriptors::keep_across_exec(link.as_fd())
            .map_err(|error| Error::io("cannot keep the link open across exec", error))?;
        let marker = Marker::text(Role::Worker {
            link: std::os::fd::AsRawFd::as_raw_fd(link),
            respawn: plan.respawn,
            origin: plan.origin.clone(),
        })?;
        plan.settings.map_or(Ok(()), privileges::limit)?;
        // What a service manager tells the daemon is no affair of its workers.
        let vars: Vec<_> =
            plan.vars.iter().filter(|(name, _)| !notify::is_private(name)).cloned().collect();
        let program = Program {
            image: plan.image.as_fd(),
            args: plan.args,
            vars: &vars,
            marker: (VARIABLE, &marker),
        };
        let executed = failpoint::attempt(Step::SupervisorBeforeExec, plan.generation)
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
