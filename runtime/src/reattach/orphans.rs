//! The supervisor's side of re-attaching: finds orphans at the start, and drains them when its own first
//! generation serves.
//!
//! Orphans are not children of this process. Each has sent a pidfd of itself, by which it is watched and
//! killed, and gets commands over its own link.

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

/// The highest generation that an orphan may report. New generations are numbered after it: with a number
/// near the end of the range they would overflow, and no daemon gets this far by itself.
const MAX_GENERATION: Generation = 1 << 31;

/// How long all orphans together may take to answer. A live worker answers at once. The start of the
/// supervisor waits for it, so a longer time delays the start when one worker hangs; with a shorter one a
/// worker on a busy machine is not re-attached and keeps its listeners.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// All orphans that have not ended, by the process ids in the names of their sockets.
#[derive(Default)]
pub(crate) struct Orphans {
    known: SortedMap<i32, Orphan>,
}

/// An orphan that this supervisor has taken over.
struct Orphan {
    generation: Generation,
    /// Whether it must end before another worker begins.
    exclusive: bool,
    /// The listeners that it has; empty after an upgrade of this supervisor.
    listeners: Vec<(String, Address)>,
    /// The path of its socket.
    path: PathBuf,
    link: OwnedFd,
    /// Its pidfd.
    process: OwnedFd,
    counters: Counters,
    counters_fd: OwnedFd,
    /// When its *drain* was sent.
    drains: Option<Instant>,
}

/// An orphan that has ended.
pub(crate) struct ExitedOrphan {
    pub(crate) pid: i32,
    /// The path of its socket.
    pub(crate) path: PathBuf,
    pub(crate) generation: Generation,
    pub(crate) ledger: Ledger,
    /// The time since its *drain*; `None` if it ended before.
    pub(crate) took: Option<Duration>,
}

/// A listener that an orphan handed over, with its name.
pub(crate) type InheritedListener = (String, Arc<Bound>);

/// The first message of an orphan, checked.
struct OrphanHello {
    orphan: Orphan,
    inherited: Vec<InheritedListener>,
}

impl Orphans {
    /// Finds the orphans of the daemon with this pidfile, whose lock the caller holds, and connects to
    /// them. The returned listeners begin with those of the latest generation.
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

    /// Returns whether an orphan must end before another worker begins.
    pub(crate) fn are_exclusive(&self) -> bool {
        self.known.values().any(|orphan| orphan.exclusive)
    }

    /// Returns the latest generation of an orphan; 0 if there are none.
    pub(crate) fn last_generation(&self) -> Generation {
        self.known.values().map(|orphan| orphan.generation).max().unwrap_or_default()
    }

    /// Gives each orphan a channel over which it hands off its connections. If an orphan does not take its
    /// end, its connections stay where they are.
    pub(crate) fn redirect(&self, channel: impl Fn() -> Option<OwnedFd>) {
        for orphan in self.known.values() {
            let Some(channel) = channel() else { return };
            let _ = link::send(&orphan.link, &ToWorker::Successor {}, &[channel.as_fd()]);
        }
    }

    /// Hands the log that was opened again to each orphan.
    pub(crate) fn reopen(&self, log: BorrowedFd<'_>) {
        for orphan in self.known.values() {
            // An orphan to which nothing can be sent has ended.
            let _ = link::send(&orphan.link, &ToWorker::Reopen {}, &[log]);
        }
    }

    /// Has each orphan drain until `deadline`. At the addresses in `gone` an orphan has the last copies of listeners, and must accept what is queued.
    pub(crate) fn drain(
        &mut self,
        deadline: Instant,
        last: bool,
        gone: &[Address],
        say: &DaemonLog,
    ) {
        for (pid, orphan) in &mut self.known {
            let names = orphan.listeners.iter().filter(|(_, addr)| gone.contains(addr));
            let order = ToWorker::Drain {
                deadline: clock::to_monotonic_ns(deadline),
                last,
                finish: names.map(|(name, _)| name.clone()).collect(),
                finish_at: gone.to_vec(),
            };
            if link::send(&orphan.link, &order, &[]).is_err() {
                // The orphan has ended, or drains on its own and reads no more commands.
                orphan.signal(*pid, rustix::process::Signal::TERM, say);
            }
            if orphan.drains.is_none() {
                orphan.drains = Some(Instant::now());
                let generation = orphan.generation;
                say.line(&format!("draining the orphan of generation {generation}, process {pid}"));
            }
        }
    }

