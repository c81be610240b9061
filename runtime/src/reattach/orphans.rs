//! Workers of an earlier supervisor that was killed: found at the start, drained once this one serves.
//!
//! They are no children of this process. Each is held by its pidfd, which it sent itself, and takes orders
//! by a link of its own.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::json::{FromJson, ToJson};
use unbroken_core::sorted::{SortedMap, sort_few};

use crate::config::Address;
use crate::counters::{Counters, Ledger};
use crate::error::{Error, ErrorKind, Result};
use crate::inherited_fd::{FdTable, InheritedFd};
use crate::link::{self, FromWorker, OrphanedListener, Protocols, ToWorker};
use crate::listener::{self, Bound};
use crate::logs::DaemonLog;
use crate::reattach::protocol;
use crate::sys::clock;
use crate::sys::process;
use crate::sys::readiness::readable;
use unbroken_core::event::Generation;

/// No daemon comes so far; from the latest generation of an orphan the next ones are counted on.
const MAX_GENERATION: Generation = 1 << 31;

/// How long all orphans together may take to answer, and a killed one to be gone. A live worker
/// answers at once. The start of the supervisor waits for it, so a longer time delays the start
/// when one worker hangs; with a shorter one a worker on a busy machine is not re-attached and
/// keeps its listeners.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// All that are not gone yet, by the process id in the name of their socket.
#[derive(Default)]
pub(crate) struct Orphans {
    known: SortedMap<i32, Orphan>,
}

struct Orphan {
    generation: Generation,
    exclusive: bool,
    /// Until it was told to drain.
    listeners: Vec<(String, Address)>,
    path: PathBuf,
    link: OwnedFd,
    process: OwnedFd,
    counters: Counters,
    counters_fd: OwnedFd,
    told: Option<DrainOrder>,
}

/// An orphan was told to drain.
#[derive(Debug, Clone, Copy, ToJson, FromJson)]
struct DrainOrder {
    #[json(with = crate::sys::clock::instant)]
    since: Instant,
    /// Until it is killed.
    #[json(with = crate::sys::clock::instant)]
    kill_at: Instant,
}

/// What an orphan leaves.
pub(crate) struct ExitedOrphan {
    pub(crate) pid: i32,
    /// Of its socket.
    pub(crate) path: PathBuf,
    pub(crate) generation: Generation,
    pub(crate) ledger: Ledger,
    /// How long it drained.
    pub(crate) took: Option<Duration>,
}

/// A listener that an orphan has, by its name.
pub(crate) type InheritedListener = (String, Arc<Bound>);

/// What an orphan said.
struct OrphanHello {
    orphan: Orphan,
    inherited: Vec<InheritedListener>,
}

