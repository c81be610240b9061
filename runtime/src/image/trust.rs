//! Checks which users could change an image: a supervisor that is root must not run code that users without
//! its privileges could have written.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::refused;
use crate::error::Result;
use crate::sys::privileges::Account;

// Permission bits (inode(7)).
const OTHERS_WRITE: u32 = 0o002;
const GROUP_WRITES: u32 = 0o020;
const STICKY: u32 = 0o1000;

const ROOT: u32 = 0;

/// The name for the user of a worker in messages.
const USER: &str = "the user of its worker";

/// Refuses an image that all users, or the user of one of the `workers`, could write or replace, and so have
/// the supervisor run their code. Both the directory of the image and the directory of a link to it are
/// checked.
///
/// Workers that are root gain nothing by it and are not considered. The owner of the file is not restricted
/// otherwise: in a container, a developer's program often belongs to another user.
pub(super) fn check(path: &Path, image: &Metadata, workers: &[Account]) -> Result<()> {
    if let Some((who, remedy)) = writer(image, workers) {
        let text = path.display();
        return Err(refused(path, &format!("is writable by {who}; run `{remedy} {text}`")));
    }
    let replaced = |dir: &Path, who, remedy| {
        let text = dir.display();
        Err(refused(path, &format!("can be replaced by {who}; run `{remedy} {text}`")))
    };
    // The owner of a link may replace it even in a sticky directory.
    if let Ok(link) = std::fs::symlink_metadata(path)
        && workers.iter().any(|worker| owns(&link, worker))
    {
        return replaced(path, USER, "chown -h root");
    }
    let directory = |path: &Path| path.parent().map(Path::to_owned);
    // A path that cannot be resolved no longer leads to the image; the open file was examined above.
    let real = std::fs::canonicalize(path).ok().as_deref().and_then(directory);
    for dir in [directory(path), real].into_iter().flatten() {
        let dir = if dir.as_os_str().is_empty() { PathBuf::from(".") } else { dir };
        let Ok(meta) = std::fs::metadata(&dir) else { continue };
        if let Some((who, remedy)) = writer(&meta, workers) {
            return replaced(&dir, who, remedy);
        }
    }
    Ok(())
}

/// Returns which users without privileges may write a file, or replace files in a directory, and the command
/// that would prevent it.
fn writer(meta: &Metadata, workers: &[Account]) -> Option<(&'static str, &'static str)> {
    if workers.iter().any(|worker| owns(meta, worker)) {
        return Some((USER, "chown root"));
    }
    // In a sticky directory users may only replace their own files.
    if meta.is_dir() && meta.mode() & STICKY != 0 {
        return None;
    }
    let of_group = |worker: &Account| {
        worker.uid != ROOT && (worker.gid == meta.gid() || worker.groups.contains(&meta.gid()))
    };
    if meta.mode() & GROUP_WRITES != 0 && workers.iter().any(of_group) {
        return Some(("a group of its worker", "chmod g-w"));
    }
    (meta.mode() & OTHERS_WRITE != 0).then_some(("everybody", "chmod o-w"))
}

fn owns(meta: &Metadata, worker: &Account) -> bool {
    worker.uid != ROOT && meta.uid() == worker.uid
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn says(path: &Path, uid: u32) -> Option<String> {
        says_of(path, Account { uid, gid: 4_000_000, groups: vec![] })
    }

    fn says_of(path: &Path, worker: Account) -> Option<String> {
        let meta = fs::metadata(path).unwrap();
        check(path, &meta, &[worker]).err().map(|error| error.to_string())
    }

    fn mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn world_writable_image_is_refused() {
        let bed = tempfile::tempdir().unwrap();
        let (releases, links) = (bed.path().join("releases"), bed.path().join("links"));
        let (program, current) = (releases.join("1"), links.join("current"));
        for dir in [&releases, &links] {
            fs::create_dir(dir).unwrap();
            mode(dir, 0o755);
        }
        fs::write(&program, "").unwrap();
        mode(&program, 0o755);
        symlink(&program, &current).unwrap();
        assert_eq!(says(&current, ROOT), None);

        mode(&program, 0o757);
        assert_eq!(
            says(&program, ROOT).unwrap(),
            format!(
                "the image {0} is writable by everybody; run `chmod o-w {0}`",
                program.display()
            )
        );
        mode(&program, 0o775);
        for dir in [&releases, &links] {
            mode(dir, 0o777);
            let message = says(&current, ROOT).unwrap();
            let advice = format!("can be replaced by everybody; run `chmod o-w {}`", dir.display());
            assert!(message.ends_with(&advice), "{message}");
            mode(dir, 0o1777);
            assert_eq!(says(&current, ROOT), None);
            mode(dir, 0o755);
        }
    }

    /// The owner of a file counts whatever its mode, which the owner may change; a root worker never counts.
    #[test]
    fn image_writable_by_worker_user_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("program");
        fs::write(&program, "").unwrap();
        mode(&program, 0o555);
        let owner = fs::metadata(&program).unwrap().uid();
        let stranger = owner + 1;
        assert_eq!(says(&program, stranger), None);
        if owner == ROOT {
            std::os::unix::fs::chown(&program, Some(stranger), None).unwrap();
            assert_eq!(says(&program, ROOT), None);
            let message = says(&program, stranger).unwrap();
            assert!(
                message.contains("writable by the user of its worker; run `chown root"),
                "{message}"
            );
        } else {
            assert!(says(&program, owner).is_some());
        }
    }

    /// The primary and the supplementary groups of a worker count alike.
    #[test]
    fn image_writable_by_worker_group_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("program");
        fs::write(&program, "").unwrap();
        let meta = fs::metadata(&program).unwrap();
        let (uid, own) = (meta.uid() + 1, meta.gid());
        for (gid, groups, counts) in
            [(own, vec![], true), (own + 1, vec![own], true), (own + 1, vec![own + 2], false)]
        {
            let worker = Account { uid, gid, groups };
            mode(&program, 0o755);
            assert_eq!(says_of(&program, worker.clone()), None);
            mode(&program, 0o775);
            let message = says_of(&program, worker);
            assert_eq!(
                message.is_some_and(|it| it.contains("by a group of its worker; run `chmod g-w")),
                counts
            );
        }
    }

    #[test]
    fn link_owned_by_worker_user_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (program, link) = (dir.path().join("program"), dir.path().join("current"));
        fs::write(&program, "").unwrap();
        symlink(&program, &link).unwrap();
        let owner = fs::metadata(&program).unwrap().uid();
        if owner == ROOT {
            std::os::unix::fs::lchown(&link, Some(77), None).unwrap();
            assert!(says(&link, 77).unwrap().contains("replaced by the user of its worker"));
            assert_eq!(says(&link, 78), None);
        }
    }
}
