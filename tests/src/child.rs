//! A child process of the test, whose output is captured and whose run time is bounded.

use std::fmt;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::Process;

/// The time that the outputs may stay open after the child has ended. If they stay open longer, a process
/// that the child left behind holds them, and a caller such as `$(app start)` would hang.
const CLOSING: Duration = Duration::from_secs(5);

/// The result of a process that has ended.
#[derive(Clone)]
pub struct Output {
    /// The command line.
    pub command: String,
    /// The exit status.
    pub status: ExitStatus,
    /// The standard output.
    pub stdout: String,
    /// The standard error.
    pub stderr: String,
    /// The time from start to end.
    pub elapsed: Duration,
}

impl Output {
    /// The exit code, or 128 plus the number of the signal that killed the process.
    pub fn code(&self) -> i32 {
        self.status.code().or(self.status.signal().map(|signal| 128 + signal)).unwrap_or(-1)
    }

    /// Standard output and standard error, for tests that accept a message in either.
    pub fn text(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }

    /// # Panics
    ///
    /// If the exit code differs. The message has all the output.
    #[track_caller]
    pub fn expect_code(self, code: i32) -> Self {
        assert!(self.code() == code, "expected exit code {code}\n{self}");
        self
    }

    /// # Panics
    ///
    /// If neither output contains the text.
    #[track_caller]
    pub fn expect_text(self, text: &str) -> Self {
        assert!(self.text().contains(text), "expected `{text}`\n{self}");
        self
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { command, status, stdout, stderr, elapsed } = self;
        writeln!(f, "`{command}`: {status} after {elapsed:?}")?;
        write!(f, "--- stdout\n{stdout}\n--- stderr\n{stderr}\n---")
    }
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A child process that runs. Dropping it kills the process.
#[derive(Debug)]
pub struct Child {
    command: String,
    child: std::process::Child,
    process: Process,
    begun: Instant,
    stdout: Arc<Capture>,
    stderr: Arc<Capture>,
}

impl Child {
    /// Starts a command with captured output and no input.
    pub fn spawn(command: &mut Command) -> Self {
        command.stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Self::spawn_as_is(command)
    }

    /// Starts a command with the input and outputs that the caller has set. Outputs that are pipes are
    /// captured.
    pub fn spawn_as_is(command: &mut Command) -> Self {
        let text = describe(command);
        let begun = Instant::now();
        let spawned = command.spawn();
        let mut child = spawned.unwrap_or_else(|error| panic!("cannot start `{text}`: {error}"));
        let process = Process::open(child.id()).expect("our own child, not reaped yet");
        let stdout = Capture::of(child.stdout.take());
        let stderr = Capture::of(child.stderr.take());
        Self { command: text, child, process, begun, stdout, stderr }
    }

    /// The child's process.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// The child's PID.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The standard output so far.
    pub fn stdout(&self) -> String {
        self.stdout.text()
    }

    /// The standard error so far.
    pub fn stderr(&self) -> String {
        self.stderr.text()
    }

    /// Waits until the standard error contains a text.
    ///
    /// # Panics
    ///
    /// If it does not within the given time.
    #[track_caller]
    pub fn wait_for_stderr(&self, text: &str, within: Duration) {
        let found = self.stderr.wait(within, |captured| captured.contains(text));
        assert!(found, "`{}` did not say `{text}` but:\n{}", self.command, self.stderr());
    }

    /// Waits until the standard output contains a text.
    ///
    /// # Panics
    ///
    /// If it does not within the given time.
    #[track_caller]
    pub fn wait_for_stdout(&self, text: &str, within: Duration) {
        let found = self.stdout.wait(within, |captured| captured.contains(text));
        assert!(found, "`{}` did not print `{text}` but:\n{}", self.command, self.stdout());
    }

    /// Waits until the child has ended and its outputs are closed.
    ///
    /// # Panics
    ///
    /// If the child does not end in time (it is killed then), or if another process keeps its outputs
    /// open.
    #[track_caller]
    pub fn wait(mut self, within: Duration) -> Output {
        self.end(within)
    }

    #[track_caller]
    pub(crate) fn end(&mut self, within: Duration) -> Output {
        let in_time = self.process.wait_gone(within);
        if !in_time {
            self.process.kill();
        }
        let elapsed = self.begun.elapsed();
        let status = self.child.wait().expect("our own child");
        let closed = !in_time || (self.stdout.wait_closed() && self.stderr.wait_closed());
        let output = Output {
            command: std::mem::take(&mut self.command),
            status,
            stdout: self.stdout(),
            stderr: self.stderr(),
            elapsed,
        };
        assert!(in_time, "did not end within {within:?}, killed\n{output}");
        assert!(closed, "somebody keeps the output open\n{output}");
        output
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.process.signal(rustix::process::Signal::KILL);
        let _ = self.child.wait();
    }
}

fn describe(command: &Command) -> String {
    let program = command.get_program().to_string_lossy();
    let program = program.rsplit('/').next().unwrap_or_default().to_owned();
    let arguments = command.get_args().map(|argument| argument.to_string_lossy().into_owned());
    std::iter::once(program).chain(arguments).collect::<Vec<_>>().join(" ")
}

/// Captured output, which a thread reads as it arrives.
#[derive(Debug, Default)]
pub(crate) struct Capture {
    state: Mutex<(Vec<u8>, bool)>,
    changed: Condvar,
}

impl Capture {
    /// Captures everything that `reader` yields. Without a reader the capture is empty and closed.
    pub(crate) fn of(reader: Option<impl Read + Send + 'static>) -> Arc<Self> {
        let capture = Arc::new(Self::default());
        let Some(mut reader) = reader else {
            capture.close();
            return capture;
        };
        let theirs = Arc::clone(&capture);
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(read @ 1..) = reader.read(&mut buffer) {
                theirs.push(&buffer[..read]);
            }
            theirs.close();
        });
        capture
    }

    pub(crate) fn push(&self, bytes: &[u8]) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.0.extend_from_slice(bytes);
        self.changed.notify_all();
    }

    pub(crate) fn close(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).1 = true;
        self.changed.notify_all();
    }

    pub(crate) fn text(&self) -> String {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&state.0).into_owned()
    }

    /// Waits until the text satisfies `wanted`. Returns `false` if the output ended or the time passed first.
    pub(crate) fn wait(&self, within: Duration, wanted: impl Fn(&str) -> bool) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let is = |state: &(Vec<u8>, bool)| wanted(&String::from_utf8_lossy(&state.0));
        let waited = self.changed.wait_timeout_while(state, within, |state| !is(state) && !state.1);
        is(&waited.unwrap_or_else(PoisonError::into_inner).0)
    }

    fn wait_closed(&self) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_timeout_while(state, CLOSING, |state| !state.1);
        waited.unwrap_or_else(PoisonError::into_inner).0.1
    }
}
