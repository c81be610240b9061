//! The claim on a runtime directory: an abstract unix socket (unix(7)). It has no file that could be removed,
//! and ends with its process.
//!
//! The lock of the pidfile keeps a second daemon away as long as the file is there; the claim does so also
//! while the file or its directory is missing. The socket's name is made of the file system and inode of the
//! directory that the runtime directory is in, the name of the runtime directory and the stem of the pidfile.
//! It is the same for every path that leads there, and differs in a container with files of its own, even if
//! that shares the host's network. A process in another network namespace, or on another host with the same
//! NFS, does not see the claim: only the pidfile protects there.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::inherited_fd::{FdTable, InheritedFd};
use crate::sys::peer;

/// The queue of processes that ask for the holder of the claim. One that finds it full
/// learns that the daemon runs, without its process id.
const BACKLOG: i32 = 64;

/// How often a name is tried whose holder does not answer, with [`CLAIM_DELAY`] in between: 200 ms
/// in all, more than a process that is exiting takes to release it.
const CLAIM_ATTEMPTS: u32 = 20;
/// The time between two such attempts.
const CLAIM_DELAY: Duration = Duration::from_millis(10);

/// This daemon's claim on its runtime directory.
#[derive(Debug)]
pub(crate) struct Claim {
    socket: OwnedFd,
}

/// The outcome of an attempt to claim a directory.
#[derive(Debug)]
pub(crate) enum Claimed {
    /// The directory is claimed by this process from now on.
    Ours(Claim),
    /// Another daemon holds the claim; its process id, if the kernel shows it.
    Running(Option<i32>),
    /// A process of this user, neither ours nor root, occupies the name, which any user of the host can do.
    Stranger(u32),
}

impl Claim {
    /// Claims the directory, which has to exist, for the daemon of this pidfile.
    pub(crate) fn take(runtime_dir: &Path, pidfile: &Path) -> io::Result<Claimed> {
        let addr = SocketAddrUnix::new_abstract_name(name(runtime_dir, pidfile)?.as_bytes())?;
        for _ in 0..CLAIM_ATTEMPTS {
            let socket = socket()?;
            match rustix::net::bind(&socket, &addr) {
                Ok(()) => {
                    rustix::net::listen(&socket, BACKLOG)?;
                    return Ok(Claimed::Ours(Claim { socket }));
                }
                Err(Errno::ADDRINUSE) => {}
                Err(error) => return Err(error.into()),
            }
            if let Some(claimed) = holder_at(&addr)? {
                return Ok(claimed);
            }
            std::thread::sleep(CLAIM_DELAY);
        }
        Ok(Claimed::Running(None))
    }

    /// Accepts and closes the connections of processes that asked who holds the claim. The kernel gave them
    /// the process id already.
    pub(crate) fn answer(&self) {
        while rustix::net::accept_with(&self.socket, SocketFlags::CLOEXEC).is_ok() {}
    }

    pub(crate) fn pack(&self, packing: &mut FdTable) -> InheritedFd {
        packing.add(&self.socket)
    }

    /// Takes over the claim that this process has held since before its last exec.
    pub(crate) fn adopt(socket: OwnedFd) -> Claim {
        Claim { socket }
    }
}

