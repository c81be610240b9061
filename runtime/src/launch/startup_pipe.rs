//! How a detached daemon tells its launcher what became of it.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::json::{self, FromJson, ToJson};

/// The daemon's end. In the foreground nobody listens.
#[derive(Debug, Default)]
pub(crate) struct StartupNotifier {
    pipe: Option<File>,
}

/// What is reported, a line each.
#[derive(Debug, ToJson, FromJson)]
#[json(tag = "type", rename_all = "kebab-case")]
pub(crate) enum StartupMessage {
    /// The daemon's process.
    Process { pid: i32 },
    /// It serves.
    Ready { pid: u32, listeners: Vec<String> },
    /// It will not: why, and the code to exit with.
    Failed {
        code: u8,
        reason: String,
        /// `main` had begun.
        #[json(default)]
        in_main: bool,
    },
}

impl StartupNotifier {
    pub(crate) fn new(pipe: OwnedFd) -> StartupNotifier {
        StartupNotifier { pipe: Some(File::from(pipe)) }
    }

    pub(crate) fn process(&mut self) {
        let pid = i32::try_from(std::process::id()).unwrap_or(0);
        self.write(&StartupMessage::Process { pid });
    }

    /// The daemon serves; the launcher returns.
    pub(crate) fn ready(&mut self, listeners: &[String]) {
        self.write(&StartupMessage::Ready {
            pid: std::process::id(),
            listeners: listeners.to_owned(),
        });
        self.pipe = None;
    }

    /// The daemon ends before it served. Later calls say nothing, as nobody listens any more.
    pub(crate) fn failed(&mut self, code: u8, reason: &str) {
        self.fail(code, reason, false);
    }

    /// As [`failed`](Reporter::failed), in or after the program's own code.
    pub(crate) fn failed_in_main(&mut self, code: u8, reason: &str) {
        self.fail(code, reason, true);
    }

    fn fail(&mut self, code: u8, reason: &str, in_main: bool) {
        self.write(&StartupMessage::Failed {
            code: code.max(1),
            reason: reason.to_owned(),
            in_main,
        });
        self.pipe = None;
    }

    pub(crate) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.pipe.as_ref().map(AsFd::as_fd)
    }

    fn write(&mut self, report: &StartupMessage) {
        let Some(pipe) = &mut self.pipe else { return };
        if let Ok(mut line) = json::to_vec(report) {
            line.push(b'\n');
            // A launcher that was interrupted no longer wants to know.
            let _ = pipe.write_all(&line);
        }
    }
}

/// The launcher's end.
pub(crate) struct StartupReader {
    pipe: BufReader<File>,
}

impl StartupReader {
    pub(crate) fn new(pipe: OwnedFd) -> StartupReader {
        StartupReader { pipe: BufReader::new(File::from(pipe)) }
    }

    /// The next report; `None` when the daemon hung up. Waits for it: see [`Reports::as_fd`].
    pub(crate) fn next(&mut self) -> Option<StartupMessage> {
        let mut line = String::new();
        match self.pipe.read_line(&mut line) {
            Ok(1..) => json::from_slice(line.as_bytes()).ok(),
            Ok(0) | Err(_) => None,
        }
    }

    /// Whether a whole report was read ahead.
    pub(crate) fn buffered(&self) -> bool {
        self.pipe.buffer().contains(&b'\n')
    }
}

impl AsFd for StartupReader {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.get_ref().as_fd()
    }
}
