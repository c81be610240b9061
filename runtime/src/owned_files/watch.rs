//! Watching over paths by inotify(7): told as soon as one of them may be gone, and left alone else.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;

/// Of a directory on the way to a path: rare, whatever is done in it.
const ITSELF: WatchFlags =
    WatchFlags::DELETE_SELF.union(WatchFlags::MOVE_SELF).union(WatchFlags::ONLYDIR);
/// Of the directory of a path that is there.
const GOES: WatchFlags =
    WatchFlags::DELETE.union(WatchFlags::MOVED_FROM).union(WatchFlags::MOVED_TO);
/// Of the directory in which something is missing.
const COMES: WatchFlags = WatchFlags::CREATE.union(WatchFlags::MOVED_TO);

/// The directories of some paths.
pub(crate) struct Watch {
    inotify: OwnedFd,
    /// The names that matter in each.
    names: BTreeMap<i32, BTreeSet<OsString>>,
}

impl Watch {
    pub(crate) fn new() -> io::Result<Watch> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        Ok(Watch { inotify, names: BTreeMap::new() })
    }

    /// Watches over these paths, as they are now, and no others.
    ///
    /// Fails where one of them cannot be watched over; the others are.
    pub(crate) fn set<'a>(&mut self, paths: impl Iterator<Item = &'a Path>) -> io::Result<()> {
        let mut wanted = BTreeMap::new();
        paths.for_each(|path| want(path, &mut wanted));
        let mut names: BTreeMap<i32, BTreeSet<OsString>> = BTreeMap::new();
        let mut failed = Ok(());
        for (dir, Wanted { flags, names: its }) in wanted {
            match inotify::add_watch(&self.inotify, &dir, flags) {
                Ok(watch) => names.entry(watch).or_default().extend(its),
                // The directory above it will tell when it comes.
                Err(Errno::NOENT | Errno::NOTDIR) => {}
                // Nothing could be restored there either, or it is only on the way.
                Err(Errno::ACCESS) => {}
                Err(error) => failed = Err(error.into()),
            }
        }
        for old in self.names.keys().filter(|old| !names.contains_key(old)) {
            // It is gone already where its directory is.
            let _ = inotify::remove_watch(&self.inotify, *old);
        }
        self.names = names;
        failed
    }

    /// Reads what has happened. Whether one of the paths may be concerned.
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
            // What was lost in an overflow could be anything (wd is -1 then).
            concerned |= event.events().contains(ReadFlags::QUEUE_OVERFLOW);
            let itself = !event.events().contains(ReadFlags::IGNORED);
            concerned |= match (self.names.get(&event.wd()), event.file_name()) {
                (Some(names), Some(name)) => names.contains(OsStr::from_bytes(name.to_bytes())),
                // In a directory that went before the paths were set last: nothing else tells of it.
                (None, _) | (_, None) => itself,
            };
        }
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

/// What is to be told of a directory.
struct Wanted {
    flags: WatchFlags,
    names: BTreeSet<OsString>,
}

/// The directory of a path, those above it, and the last one that is there if it is not.
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

    fn watch(path: &Path) -> Watch {
        let mut watch = Watch::new().unwrap();
        watch.set([path].into_iter()).unwrap();
        assert!(!watch.hears().unwrap());
        watch
    }

    #[test]
    fn tells_of_its_path_only() {
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
    fn tells_of_directories_that_go_and_come() {
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
    fn tells_of_a_directory_that_went_before_the_paths_were_set() {
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
    fn tells_when_it_has_lost_count() {
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