    /// Returns the pidfds of all orphans, which become readable at their ends.
    pub(crate) fn processes(&self) -> impl Iterator<Item = (i32, BorrowedFd<'_>)> {
        self.known.iter().map(|(pid, orphan)| (*pid, orphan.process.as_fd()))
    }

    /// Removes an orphan that has ended. Its socket is left for the caller to remove.
    pub(crate) fn remove(&mut self, pid: i32) -> Option<ExitedOrphan> {
        let orphan = self.known.remove(&pid)?;
        Some(ExitedOrphan {
            pid,
            path: orphan.path,
            generation: orphan.generation,
            ledger: orphan.counters.final_ledger(),
            took: orphan.drains.map(|since| since.elapsed()),
        })
    }

    /// Kills the orphans, whose time is over.
    pub(crate) fn kill(&self, say: &DaemonLog) {
        for (pid, orphan) in &self.known {
            say.warn(&format!("killing orphan process {pid}, which did not exit in time"));
            orphan.signal(*pid, rustix::process::Signal::KILL, say);
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

/// Waits for the first messages of the orphans; returns those that can be taken over.
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
                // The orphan has ended, or drains.
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

/// Checks the first message of an orphan and the descriptors that came with it.
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
    // The orphan may run as a user with fewer privileges than this process, which will send signals to the
    // process that it was handed, and unlink and change the owner of the listeners that it was handed. So
    // both must be what the orphan claims.
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
        drains: None,
    };
    Ok(OrphanHello { orphan, inherited })
}

/// Returns whether an error means that the process behind a socket has ended.
fn is_dead(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionRefused, ConnectionReset, NotFound};
    matches!(error.kind(), BrokenPipe | ConnectionRefused | ConnectionReset | NotFound)
}

/// Returns the warning about an orphan that cannot be taken over.
fn unreachable(pid: i32, path: &Path, why: &str) -> String {
    format!(
        "cannot re-attach to process {pid} of an earlier supervisor at {}: {why}; if it still \
         holds a listener, kill it",
        path.display()
    )
}

/// Removes the socket of an orphan that has ended.
pub(crate) fn remove(path: &Path) {
    // A socket that cannot be removed is recognized as dead at the next start.
    let _ = std::fs::remove_file(path);
}

/// An orphan in the state that a supervisor hands to its next image.
#[derive(Debug, ToJson, FromJson)]
pub(crate) struct OrphanState {
    pid: i32,
    generation: Generation,
    path: PathBuf,
    link: InheritedFd,
    process: InheritedFd,
    counters: InheritedFd,
    #[json(default, with = crate::sys::clock::optional_instant)]
    drains: Option<Instant>,
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
            drains: orphan.drains,
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
                // What this decides was decided at the start.
                exclusive: false,
                listeners: Vec::new(),
                path: it.path,
                link: it.link.duplicate("the link of an orphan")?,
                process: it.process.duplicate("the process of an orphan")?,
                counters,
                counters_fd,
                drains: it.drains,
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

    /// Checks the message of an orphan that hands over this process, and this socket as a listener at `addr`.
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

    /// An orphan may have fewer privileges than the supervisor, and must not gain them through it.
    #[test]
    fn orphan_with_foreign_descriptors_is_rejected() {
        let bound = || TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = |listener: &TcpListener| Address::Tcp(listener.local_addr().unwrap());
        let why = |hello: Result<OrphanHello>| hello.err().map(|error| error.to_string());

        let listener = bound();
        let there = addr(&listener);
        assert_eq!(why(says(getpid(), listener.into(), there)), None);

        let listener = bound();
        let there = addr(&listener);
        let message = why(says(getppid().unwrap(), listener.into(), there)).unwrap();
        assert!(message.contains("the process that it sent is not"), "{message}");

        let not_it = |hello: Result<OrphanHello>| {
            let message = why(hello).unwrap();
            assert!(
                message.contains("the socket that it sent as listener `http` is not"),
                "{message}"
            );
        };
        let (listener, other) = (bound(), bound());
        not_it(says(getpid(), listener.into(), addr(&other)));
        let file = std::fs::File::open("/dev/null").unwrap();
        not_it(says(getpid(), file.into(), addr(&other)));
        // The supervisor would unlink this path at the end, and change its owner if the settings say so.
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