impl Orphans {
    /// Finds those of the daemon with this pidfile, which the caller holds. The latest generation's
    /// listeners come first.
    pub(crate) fn find(
        runtime_dir: &Path,
        pidfile: &Path,
        say: &DaemonLog,
    ) -> (Orphans, Vec<InheritedListener>) {
        let mut called = SortedMap::new();
        let sockets = protocol::all(runtime_dir, pidfile).unwrap_or_else(|error| {
            let dir = runtime_dir.display();
            say.warn(&format!("cannot look for orphans in {dir}: {error}"));
            Vec::new()
        });
        for (pid, path) in sockets {
            match protocol::connect(&path) {
                Ok(link) => _ = called.insert(pid, (path, link)),
                Err(error) if is_dead(&error) => remove(&path),
                Err(error) => say.warn(&unreachable(pid, &path, &error.to_string())),
            }
        }
        let mut found = receive_hellos(called, say);
        sort_few(&mut found, |(pid, it), (other_pid, other)| {
            (other.orphan.generation, *pid) < (it.orphan.generation, *other_pid)
        });
        let (mut orphans, mut inherited) = (Orphans::default(), Vec::new());
        for (pid, OrphanHello { orphan, inherited: its }) in found {
            say.line(&format!(
                "re-attached to the orphan of generation {}, process {pid}; it serves until this \
                 supervisor's first worker does",
                orphan.generation
            ));
            inherited.extend(its);
            orphans.known.insert(pid, orphan);
        }
        (orphans, inherited)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// Whether there are some, and all of them drain.
    pub(crate) fn are_draining(&self) -> bool {
        !self.is_empty() && self.known.values().all(|orphan| orphan.told.is_some())
    }

    /// Whether one of them has to be gone before another worker begins.
    pub(crate) fn are_exclusive(&self) -> bool {
        self.known.values().any(|orphan| orphan.exclusive)
    }

    pub(crate) fn last_generation(&self) -> Generation {
        self.known.values().map(|orphan| orphan.generation).max().unwrap_or_default()
    }

    /// Gives each a channel for what is idle, to somebody who takes it. One that does not take its end has
    /// none, and what it has stays where it is.
    pub(crate) fn redirect(&self, channel: impl Fn() -> Option<OwnedFd>) {
        for orphan in self.known.values() {
            let Some(channel) = channel() else { return };
            let _ = link::send(&orphan.link, &ToWorker::Successor {}, &[channel.as_fd()]);
        }
    }

    /// Gives each the log that was opened again.
    pub(crate) fn reopen(&self, log: BorrowedFd<'_>) {
        for orphan in self.known.values() {
            // One that cannot be told is gone.
            let _ = link::send(&orphan.link, &ToWorker::Reopen {}, &[log]);
        }
    }

    /// Tells each to drain; what it then may take beyond `deadline` is `kill_timeout`. What it has at the
    /// addresses in `gone` it finishes.
    pub(crate) fn drain(
        &mut self,
        deadline: Instant,
        kill_timeout: Duration,
        last: bool,
        gone: &[Address],
        say: &DaemonLog,
    ) {
        let since = Instant::now();
        for (pid, orphan) in &mut self.known {
            let first = orphan.told.is_none();
            let names = orphan.listeners.iter().filter(|(_, addr)| gone.contains(addr));
            let order = ToWorker::Drain {
                deadline: clock::to_monotonic_ns(deadline),
                last,
                finish: names.map(|(name, _)| name.clone()).collect(),
                finish_at: gone.to_vec(),
            };
            if link::send(&orphan.link, &order, &[]).is_err() {
                // It is gone, or drains by itself.
                orphan.signal(*pid, rustix::process::Signal::TERM, say);
            }
            let kill_at = deadline + kill_timeout;
            let earlier = orphan.told.map_or(kill_at, |told| told.kill_at);
            let since = orphan.told.map_or(since, |told| told.since);
            orphan.told = Some(DrainOrder { since, kill_at: kill_at.min(earlier) });
            if first {
                let generation = orphan.generation;
                say.line(&format!("draining the orphan of generation {generation}, process {pid}"));
            }
        }
    }

    /// Each as the descriptor that is readable once it has ended.
    pub(crate) fn processes(&self) -> impl Iterator<Item = (i32, BorrowedFd<'_>)> {
        self.known.iter().map(|(pid, orphan)| (*pid, orphan.process.as_fd()))
    }

    /// Puts one away that has ended. Its path is the caller's to remove.
    pub(crate) fn remove(&mut self, pid: i32) -> Option<ExitedOrphan> {
        let orphan = self.known.remove(&pid)?;
        Some(ExitedOrphan {
            pid,
            path: orphan.path,
            generation: orphan.generation,
            ledger: orphan.counters.final_ledger(),
            took: orphan.told.map(|told| told.since.elapsed()),
        })
    }

    /// When [`Orphans::enforce`] is due.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.known.values().filter_map(|orphan| Some(orphan.told?.kill_at)).min()
    }

    /// Kills those that are still there though they should not be.
    pub(crate) fn enforce(&mut self, now: Instant, say: &DaemonLog) {
        for (pid, orphan) in &mut self.known {
            if let Some(told) = orphan.told.as_mut().filter(|told| told.kill_at <= now) {
                say.warn(&format!("killing orphan process {pid}, which did not exit in time"));
                told.kill_at = now + ANSWER_TIMEOUT;
                orphan.signal(*pid, rustix::process::Signal::KILL, say);
            }
        }
    }
}

impl Orphan {
    fn signal(&self, pid: i32, signal: rustix::process::Signal, say: &DaemonLog) {
        match rustix::process::pidfd_send_signal(&self.process, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(error) => say.warn(&format!("cannot signal process {pid}: {error}")),
        }
    }
}

