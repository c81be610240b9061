//! Watches paths by inotify(7), and reports as soon as one of them may have gone or come back.
//!
//! Each directory on the way to a path is watched, since any of them may be moved or removed. Writes to the
//! files themselves cause no events.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;

/// Events of a directory on the way to a path. They are rare, whatever happens to the files in the directory.
const ITSELF: WatchFlags =
    WatchFlags::DELETE_SELF.union(WatchFlags::MOVE_SELF).union(WatchFlags::ONLYDIR);
/// Events of the directory of a file that exists.
const GOES: WatchFlags =
    WatchFlags::DELETE.union(WatchFlags::MOVED_FROM).union(WatchFlags::MOVED_TO);
/// Events of a directory in which the next part of a path is missing.
const COMES: WatchFlags = WatchFlags::CREATE.union(WatchFlags::MOVED_TO);

/// A watch on some paths.
pub(crate) struct PathWatch {
    inotify: OwnedFd,
    /// The names that matter in each watched directory, by watch descriptor.
    names: BTreeMap<i32, BTreeSet<OsString>>,
}

impl PathWatch {
    pub(crate) fn new() -> io::Result<PathWatch> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        Ok(PathWatch { inotify, names: BTreeMap::new() })
    }

    /// Watches these paths and no others. Has to be called again after each event, because which directories
    /// are watched depends on which parts of the paths exist.
    ///
    /// Fails if one of the paths cannot be watched; the others are.
    pub(crate) fn set<'a>(&mut self, paths: impl Iterator<Item = &'a Path>) -> io::Result<()> {
        let mut wanted = BTreeMap::new();
        paths.for_each(|path| want(path, &mut wanted));
        let mut names: BTreeMap<i32, BTreeSet<OsString>> = BTreeMap::new();
        let mut failed = Ok(());
        for (dir, Wanted { flags, names: its }) in wanted {
            match inotify::add_watch(&self.inotify, &dir, flags) {
                Ok(watch) => names.entry(watch).or_default().extend(its),
                // The directory above is watched, and reports when this one is created.
                Err(Errno::NOENT | Errno::NOTDIR) => {}
                // A directory that cannot be read. Either no file could be restored there, or the directory
                // is only on the way to one.
                Err(Errno::ACCESS) => {}
                Err(error) => failed = Err(error.into()),
            }
        }
        for old in self.names.keys().filter(|old| !names.contains_key(old)) {
            // Fails for a directory that was removed: the kernel has removed its watch.
            let _ = inotify::remove_watch(&self.inotify, *old);
        }
        self.names = names;
        failed
    }

    /// Reads the events; returns whether one of the paths may be concerned.
    pub(crate) fn hears(&mut self) -> io::Result<bool> {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = Reader::new(&self.inotify, &mut buffer);
        let mut concerned = false;
        loop {
            let event = match reader.next() {
                Ok(event) => event,
                Err(Errno::AGAIN | Errno::INTR) => return Ok(concerned),
                Err(error) => return Err(error.into()),
            };
            // Lost events may have concerned any path (their wd is -1).
            concerned |= event.events().contains(ReadFlags::QUEUE_OVERFLOW);
            let itself = !event.events().contains(ReadFlags::IGNORED);
            concerned |= match (self.names.get(&event.wd()), event.file_name()) {
                (Some(names), Some(name)) => names.contains(OsStr::from_bytes(name.to_bytes())),
                // An event of a watched directory itself, or of one that went before the last `set`, for
                // which there will be no other event. IGNORED only confirms that a watch is removed.
                (None, _) | (_, None) => itself,
            };
        }
    }
}

impl AsFd for PathWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

/// The events to watch for in a directory, and the names that matter.
struct Wanted {
    flags: WatchFlags,
    names: BTreeSet<OsString>,
}

/// Adds the directories of a path: each with the events of itself, the file's directory and the one where the
/// path breaks off also with those of their entries.
fn want(path: &Path, wanted: &mut BTreeMap<PathBuf, Wanted>) {
    let mut below = path;
    for dir in path.ancestors().skip(1).filter(|dir| !dir.as_os_str().is_empty()) {
        let missing = std::fs::symlink_metadata(below).is_err();
        let entry = || Wanted { flags: ITSELF, names: BTreeSet::new() };
        let it = wanted.entry(dir.to_owned()).or_insert_with(entry);
        if missing || below == path {
            it.flags |= if missing { GOES | COMES } else { GOES };
            it.names.extend(below.file_name().map(OsStr::to_owned));
        }
        below = dir;
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn watch(path: &Path) -> PathWatch {
        let mut watch = PathWatch::new().unwrap();
        watch.set([path].into_iter()).unwrap();
        assert!(!watch.hears().unwrap());
        watch
    }

    #[test]
    fn other_paths_are_ignored() {
        let dir = tempfile::tempdir().unwrap();
        let (ours, other) = (dir.path().join("ours"), dir.path().join("other"));
        fs::write(&ours, "").unwrap();
        let mut watch = watch(&ours);
        fs::write(&other, "").unwrap();
        fs::remove_file(&other).unwrap();
        fs::write(&ours, "x").unwrap();
        assert!(!watch.hears().unwrap());
        fs::remove_file(&ours).unwrap();
        assert!(watch.hears().unwrap());
        watch.set([&*ours].into_iter()).unwrap();
        fs::write(&other, "").unwrap();
        assert!(!watch.hears().unwrap());
        fs::rename(&other, &ours).unwrap();
        assert!(watch.hears().unwrap());
    }

    #[test]
    fn moved_and_created_directories_are_reported() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/c/file");
        let made = || {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "").unwrap();
        };
        made();
        let mut watch = watch(&path);
        // A directory far above it is moved.
        fs::rename(dir.path().join("a"), dir.path().join("z")).unwrap();
        assert!(watch.hears().unwrap());
        watch.set([&*path].into_iter()).unwrap();
        fs::remove_dir_all(dir.path().join("z")).unwrap();
        assert!(!watch.hears().unwrap(), "it is watched over no longer");
        for step in ["a", "a/b", "a/b/c"] {
            fs::create_dir(dir.path().join(step)).unwrap();
            assert!(watch.hears().unwrap(), "{step}");
            watch.set([&*path].into_iter()).unwrap();
        }
        fs::write(&path, "").unwrap();
        assert!(watch.hears().unwrap());
        watch.set([&*path].into_iter()).unwrap();
        fs::remove_dir_all(dir.path().join("a")).unwrap();
        assert!(watch.hears().unwrap());
    }

    #[test]
    fn directory_removed_before_set_is_reported() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/file");
        fs::create_dir(dir.path().join("a")).unwrap();
        let mut watch = watch(&path);
        fs::write(&path, "").unwrap();
        fs::remove_dir_all(dir.path().join("a")).unwrap();
        watch.set([&*path].into_iter()).unwrap();
        assert!(watch.hears().unwrap());
        assert!(!watch.hears().unwrap());
    }

    #[test]
    fn queue_overflow_is_reported() {
        let dir = tempfile::tempdir().unwrap();
        let ours = dir.path().join("ours");
        fs::write(&ours, "").unwrap();
        let mut watch = watch(&ours);
        let most = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        fs::write(&a, "").unwrap();
        for _ in 0..=most.trim().parse::<usize>().unwrap() / 2 {
            fs::rename(&a, &b).unwrap();
            fs::rename(&b, &a).unwrap();
        }
        assert!(watch.hears().unwrap());
    }
}
