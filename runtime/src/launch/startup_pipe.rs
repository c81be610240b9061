//! The pipe on which a detached daemon reports to its launcher whether it serves or why it failed.
//!
//! One JSON message per line. The daemon closes its end after the final one; the end of the pipe without a
//! final message means that the daemon died.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::json::{self, FromJson, ToJson};

/// The daemon's end. Empty in the foreground, where there is no launcher, and after the final message.
#[derive(Debug, Default)]
pub(crate) struct StartupNotifier {
    pipe: Option<File>,
}

/// The messages.
#[derive(Debug, ToJson, FromJson)]
#[json(tag = "type", rename_all = "kebab-case")]
pub(crate) enum StartupMessage {
    /// The process id of the daemon, sent first: the launcher has to kill it if it hangs.
    Process { pid: i32 },
    /// The daemon serves. A final message.
    Ready { pid: u32, listeners: Vec<String> },
    /// The daemon failed to start: the exit code for `start`, and the reason. A final message.
    Failed {
        code: u8,
        reason: String,
        /// Whether `main` had begun.
        #[json(default)]
        in_main: bool,
    },
}

impl StartupNotifier {
    pub(crate) fn new(pipe: OwnedFd) -> StartupNotifier {
        StartupNotifier { pipe: Some(File::from(pipe)) }
    }

    /// Reports the process id of the daemon, which is this process.
    pub(crate) fn process(&mut self) {
        let pid = i32::try_from(std::process::id()).unwrap_or(0);
        self.write(&StartupMessage::Process { pid });
    }

    /// Reports that the daemon serves; the launcher then returns.
    pub(crate) fn ready(&mut self, listeners: &[String]) {
        self.write(&StartupMessage::Ready {
            pid: std::process::id(),
            listeners: listeners.to_owned(),
        });
        self.pipe = None;
    }

    /// Reports that the daemon ends before it served. Does nothing after a final message.
    pub(crate) fn failed(&mut self, code: u8, reason: &str) {
        self.fail(code, reason, false);
    }

    /// Like [`failed`](StartupNotifier::failed), for a failure in or after the program's own code.
    pub(crate) fn failed_in_main(&mut self, code: u8, reason: &str) {
        self.fail(code, reason, true);
    }

    /// An exit code of 0 is reported as 1: the daemon did not become ready.
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
            // The launcher may have been interrupted; the daemon goes on without it.
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

    /// Waits for the next message; `None` when the daemon closed the pipe. To wait with a timeout, first
    /// check [`buffered`](StartupReader::buffered) and then poll the descriptor.
    pub(crate) fn next(&mut self) -> Option<StartupMessage> {
        let mut line = String::new();
        match self.pipe.read_line(&mut line) {
            Ok(1..) => json::from_slice(line.as_bytes()).ok(),
            Ok(0) | Err(_) => None,
        }
    }

    /// Returns whether a whole message was read ahead, for which a poll of the descriptor would wait forever.
    pub(crate) fn buffered(&self) -> bool {
        self.pipe.buffer().contains(&b'\n')
    }
}

impl AsFd for StartupReader {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.get_ref().as_fd()
    }
}