impl AsFd for Claim {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Returns the process id of the daemon that has claimed the directory, if any.
pub(crate) fn holder(runtime_dir: &Path, pidfile: &Path) -> Option<i32> {
    let name = name(runtime_dir, pidfile).ok()?;
    let addr = SocketAddrUnix::new_abstract_name(name.as_bytes()).ok()?;
    match holder_at(&addr) {
        Ok(Some(Claimed::Running(pid))) => pid,
        _ => None,
    }
}

/// Returns the holder of the name, never [`Claimed::Ours`]; `None` if no process listens there.
fn holder_at(addr: &SocketAddrUnix) -> io::Result<Option<Claimed>> {
    let asking = socket()?;
    match rustix::net::connect(&asking, addr) {
        Ok(()) => {}
        Err(Errno::CONNREFUSED) => return Ok(None),
        // The queue is full: the daemon does not accept, because it is stopped or busy.
        Err(Errno::AGAIN) => return Ok(Some(Claimed::Running(None))),
        Err(error) => return Err(error.into()),
    }
    let peer = peer::credentials(&asking)?;
    let own = rustix::process::geteuid().as_raw();
    let known = [own, 0].contains(&peer.uid);
    Ok(Some(match known {
        true => Claimed::Running(Some(peer.pid).filter(|pid| *pid > 0)),
        false => Claimed::Stranger(peer.uid),
    }))
}

fn socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

/// The name of the socket. It is made of the inode of the parent directory, not of the runtime directory
/// itself, whose inode changes when it is removed and created again.
fn name(runtime_dir: &Path, pidfile: &Path) -> io::Result<String> {
    let real = std::fs::canonicalize(runtime_dir)?;
    let place = std::fs::metadata(real.parent().unwrap_or(&real))?;
    let called = [real.file_name(), pidfile.file_stem()];
    let called = called.into_iter().flatten().flat_map(|it| it.as_bytes().iter().chain(&[0]));
    // FNV-1a: short, and the same in every release, which the hashers of `std` do not promise.
    let hash = called.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    Ok(format!("unbroken/{:x}:{:x}/{hash:016x}", place.dev(), place.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags};

    #[test]
    fn claim_survives_recreated_directory() {
        let dir = tempfile::tempdir().unwrap();
        let (run, link) = (dir.path().join("run"), dir.path().join("link"));
        std::fs::create_dir(&run).unwrap();
        std::os::unix::fs::symlink("run", &link).unwrap();
        let pidfile = run.join("a.pid");
        assert_eq!(holder(&run, &pidfile), None);
        let Claimed::Ours(claim) = Claim::take(&run, &pidfile).unwrap() else { panic!("taken") };
        let own = i32::try_from(std::process::id()).unwrap();
        let taken = |run: &Path, pidfile: &Path| match Claim::take(run, pidfile).unwrap() {
            Claimed::Running(pid) => assert_eq!(pid, Some(own)),
            other => panic!("{other:?}"),
        };
        taken(&run, &pidfile);
        taken(&link, &link.join("a.pid"));
        std::fs::remove_dir(&run).unwrap();
        std::fs::create_dir(&run).unwrap();
        taken(&run, &pidfile);
        assert_eq!(holder(&run, &pidfile), Some(own));
        // Another daemon there, and one elsewhere.
        let Claimed::Ours(_b) = Claim::take(&run, &run.join("b.pid")).unwrap() else { panic!() };
        std::fs::create_dir_all(dir.path().join("sub/run")).unwrap();
        let elsewhere = dir.path().join("sub/run");
        let Claimed::Ours(_c) = Claim::take(&elsewhere, &pidfile).unwrap() else { panic!() };
        // Claims are refused also while the queue is full, because no connection is accepted.
        for _ in 0..2 * BACKLOG {
            assert!(matches!(Claim::take(&run, &pidfile).unwrap(), Claimed::Running(_)));
        }
        claim.answer();
        taken(&run, &pidfile);
        // A child that another test is just starting has a copy of the socket until its exec. This connection
        // ends with the last copy.
        let asking = socket().unwrap();
        let name = name(&run, &pidfile).unwrap();
        let addr = SocketAddrUnix::new_abstract_name(name.as_bytes()).unwrap();
        rustix::net::connect(&asking, &addr).unwrap();
        drop(claim);
        let mut polled = [PollFd::new(&asking, PollFlags::HUP)];
        assert_eq!(rustix::event::poll(&mut polled, None).unwrap(), 1);
        assert!(matches!(Claim::take(&run, &pidfile).unwrap(), Claimed::Ours(_)));
    }
}
