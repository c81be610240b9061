//! Lines to stderr that never wait: what cannot be written at once is dropped, and counted.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;

use rustix::fs::{FileType, Mode, OFlags};
use rustix::net::SendFlags;

use crate::sys::descriptors;

/// The most bytes that are written at once. A pipe for which poll(2) reports room takes as many
/// without blocking (PIPE_BUF in pipe(7)).
const PIPE_BUF: usize = 4096;

/// This process' stderr, whatever it is at the time.
#[derive(Debug, Default)]
pub(crate) struct Stderr {
    /// How it is written to, and for which file that holds.
    way: Option<((u64, u64), WriteMode)>,
    /// What is left of a line of which the beginning was taken.
    rest: Vec<u8>,
    dropped: u64,
}

#[derive(Debug)]
enum WriteMode {
    /// A regular file takes what it is given, or fails.
    File,
    Socket,
    /// A pipe or a terminal, opened once more: to wait or not belongs to an open file, and that of stderr
    /// is shared with other processes.
    Own(File),
    /// One that cannot be opened again.
    Polled,
}

impl Stderr {
    /// Writes `line`, and before it, if lines were dropped, what `notice` says of so many.
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

    /// Writes what is left of an earlier line. Whether nothing is left of it.
    fn finish(&mut self) -> bool {
        let rest = std::mem::take(&mut self.rest);
        rest.is_empty() || {
            let (written, _) = self.write(&rest);
            self.rest = rest[written..].to_vec();
            self.rest.is_empty()
        }
    }

    /// Whether at least the beginning was written; then the rest will be.
    fn put(&mut self, line: &[u8]) -> bool {
        let (written, _) = self.write(line);
        if written == 0 {
            return false;
        }
        self.rest = line[written..].to_vec();
        true
    }

    /// How much could be written.
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
            // Nothing of an earlier file belongs into this one.
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
