//! Writes lines to stderr without ever waiting: lines that cannot be written at once are dropped and counted.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;

use rustix::fs::{FileType, Mode, OFlags};
use rustix::net::SendFlags;

use crate::sys::descriptors;

/// The most bytes that are written at once. A pipe for which poll(2) reports room takes as many
/// without blocking (PIPE_BUF in pipe(7)).
const PIPE_BUF: usize = 4096;

/// Stderr of this process, which may be redirected at any time.
#[derive(Debug, Default)]
pub(crate) struct Stderr {
    /// How it is written to, and the identity of the file for which that was determined.
    way: Option<((u64, u64), WriteMode)>,
    /// The rest of a line that was written in part.
    rest: Vec<u8>,
    /// The number of lines dropped since the last one that was written.
    dropped: u64,
}

#[derive(Debug)]
enum WriteMode {
    /// A regular file: a write succeeds or fails at once.
    File,
    /// A socket: sent to with a flag not to wait.
    Socket,
    /// A pipe or a terminal, opened a second time: `O_NONBLOCK` belongs to the open file, and the one of
    /// stderr is shared with other processes.
    Own(File),
    /// A pipe or a terminal that cannot be opened again: polled before each write.
    Polled,
}

impl Stderr {
    /// Writes `line`. If lines were dropped before, first writes the line that `notice` makes of their
    /// number.
    pub(crate) fn line(&mut self, line: &[u8], notice: impl FnOnce(u64) -> String) {
        if !self.finish() {
            self.dropped += 1;
            return;
        }
        if self.dropped > 0 {
            if !self.put(notice(self.dropped).as_bytes()) {
                self.dropped += 1;
                return;
            }
            self.dropped = 0;
        }
        if !self.rest.is_empty() || !self.put(line) {
            self.dropped += 1;
        }
    }

    /// Writes the rest of an earlier line; returns whether that is complete now.
    fn finish(&mut self) -> bool {
        let rest = std::mem::take(&mut self.rest);
        rest.is_empty() || {
            let (written, _) = self.write(&rest);
            self.rest = rest[written..].to_vec();
            self.rest.is_empty()
        }
    }

    /// Writes a line; returns whether at least its beginning was written. The rest is then written later.
    fn put(&mut self, line: &[u8]) -> bool {
        let (written, _) = self.write(line);
        if written == 0 {
            return false;
        }
        self.rest = line[written..].to_vec();
        true
    }

    /// Writes as much as possible without waiting; returns the number of bytes.
    fn write(&mut self, bytes: &[u8]) -> (usize, io::Result<()>) {
        let mut written = 0;
        while written < bytes.len() {
            match self.attempt(&bytes[written..]) {
                Ok(0) => break,
                Ok(more) => written += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return (written, Err(error)),
            }
        }
        (written, Ok(()))
    }

    fn attempt(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let stderr = io::stderr();
        let now = descriptors::identity(&stderr)?;
        if self.way.as_ref().is_none_or(|(then, _)| *then != now) {
            // Stderr was redirected: choose a way to write again, and drop the descriptor of the earlier
            // file.
            self.way = Some((now, way(&stderr)?));
        }
        match &mut self.way {
            Some((_, WriteMode::Own(file))) => file.write(bytes),
            Some((_, WriteMode::Socket)) => {
                let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
                Ok(rustix::net::send(&stderr, bytes, flags)?)
            }
            Some((_, WriteMode::Polled)) => match descriptors::takes_output(&stderr) {
                true => stderr.lock().write(&bytes[..bytes.len().min(PIPE_BUF)]),
                false => Ok(0),
            },
            Some((_, WriteMode::File)) | None => stderr.lock().write(bytes),
        }
    }
}

/// Determines how stderr can be written to without waiting.
fn way(stderr: impl AsFd) -> io::Result<WriteMode> {
    let mode = rustix::fs::fstat(&stderr)?.st_mode;
    Ok(match FileType::from_raw_mode(mode) {
        FileType::RegularFile => WriteMode::File,
        FileType::Socket => WriteMode::Socket,
        _ => {
            let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
            match rustix::fs::open("/proc/self/fd/2", flags, Mode::empty()) {
                Ok(own) => WriteMode::Own(File::from(own)),
                Err(_) => WriteMode::Polled,
            }
        }
    })
}
