//! Prints the end of a log file and, with `--follow`, what is written later, across rotations by renaming and
//! by truncation.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

use super::logs::LogsOptions;
use crate::error::{Error, Result};

/// How long a renamed file is still read. Its writers reopen the log a moment after the rotation,
/// and what they write until then would be missed with a shorter time.
const RENAMED_READ_TIME: Duration = Duration::from_secs(5);

/// The time between two looks at the path when nothing is announced, as when another directory
/// replaces the one of the log. It limits how late its lines appear.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// The number of bytes that are read at once.
const BLOCK: usize = 64 * 1024;

/// Prints the log. With `--follow`, returns when the reader of stdout is gone.
pub(super) fn show(name: &str, path: &Path, options: &LogsOptions) -> Result<ExitCode> {
    let cannot =
        |error| Error::io(format!("cannot read the log {} of {name}", path.display()), error);
    let mut file = File::open(path).map_err(cannot)?;
    begin(&mut file, u64::from(options.lines)).map_err(cannot)?;
    let mut files = vec![Followed::new(file).map_err(cannot)?];
    let watch = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).ok();
    loop {
        if options.follow {
            watch_directory(watch.as_ref(), path);
        }
        for file in &mut files {
            match file.copy().map_err(cannot)? {
                Copied::All => {}
                Copied::Unread => return Ok(ExitCode::SUCCESS),
            }
        }
        if !options.follow {
            return Ok(ExitCode::SUCCESS);
        }
        if let Some(next) = successor(path, files.last()).map_err(cannot)? {
            if let Some(last) = files.last_mut() {
                last.replaced = Some(Instant::now());
            }
            files.push(next);
            continue;
        }
        files.retain(|file| file.replaced.is_none_or(|since| since.elapsed() < RENAMED_READ_TIME));
        if !wait(watch.as_ref())? {
            return Ok(ExitCode::SUCCESS);
        }
    }
}

/// A file that is being followed.
struct Followed {
    file: File,
    /// Device and inode.
    id: (u64, u64),
    /// When another file was found at the path.
    replaced: Option<Instant>,
}

/// The outcome of [`Followed::copy`].
enum Copied {
    All,
    /// The reader of stdout is gone.
    Unread,
}

impl Followed {
    fn new(file: File) -> io::Result<Followed> {
        let meta = file.metadata()?;
        Ok(Followed { file, id: (meta.dev(), meta.ino()), replaced: None })
    }

    /// Prints what was added since the last call.
    fn copy(&mut self) -> io::Result<Copied> {
        let at = self.file.stream_position()?;
        if self.file.metadata()?.len() < at {
            // Truncated, as by logrotate's `copytruncate`.
            self.file.rewind()?;
        }
        let mut out = io::stdout().lock();
        let mut block = vec![0; BLOCK];
        loop {
            let read = self.file.read(&mut block)?;
            if read == 0 {
                return Ok(Copied::All);
            }
            if out.write_all(&block[..read]).and_then(|()| out.flush()).is_err() {
                return Ok(Copied::Unread);
            }
        }
    }
}

/// Opens the file at the path, if it is another one than the last.
fn successor(path: &Path, last: Option<&Followed>) -> io::Result<Option<Followed>> {
    match fs::metadata(path) {
        Ok(meta) if last.is_some_and(|last| last.id == (meta.dev(), meta.ino())) => Ok(None),
        Ok(_) => match File::open(path) {
            Ok(file) => Followed::new(file).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        },
        // Between the two steps of a rotation: renamed, and not created again.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Seeks to the beginning of the last `lines` lines.
fn begin(file: &mut File, lines: u64) -> io::Result<()> {
    let mut at = file.metadata()?.len();
    let mut ends = 0;
    let mut block = vec![0; BLOCK];
    let whole = at;
    while at > 0 {
        let from = at.saturating_sub(BLOCK as u64);
        let length = usize::try_from(at - from).unwrap_or(BLOCK);
        file.seek(SeekFrom::Start(from))?;
        file.read_exact(&mut block[..length])?;
        for (index, _) in block[..length].iter().enumerate().rev().filter(|(_, b)| **b == b'\n') {
            let after = from + index as u64 + 1;
            // The line break at the end of the file begins no other line.
            if after == whole && lines > 0 {
                continue;
            }
            ends += 1;
            if ends >= lines.max(1) {
                let start = if lines == 0 { whole } else { after };
                file.seek(SeekFrom::Start(start))?;
                return Ok(());
            }
        }
        at = from;
    }
    file.seek(SeekFrom::Start(if lines == 0 { whole } else { 0 }))?;
    Ok(())
}

/// Watches the directory for changes to its files. Without a watch they are found after [`PAUSE`].
fn watch_directory(watch: Option<&OwnedFd>, path: &Path) {
    if let (Some(watch), Some(dir)) = (watch, path.parent()) {
        let flags = WatchFlags::MODIFY
            | WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO;
        // Called in each turn, for a directory that was replaced; adding the same one again has no effect.
        let _ = inotify::add_watch(watch, dir, flags);
    }
}

/// Waits for a change, at most for [`PAUSE`]; `false`: the reader of stdout is gone.
fn wait(watch: Option<&OwnedFd>) -> Result<bool> {
    let stdout = io::stdout();
    let mut fds = vec![PollFd::from_borrowed_fd(stdout.as_fd(), PollFlags::empty())];
    fds.extend(watch.map(|watch| PollFd::from_borrowed_fd(watch.as_fd(), PollFlags::IN)));
    let pause = Timespec::try_from(LOOK_INTERVAL).ok();
    match poll(&mut fds, pause.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(error) => return Err(Error::io("poll failed", error)),
    }
    if fds[0].revents().intersects(PollFlags::ERR | PollFlags::HUP) {
        return Ok(false);
    }
    if let Some(watch) = watch {
        // The events are discarded: all files are looked at after each.
        let mut events = [0; 4096];
        while rustix::io::read(watch, &mut events).is_ok_and(|read| read > 0) {}
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn begin_seeks_to_last_lines() {
        let shown = |text: &str, lines: u64| {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(text.as_bytes()).unwrap();
            begin(&mut file, lines).unwrap();
            let mut rest = String::new();
            file.read_to_string(&mut rest).unwrap();
            rest
        };
        assert_eq!(shown("a\nb\nc\n", 2), "b\nc\n");
        assert_eq!(shown("a\nb\nc", 2), "b\nc");
        assert_eq!(shown("a\nb\n", 2), "a\nb\n");
        assert_eq!(shown("a\nb\n", 9), "a\nb\n");
        assert_eq!(shown("a\n\n", 1), "\n");
        assert_eq!(shown("a\nb", 0), "");
        assert_eq!(shown("a\nb\n", 0), "");
        assert_eq!(shown("", 3), "");
        let long = "x".repeat(BLOCK - 1);
        assert_eq!(shown(&format!("{long}\n{long}\nend\n"), 2), format!("{long}\nend\n"));
        assert_eq!(shown(&format!("{long}\n{long}\nend\n"), 1), "end\n");
    }
}
