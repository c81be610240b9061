//! `setgroups(2)`, `setresgid(2)`, `setresuid(2)`, `chroot(2)`: what a process is, and stops being.
//!
//! Of the calling process, which has one thread: the kernel changes threads one by one.

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
    /// The supplementary ones, sorted.
    pub(crate) groups: Vec<u32>,
}

impl Account {
    /// Of this process.
    pub(crate) fn own() -> io::Result<Account> {
        let groups = unistd::getgroups()?.into_iter().map(Gid::as_raw);
        Ok(Account {
            uid: unistd::geteuid().as_raw(),
            gid: unistd::getegid().as_raw(),
            groups: sorted(groups),
        })
    }

    /// Whether the real, effective and saved ids of this process are these, and its groups.
    pub(crate) fn is_own(&self) -> io::Result<bool> {
        let (uid, gid) = (unistd::getresuid()?, unistd::getresgid()?);
        let uids = [uid.real, uid.effective, uid.saved].map(Uid::as_raw);
        let gids = [gid.real, gid.effective, gid.saved].map(Gid::as_raw);
        let groups = sorted(unistd::getgroups()?.into_iter().map(Gid::as_raw));
        Ok(uids == [self.uid; 3] && gids == [self.gid; 3] && groups == self.groups)
    }
}

/// Sorted, and each once.
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

/// Looks a user up by name, or by number. May ask whatever nsswitch.conf(5) names.
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

/// Looks a group up by name.
pub(crate) fn group(name: &str) -> io::Result<Option<u32>> {
    Ok(unistd::Group::from_name(name)?.map(|it| it.gid.as_raw()))
}

/// The groups that the group database has a user in, with `gid`.
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

/// Whether this process can become root. If it can, it is root afterwards.
pub(crate) fn can_regain_root() -> bool {
    unistd::setuid(Uid::from_raw(0)).is_ok() || unistd::seteuid(Uid::from_raw(0)).is_ok()
}

/// Makes `path` the root directory, and enters it.
pub(crate) fn change_root(path: &Path) -> io::Result<()> {
    unistd::chroot(path)?;
    std::env::set_current_dir("/")
}

/// Nothing that is executed from now on gains privileges.
pub(crate) fn set_no_new_privs() -> io::Result<()> {
    Ok(rustix::thread::set_no_new_privs(true)?)
}

/// Whether that is so.
pub(crate) fn has_no_new_privs() -> io::Result<bool> {
    Ok(rustix::thread::no_new_privs()?)
}

/// Whoever changed its user leaves no core and cannot be traced by its new user, unless this is said.
pub(crate) fn set_dumpable() -> io::Result<()> {
    Ok(rustix::process::set_dumpable_behavior(DumpableBehavior::Dumpable)?)
}