/// Waits for what they say.
fn receive_hellos(
    mut called: SortedMap<i32, (PathBuf, OwnedFd)>,
    say: &DaemonLog,
) -> Vec<(i32, OrphanHello)> {
    let deadline = Instant::now() + ANSWER_TIMEOUT;
    let mut found = Vec::new();
    while !called.is_empty() && Instant::now() < deadline {
        let links: Vec<_> = called.iter().map(|(pid, (_, link))| (*pid, link.as_fd())).collect();
        let ready = match readable(&links, Some(deadline)) {
            Ok(ready) => ready,
            Err(error) => {
                say.warn(&format!("cannot wait for orphans: {error}"));
                break;
            }
        };
        for pid in ready {
            let Some((path, link)) = called.remove(&pid) else { continue };
            match link::receive::<FromWorker>(&link) {
                Ok(Some((message, fds))) => match receive_hello(pid, &path, link, message, fds) {
                    Ok(it) => found.push((pid, it)),
                    Err(error) => say.warn(&unreachable(pid, &path, &error.to_string())),
                },
                // It has ended, or drains.
                Ok(None) => remove(&path),
                Err(error) if is_dead(&error) => remove(&path),
                Err(error) => say.warn(&unreachable(pid, &path, &error.to_string())),
            }
        }
    }
    for (pid, (path, _)) in called {
        say.warn(&unreachable(pid, &path, "it does not answer"));
    }
    found
}

fn receive_hello(
    pid: i32,
    path: &Path,
    link: OwnedFd,
    message: FromWorker,
    fds: Vec<OwnedFd>,
) -> Result<OrphanHello> {
    let odd = |what: String| Error::new(ErrorKind::Protocol, what);
    let FromWorker::Orphan { protocol, release, generation, exclusive, listeners } = message else {
        return Err(odd("its first message is not the one of an orphan".into()));
    };
    if !Protocols::OURS.overlaps(protocol) {
        return Err(odd(format!("it uses the protocol of release {release}")));
    }
    if generation > MAX_GENERATION {
        return Err(odd(format!("it reports generation {generation}, which is impossible")));
    }
    let mut fds = fds.into_iter();
    let (Some(counters_fd), Some(process), true) =
        (fds.next(), fds.next(), fds.len() == listeners.len())
    else {
        return Err(odd("it sent a different number of descriptors than it announced".into()));
    };
    // It may be of a user who has fewer privileges than this process, which will signal what it was handed
    // as a process, and bind, unlink and give away what it was handed as a listener.
    if process::pid_of_pidfd(&process) != Some(pid) {
        return Err(odd(format!("the process that it sent is not {pid}")));
    }
    let counters = Counters::open(&counters_fd)
        .map_err(|error| Error::io("cannot map its counters", error))?;
    let fds: Vec<OwnedFd> = fds.collect();
    for (OrphanedListener { name, addr, settings, .. }, fd) in listeners.iter().zip(&fds) {
        if !listener::is(fd, addr, settings) {
            return Err(odd(format!("the socket that it sent as listener `{name}` is not {addr}")));
        }
    }
    let adopt = |(listener, fd): (OrphanedListener, OwnedFd)| {
        let OrphanedListener { name, addr, settings, source } = listener;
        (name, Arc::new(Bound::adopt(settings, fd, addr, source)))
    };
    let inherited: Vec<InheritedListener> = listeners.into_iter().zip(fds).map(adopt).collect();
    let orphan = Orphan {
        generation,
        exclusive,
        listeners: inherited.iter().map(|(name, it)| (name.clone(), it.addr().clone())).collect(),
        path: path.to_owned(),
        link,
        process,
        counters,
        counters_fd,
        told: None,
    };
    Ok(OrphanHello { orphan, inherited })
}

/// Whether nobody is behind the socket any more.
fn is_dead(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionRefused, ConnectionReset, NotFound};
    matches!(error.kind(), BrokenPipe | ConnectionRefused | ConnectionReset | NotFound)
}

fn unreachable(pid: i32, path: &Path, why: &str) -> String {
    format!(
        "cannot re-attach to process {pid} of an earlier supervisor at {}: {why}; if it still \
         holds a listener, kill it",
        path.display()
    )
}

pub(crate) fn remove(path: &Path) {
    // What cannot be removed is found dead by the next start.
    let _ = std::fs::remove_file(path);
}

