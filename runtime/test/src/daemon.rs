use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::address::Address;
use crate::drain::DrainReport;
use crate::error::Result;
use crate::load::{Connection, Load};
use crate::process::Process;
use crate::program::{Place, Program};

/// The most lines of the log that are printed when a test fails.
const LOG_LINES: usize = 200;

/// How long a connection to a listener, and each read from it, may take.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);

/// How often the daemon's status is read while a test waits for it.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// A daemon of the program under test.
///
/// Dropping it kills all processes of the daemon, and those that they started, and removes the directory. If
/// the test is panicking, the daemon's log is printed first. Only a test process that is killed itself leaves
/// its daemons behind.
#[derive(Debug)]
pub struct TestDaemon {
    program: Program,
    place: Place,
    /// The options by which verbs find the daemon.
    location: Vec<OsString>,
}

impl TestDaemon {
    pub(crate) fn new(program: Program, place: Place, location: Vec<OsString>) -> Self {
        TestDaemon { program, place, location }
    }

    /// Starts the daemon again after [`stop`](Self::stop) or [`kill_supervisor`](Self::kill_supervisor),
    /// in the same directory. Its ports may be other ones.
    ///
    /// # Panics
    ///
    /// If the start fails.
    #[track_caller]
    pub fn start(&self) {
        expect(self.try_start());
    }

    /// Starts the daemon again, as [`start`](Self::start) does.
    ///
    /// # Errors
    ///
    /// What the program reports, if the start fails.
    pub fn try_start(&self) -> Result<()> {
        let output = self.program.run_start(&self.place)?;
        match output.code {
            0 => Ok(()),
            _ => Err(output.into_error()),
        }
    }

    /// Restarts the daemon; returns when the old generation has drained.
    ///
    /// # Panics
    ///
    /// If the restart is aborted. [`try_restart`](Self::try_restart) is for restarts that are expected to
    /// fail.
    #[track_caller]
    pub fn restart(&self) -> DrainReport {
        expect(self.try_restart())
    }

    /// Restarts the daemon; returns when the old generation has drained.
    ///
    /// # Errors
    ///
    /// If the restart is aborted. The error has its [reason](crate::Error::reason) and what the new worker
    /// [wrote](crate::Error::output).
    pub fn try_restart(&self) -> Result<DrainReport> {
        self.json("restart", &["--json".into()]).map(DrainReport::new)
    }

    /// Restarts the daemon with the program at another path, as `restart --exe` does.
    ///
    /// # Panics
    ///
    /// If the restart is aborted.
    #[track_caller]
    pub fn restart_with(&self, program: impl AsRef<Path>) -> DrainReport {
        expect(self.try_restart_with(program))
    }

    /// Restarts the daemon with the program at another path, as `restart --exe` does.
    ///
    /// # Errors
    ///
    /// If the restart is aborted.
    pub fn try_restart_with(&self, program: impl AsRef<Path>) -> Result<DrainReport> {
        let options = ["--json".into(), "--exe".into(), program.as_ref().into()];
        self.json("restart", &options).map(DrainReport::new)
    }

    /// Drains and stops the daemon.
    ///
    /// # Panics
    ///
    /// If the daemon does not run, or does not stop.
    #[track_caller]
    pub fn stop(&self) -> DrainReport {
        expect(self.try_stop())
    }

    /// Drains and stops the daemon.
    ///
    /// # Errors
    ///
    /// If the daemon does not run, or does not stop.
    pub fn try_stop(&self) -> Result<DrainReport> {
        self.json("stop", &["--json".into()]).map(DrainReport::new)
    }

    /// Replaces the content of the configuration file, for the next restart.
    ///
    /// # Panics
    ///
    /// If the daemon was started without [`Program::config`], or if the file cannot be written.
    #[track_caller]
    pub fn write_config(&self, toml: &str) {
        assert!(
            self.program.has_config(),
            "the daemon has no configuration file; start it with `Program::config`"
        );
        expect(self.place.write_config(toml));
    }

    /// Returns the output of `status --json`, with the fields that the book describes.
    ///
    /// # Panics
    ///
    /// If the daemon does not run.
    #[track_caller]
    #[must_use]
    pub fn status(&self) -> Value {
        expect(self.try_status())
    }

    /// Returns the output of `status --json`.
    ///
    /// # Errors
    ///
    /// If the daemon does not run.
    pub fn try_status(&self) -> Result<Value> {
        self.json("status", &["--json".into()])
    }

    /// Returns the generation that serves.
    ///
    /// # Panics
    ///
    /// If the daemon does not run.
    #[track_caller]
    #[must_use]
    pub fn generation(&self) -> u64 {
        let status = self.status();
        match status["generation"].as_u64() {
            Some(generation) => generation,
            None => panic!("no generation serves: {status:#}"),
        }
    }

