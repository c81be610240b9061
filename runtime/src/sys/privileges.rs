//! `setgroups(2)`, `setresgid(2)`, `setresuid(2)`, `chroot(2)`: the user, groups and root directory of this
//! process.
//!
//! For a process with one thread: the kernel changes the calling thread only.

use std::ffi::CString;
use std::io;
use std::path::{Path, PathBuf};

use crate::json::{FromJson, ToJson};
use nix::unistd::{self, Gid, Uid};
use rustix::process::DumpableBehavior;

/// The user and the groups of a process.
#[derive(Debug, Clone, PartialEq, Eq, ToJson, FromJson)]
pub(crate) struct Account {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// The supplementary groups, sorted.
    pub(crate) groups: Vec<u32>,
}

impl Account {
    /// The effective user, effective group and supplementary groups of this process.
    pub(crate) fn own() -> io::Result<Account> {
        let groups = unistd::getgroups()?.into_iter().map(Gid::as_raw);
        Ok(Account {
            uid: unistd::geteuid().as_raw(),
            gid: unistd::getegid().as_raw(),
            groups: sorted(groups),
        })
    }

    /// Returns whether this process has these supplementary groups, and these ids as its real, effective and
    /// saved ones.
    pub(crate) fn is_own(&self) -> io::Result<bool> {
        let (uid, gid) = (unistd::getresuid()?, unistd::getresgid()?);
        let uids = [uid.real, uid.effective, uid.saved].map(Uid::as_raw);
        let gids = [gid.real, gid.effective, gid.saved].map(Gid::as_raw);
        let groups = sorted(unistd::getgroups()?.into_iter().map(Gid::as_raw));
        Ok(uids == [self.uid; 3] && gids == [self.gid; 3] && groups == self.groups)
    }
}

/// Sorts groups and removes duplicates.
pub(crate) fn sorted(groups: impl IntoIterator<Item = u32>) -> Vec<u32> {
    let mut groups: Vec<u32> = groups.into_iter().collect();
    groups.sort_unstable();
    groups.dedup();
    groups
}

/// An entry in the user database.
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) name: String,
    pub(crate) home: PathBuf,
    pub(crate) shell: PathBuf,
}

/// Looks up a user by name or number. May ask a server, as configured in nsswitch.conf(5).
pub(crate) fn user(text: &str) -> io::Result<Option<User>> {
    let found = match text.parse() {
        Ok(number) => unistd::User::from_uid(Uid::from_raw(number))?,
        Err(_) => unistd::User::from_name(text)?,
    };
    Ok(found.map(|it| User {
        uid: it.uid.as_raw(),
        gid: it.gid.as_raw(),
        name: it.name,
        home: it.dir,
        shell: it.shell,
    }))
}

/// Looks up a group by name.
pub(crate) fn group(name: &str) -> io::Result<Option<u32>> {
    Ok(unistd::Group::from_name(name)?.map(|it| it.gid.as_raw()))
}

/// The groups that a user is a member of according to the group database, and `gid`.
pub(crate) fn groups_of(name: &str, gid: u32) -> io::Result<Vec<u32>> {
    let groups = unistd::getgrouplist(&CString::new(name)?, Gid::from_raw(gid))?;
    Ok(sorted(groups.into_iter().map(Gid::as_raw)))
}

/// Replaces the supplementary groups.
pub(crate) fn set_groups(groups: &[u32]) -> io::Result<()> {
    let groups: Vec<Gid> = groups.iter().copied().map(Gid::from_raw).collect();
    Ok(unistd::setgroups(&groups)?)
}

/// Replaces the real, effective and saved group.
pub(crate) fn set_group(gid: u32) -> io::Result<()> {
    let gid = Gid::from_raw(gid);
    Ok(unistd::setresgid(gid, gid, gid)?)
}

/// Replaces the real, effective and saved user.
pub(crate) fn set_user(uid: u32) -> io::Result<()> {
    let uid = Uid::from_raw(uid);
    Ok(unistd::setresuid(uid, uid, uid)?)
}

/// Returns whether this process can become root. It tries: if the answer is true, the process is root
/// afterwards.
pub(crate) fn can_regain_root() -> bool {
    unistd::setuid(Uid::from_raw(0)).is_ok() || unistd::seteuid(Uid::from_raw(0)).is_ok()
}

/// Makes `path` the root directory, and enters it.
pub(crate) fn change_root(path: &Path) -> io::Result<()> {
    unistd::chroot(path)?;
    std::env::set_current_dir("/")
}

/// Prevents this process and all programs that it executes from gaining privileges (`PR_SET_NO_NEW_PRIVS`).
pub(crate) fn set_no_new_privs() -> io::Result<()> {
    Ok(rustix::thread::set_no_new_privs(true)?)
}

/// Returns whether `PR_SET_NO_NEW_PRIVS` is in force.
pub(crate) fn has_no_new_privs() -> io::Result<bool> {
    Ok(rustix::thread::no_new_privs()?)
}

/// Allows core dumps and tracing by the new user, which the kernel forbids after a change of user
/// (`PR_SET_DUMPABLE`).
pub(crate) fn set_dumpable() -> io::Result<()> {
    Ok(rustix::process::set_dumpable_behavior(DumpableBehavior::Dumpable)?)
}