/// An orphan on its way to the supervisor's next image.
#[derive(Debug, ToJson, FromJson)]
pub(crate) struct OrphanState {
    pid: i32,
    generation: Generation,
    path: PathBuf,
    link: InheritedFd,
    process: InheritedFd,
    counters: InheritedFd,
    told: Option<DrainOrder>,
}

impl Orphans {
    pub(crate) fn pack(&self, packing: &mut FdTable) -> Vec<OrphanState> {
        let all = self.known.iter().map(|(pid, orphan)| OrphanState {
            pid: *pid,
            generation: orphan.generation,
            path: orphan.path.clone(),
            link: packing.add(&orphan.link),
            process: packing.add(&orphan.process),
            counters: packing.add(&orphan.counters_fd),
            told: orphan.told,
        });
        all.collect()
    }

    pub(crate) fn unpack(packed: Vec<OrphanState>) -> Result<Orphans> {
        let mut orphans = Orphans::default();
        for it in packed {
            let counters_fd = it.counters.duplicate("the counters of an orphan")?;
            let counters = Counters::open(&counters_fd)
                .map_err(|error| Error::io("cannot map the counters of an orphan", error))?;
            let orphan = Orphan {
                generation: it.generation,
                // That was decided when it was found.
                exclusive: false,
                listeners: Vec::new(),
                path: it.path,
                link: it.link.duplicate("the link of an orphan")?,
                process: it.process.duplicate("the process of an orphan")?,
                counters,
                counters_fd,
                told: it.told,
            };
            orphans.known.insert(it.pid, orphan);
        }
        Ok(orphans)
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use rustix::process::{Pid, PidfdFlags, getpid, getppid, pidfd_open};

    use super::*;
    use crate::config::ListenSettings;
    use crate::sys::seqpacket;

    /// What a worker says that has this process and listens there.
    fn says(process: Pid, socket: OwnedFd, addr: Address) -> Result<OrphanHello> {
        let pid = getpid().as_raw_nonzero().get();
        let (link, _theirs) = seqpacket::pair().unwrap();
        let (_counters, counters) = Counters::create().unwrap();
        let process = pidfd_open(process, PidfdFlags::empty()).unwrap();
        let settings = ListenSettings {
            addr: addr.clone(),
            further: Default::default(),
            backlog: 16,
            mode: Some(0o777),
            user: None,
            group: None,
            v6only: true,
            http: crate::config::HttpSettings::default(),
        };
        let message = FromWorker::Orphan {
            protocol: Protocols::OURS,
            release: String::new(),
            generation: 1,
            exclusive: false,
            listeners: vec![OrphanedListener {
                name: "http".into(),
                addr,
                settings,
                source: Default::default(),
            }],
        };
        receive_hello(pid, Path::new("/nowhere"), link, message, vec![counters, process, socket])
    }

    /// It may have fewer privileges than this process, and would use those of this one.
    #[test]
    fn what_is_not_its_own_is_not_taken() {
        let bound = || TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = |listener: &TcpListener| Address::Tcp(listener.local_addr().unwrap());
        let why = |said: Result<OrphanHello>| said.err().map(|error| error.to_string());

        let listener = bound();
        let there = addr(&listener);
        assert_eq!(why(says(getpid(), listener.into(), there)), None);

        let listener = bound();
        let there = addr(&listener);
        let said = why(says(getppid().unwrap(), listener.into(), there)).unwrap();
        assert!(said.contains("the process that it sent is not"), "{said}");

        let not_it = |said: Result<OrphanHello>| {
            let said = why(said).unwrap();
            assert!(said.contains("the socket that it sent as listener `http` is not"), "{said}");
        };
        let (listener, other) = (bound(), bound());
        not_it(says(getpid(), listener.into(), addr(&other)));
        let file = std::fs::File::open("/dev/null").unwrap();
        not_it(says(getpid(), file.into(), addr(&other)));
        // It would be unlinked at the end, and given away where the settings say so.
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sock");
        let socket = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let cloned = socket.try_clone().unwrap();
        not_it(says(getpid(), cloned.into(), Address::Unix("/etc/passwd".into())));
        let cloned = socket.try_clone().unwrap();
        assert_eq!(why(says(getpid(), cloned.into(), Address::Unix(path.clone()))), None);
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "precious").unwrap();
        not_it(says(getpid(), socket.into(), Address::Unix(path)));
    }
}