    /// Returns the address of a listener.
    ///
    /// # Panics
    ///
    /// If the daemon does not run, or has no such listener.
    #[track_caller]
    #[must_use]
    pub fn addr(&self, listener: &str) -> Address {
        let status = self.status();
        let listeners = status["listeners"].as_array().into_iter().flatten();
        let names: Vec<&str> = listeners.clone().filter_map(|it| it["name"].as_str()).collect();
        let mut addrs = listeners.filter(|it| it["name"] == listener);
        match addrs.find_map(|it| it["addr"].as_str()?.parse().ok()) {
            Some(addr) => addr,
            None => panic!("there is no listener `{listener}`, only {names:?}"),
        }
    }

    /// Returns the address of a TCP listener as the URL `http://127.0.0.1:<port>`.
    ///
    /// # Panics
    ///
    /// If the daemon does not run, or has no such listener, or its address is a unix socket.
    #[track_caller]
    #[must_use]
    pub fn url(&self, listener: &str) -> String {
        format!("http://{}", self.addr(listener).tcp())
    }

    /// Connects to a listener.
    ///
    /// # Panics
    ///
    /// If that fails.
    #[track_caller]
    pub fn connect(&self, listener: &str) -> Connection {
        let addr = self.addr(listener);
        match Connection::open(&addr, CONNECTION_TIMEOUT) {
            Ok(connection) => connection,
            Err(error) => panic!("cannot connect to `{listener}` at {addr}: {error}"),
        }
    }

    /// Creates a load on a listener: HTTP/1.1, unless changed. See [`Load`].
    ///
    /// # Panics
    ///
    /// If the daemon does not run, or has no such listener.
    #[track_caller]
    pub fn load(&self, listener: &str) -> Load {
        Load::new(listener, self.addr(listener))
    }

    /// Kills the worker that serves with SIGKILL, as a lack of memory would, and waits for its end. In a solo
    /// daemon, that is the daemon.
    ///
    /// # Panics
    ///
    /// If no worker serves.
    #[track_caller]
    pub fn kill_worker(&self) {
        let status = self.status();
        match self.serving_worker(&status) {
            Some(worker) => kill(&worker),
            None => panic!("no worker serves: {status:#}"),
        }
    }

    /// Kills the supervisor with SIGKILL and waits for its end.
    ///
    /// # Panics
    ///
    /// If the daemon does not run.
    #[track_caller]
    pub fn kill_supervisor(&self) {
        let status = self.status();
        match self.process(&status["pid"]) {
            Some(supervisor) => kill(&supervisor),
            None => panic!("the supervisor has ended: {status:#}"),
        }
    }

    /// Waits until a worker serves, as after [`kill_worker`](Self::kill_worker).
    ///
    /// # Panics
    ///
    /// If none does within [`Program::timeout`].
    #[track_caller]
    pub fn wait_serving(&self) {
        let deadline = Instant::now() + self.program.verb_timeout();
        loop {
            let status = self.try_status();
            if status.as_ref().is_ok_and(|status| self.serving_worker(status).is_some()) {
                return;
            }
            assert!(Instant::now() < deadline, "no worker serves in time: {status:#?}");
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    /// The daemon's directory. It is removed when this value is dropped.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.place.dir.path()
    }

    /// Returns what the daemon, including the program, has written to stdout and stderr.
    #[must_use]
    pub fn log(&self) -> String {
        let bytes = fs::read(self.place.log()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Returns the worker that serves, if it has not ended.
    fn serving_worker(&self, status: &Value) -> Option<Process> {
        let serves = |worker: &&Value| {
            worker["state"] == "serving" && worker["generation"] == status["generation"]
        };
        let worker = status["workers"].as_array()?.iter().find(serves)?;
        self.process(&worker["pid"])
    }

    fn process(&self, pid: &Value) -> Option<Process> {
        Process::open(pid.as_u64()?.try_into().ok()?, self.dir())
    }

    /// Runs a verb for a running daemon.
    fn json(&self, verb: &str, options: &[OsString]) -> Result<Value> {
        let options = [options, &self.location].concat();
        self.program.verb(verb, &options, &self.place)?.json()
    }
}

impl Drop for TestDaemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let from = log.lines().count().saturating_sub(LOG_LINES);
            let lines: Vec<&str> = log.lines().skip(from).collect();
            eprintln!("--- log of the daemon\n{}\n---", lines.join("\n"));
        }
        if !Process::kill_all(self.dir()) {
            eprintln!("a process of the daemon in {} survives SIGKILL", self.dir().display());
        }
    }
}

/// Returns the value of a verb that must succeed.
#[track_caller]
pub(crate) fn expect<T>(result: Result<T>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("{error}"),
    }
}

#[track_caller]
fn kill(process: &Process) {
    assert!(process.kill(), "{process:?} cannot be killed");
}
