//! The claim on a runtime directory: an abstract unix socket (unix(7)), which is nowhere in the file system, so
//! that nobody can remove it, and which ends with its process.
//!
//! The lock of the pidfile says who runs as long as the file is there. The claim says it also while the file or
//! its directory is gone, so that no second daemon begins meanwhile. Its name is made of the file system and
//! the inode that the runtime directory lies in, and of what the daemon calls itself there: the same for every
//! path that leads there, and another one in a container with files of its own, even with the host's network.
//! Who is in another network namespace does not see it, and has the pidfile. So has another host of the same
//! NFS.

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

/// The queue of processes that ask for the holder of the claim. One that finds it full is told that
/// the daemon runs, without its process id.
const BACKLOG: i32 = 64;

/// How often a name is tried whose holder does not answer, with [`CLAIM_DELAY`] in between: 200 ms
/// in all, more than a process that is exiting takes to release it.
const CLAIM_ATTEMPTS: u32 = 20;
/// The time between two such attempts.
const CLAIM_DELAY: Duration = Duration::from_millis(10);

/// A runtime directory that is this daemon's.
#[derive(Debug)]
pub(crate) struct Claim {
    socket: OwnedFd,
}

/// Whose it is.
#[derive(Debug)]
pub(crate) enum Claimed {
    /// This daemon's from now on.
    Ours(Claim),
    /// Another daemon's, with its process id where that can be seen.
    Running(Option<i32>),
    /// Somebody who may not: another user has put itself in the way.
    Stranger(u32),
}

impl Claim {
    /// Claims the directory, which has to be there, for the daemon of this pidfile.
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

    /// Lets those go who asked.
    pub(crate) fn answer(&self) {
        while rustix::net::accept_with(&self.socket, SocketFlags::CLOEXEC).is_ok() {}
    }

    pub(crate) fn pack(&self, packing: &mut FdTable) -> InheritedFd {
        packing.add(&self.socket)
    }

    /// One that this process has since before its last exec.
    pub(crate) fn adopt(socket: OwnedFd) -> Claim {
        Claim { socket }
    }
}

impl AsFd for Claim {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The process of the daemon that has claimed the directory, if one has.
pub(crate) fn holder(runtime_dir: &Path, pidfile: &Path) -> Option<i32> {
    let name = name(runtime_dir, pidfile).ok()?;
    let addr = SocketAddrUnix::new_abstract_name(name.as_bytes()).ok()?;
    match holder_at(&addr) {
        Ok(Some(Claimed::Running(pid))) => pid,
        _ => None,
    }
}

/// Who listens there. `None`: nobody does.
fn holder_at(addr: &SocketAddrUnix) -> io::Result<Option<Claimed>> {
    let asking = socket()?;
    match rustix::net::connect(&asking, addr) {
        Ok(()) => {}
        Err(Errno::CONNREFUSED) => return Ok(None),
        // It is stopped, and many have asked.
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

/// Of the place of the directory rather than of the directory, which may be another one when it is back.
fn name(runtime_dir: &Path, pidfile: &Path) -> io::Result<String> {
    let real = std::fs::canonicalize(runtime_dir)?;
    let place = std::fs::metadata(real.parent().unwrap_or(&real))?;
    let called = [real.file_name(), pidfile.file_stem()];
    let called = called.into_iter().flatten().flat_map(|it| it.as_bytes().iter().chain(&[0]));
    // FNV-1a: it has to be the same in every release, and short.
    let hash = called.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    Ok(format!("unbroken/{:x}:{:x}/{hash:016x}", place.dev(), place.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_also_while_the_directory_is_another() {
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
        // Many ask, and nobody answers.
        for _ in 0..2 * BACKLOG {
            assert!(matches!(Claim::take(&run, &pidfile).unwrap(), Claimed::Running(_)));
        }
        claim.answer();
        taken(&run, &pidfile);
        drop(claim);
        assert!(matches!(Claim::take(&run, &pidfile).unwrap(), Claimed::Ours(_)));
    }
}
