//! A [`Daemon`] without a daemon: for unit tests, in their own process.
//!
//! The state is that of a worker. A thread plays the supervisor, as the control thread of a solo daemon does:
//! it answers *ready* with *go*, and cuts connections and tasks at the drain deadline. It neither exits the
//! process nor touches its signals, environment, descriptors 0 to 2, or privileges.

use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::daemon::Daemon;
use super::state::{SharedState, WorkerPhase, lock};
use crate::config::{Configuration, Surroundings};
use crate::counters::Counters;
use crate::error::{Error, Result};
use crate::link::{self, FromWorker, ListenerHandle};
use crate::listener::{self, Bound};
use crate::program::NotConfiguring;
use crate::spec::{Flavor, Spec};
use crate::sys::readiness::readable;
use crate::sys::{process, seqpacket};

/// The attribute of a program without keys.
const SPEC: Spec = Spec {
    bin: Some("daemon"),
    version: None,
    location: "the test",
    keys: &[],
    graceful_restart: false,
    takes_daemon: true,
    flavor: Flavor::MultiThread,
    worker_threads: None,
};

/// A daemon in the process of a unit test. Public through the crate `unbroken-test` alone.
pub struct InProcess {
    daemon: Daemon,
    /// The supervisor's copies of the listeners, until the drain.
    bound: Mutex<Vec<(String, Bound)>>,
    addrs: Vec<(String, String)>,
    ready: watch::Receiver<bool>,
}

impl InProcess {
    /// Starts a daemon with these settings, each `key=value`, and, unless null, this section `[app]`.
    pub fn start(settings: &[String], app: serde_json::Value) -> Result<InProcess> {
        let start_dir = process::current_directory().map_err(|error| {
            Error::io("the current directory no longer exists; change to one that does", error)
        })?;
        // The runtime directory is a setting without a use: there is no pidfile.
        let runtime_dir = format!("runtime_dir={}", start_dir.join("unused").display());
        let around = Surroundings {
            vars: Vec::new(),
            uid: rustix::process::getuid().as_raw(),
            overrides: [runtime_dir].iter().chain(settings).cloned().collect(),
            exe: start_dir.join("daemon"),
            start_dir,
        };
        let mut configuration = Configuration::load(&SPEC, &around, &NotConfiguring)?;
        if !app.is_null() {
            configuration.app = app;
        }
        let mut bound: Vec<(String, Bound)> = Vec::new();
        for (name, settings) in &configuration.settings.listen {
            for binding in settings.each() {
                let its = bound.iter().filter(|(its, _)| its == name).map(|(_, bound)| bound);
                let listener = listener::bind(name, &binding, its)?;
                bound.extend(listener.map(|listener| (name.clone(), listener)));
            }
        }
        let handles = bound
            .iter()
            .map(|(name, listener)| {
                let socket = listener.as_fd().try_clone_to_owned();
                let socket = socket.map_err(|error| {
                    Error::io("cannot duplicate the socket of a listener", error)
                })?;
                let (addr, source) = (listener.addr().clone(), listener.source());
                Ok((ListenerHandle { name: name.clone(), addr, source }, socket))
            })
            .collect::<Result<_>>()?;
        let addrs = bound.iter().map(|(name, it)| (name.clone(), it.addr().to_string())).collect();
        let (ours, theirs) =
            seqpacket::pair().map_err(|error| Error::io("cannot create a link", error))?;
        let (counters, _) = Counters::create()
            .map_err(|error| Error::io("cannot create the shared counters", error))?;
        let state = SharedState::new(configuration, 1, counters, handles, theirs)
            .map_err(|error| Error::io("cannot prepare the worker", error))?;
        let state = Arc::new(state);
        let (sender, ready) = watch::channel(false);
        let supervisor = StandIn { state: Arc::downgrade(&state), link: ours, ready: sender };
        std::thread::Builder::new()
            .name("unbroken-test".into())
            .spawn(move || supervisor.run())
            .map_err(|error| {
                Error::io("cannot start the thread that reads from the supervisor", error)
            })?;
        state.mark_running();
        Ok(InProcess { daemon: Daemon { state }, bound: Mutex::new(bound), addrs, ready })
    }

    /// Returns the handle for the program.
    pub fn daemon(&self) -> Daemon {
        self.daemon.clone()
    }

    /// Returns the listeners and their addresses, as `status` shows them.
    pub fn addrs(&self) -> &[(String, String)] {
        &self.addrs
    }

    /// Waits until the program is ready.
    pub async fn ready(&self) {
        // Fails if the supervisor's thread has ended, which it does only after the state.
        let _ = self.ready.clone().wait_for(|ready| *ready).await;
    }

    /// Returns whether the program is ready.
    pub fn is_ready(&self) -> bool {
        *self.ready.borrow()
    }

    /// Begins the drain, as a stop does. A second call may only bring the deadline forward.
    pub fn drain(&self, timeout: Option<Duration>) {
        let state = &self.daemon.state;
        let timeout = timeout.unwrap_or(state.configuration.settings.drain_timeout);
        let bound = std::mem::take(&mut *lock(&self.bound));
        bound.iter().for_each(|(_, listener)| listener.unlink());
        let (finish, at): (Vec<_>, Vec<_>) =
            bound.iter().map(|(name, it)| (name.clone(), it.addr().clone())).unzip();
        drop(bound);
        state.set_last();
        state.drain(Instant::now() + timeout, &finish, &at);
        // Wakes the supervisor's thread, for the deadline.
        state.send(&FromWorker::Leaving { main_ended: false });
    }

    /// Waits until all connections and all tasks of `Daemon::spawn` have ended, at most until the drain
    /// deadline. Returns whether they have.
    pub async fn drained(&self) -> bool {
        let state = &self.daemon.state;
        state.tasks.close();
        tokio::select! {
            biased;
            () = state.tasks.wait() => true,
            () = state.forced.cancelled() => false,
        }
    }
}

impl Drop for InProcess {
    fn drop(&mut self) {
        let bound = std::mem::take(&mut *lock(&self.bound));
        bound.iter().for_each(|(_, listener)| listener.unlink());
    }
}

impl fmt::Debug for InProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InProcess").field("addrs", &self.addrs).finish_non_exhaustive()
    }
}

/// The supervisor's part. It ends with the state, which has the other end of the link.
struct StandIn {
    state: Weak<SharedState>,
    link: OwnedFd,
    ready: watch::Sender<bool>,
}

impl StandIn {
    fn run(self) {
        loop {
            let deadline = self.enforce_deadline();
            match readable(&[((), self.link.as_fd())], deadline) {
                Ok(ready) if ready.is_empty() => continue,
                Ok(_) => {}
                Err(_) => return,
            }
            match link::receive::<FromWorker>(&self.link) {
                Ok(Some((FromWorker::Ready {}, _))) => {
                    let Some(state) = self.state.upgrade() else { return };
                    state.set_phase(WorkerPhase::Open);
                    self.ready.send_replace(true);
                }
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => return,
            }
        }
    }

    /// At the drain deadline, cuts connections and tasks. Returns the deadline that lies ahead.
    fn enforce_deadline(&self) -> Option<Instant> {
        let state = self.state.upgrade()?;
        let deadline = state.deadline().filter(|_| !state.forced.is_cancelled())?;
        if Instant::now() < deadline {
            return Some(deadline);
        }
        state.counters.record_forced();
        state.forced.cancel();
        None
    }
}
