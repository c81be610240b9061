//! A worker from *hello* to exit.
//!
//! [`handshake`] computes the settings, sends *hello* and waits for *welcome*. [`WorkerRuntime::new`] drops
//! privileges and prepares the process. [`WorkerRuntime::run_async`] or [`WorkerRuntime::run_sync`] starts
//! the control thread, runs `main`, and after it waits for connections and tasks until the drain deadline.

use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::panic::AssertUnwindSafe;
use std::process::{ExitCode, Termination};
use std::sync::Arc;
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use super::control_thread::{self, MainShutdown, SignalOwner};
use super::daemon::Daemon;
use super::environment;
use super::handoff::HandoffRegistry;
use super::panics;
use super::state::SharedState;
use crate::config::Configuration;
use crate::counters::{Counters, StartupStage};
use crate::error::{Error, ErrorKind, Result};
use crate::failpoint::{self, Step};
use crate::link::{self, FromWorker, ListenerHandle, MAX_REASON, Protocols, ToWorker};
#[cfg(feature = "log")]
use crate::logs;
use crate::logs::DaemonLog;
use crate::privileges;
use crate::reattach::worker::ReattachSocket;
use crate::spec::{Flavor, Spec};
use crate::sys::descriptors;
use crate::sys::privileges::Account;

/// How long the threads of the runtime may take to drop their tasks. A blocking task may never end,
/// and the exit of the worker must not wait for it.
const RUNTIME_SHUTDOWN_TIMEOUT: Duration = Duration::from_millis(500);

/// How often the number of live tasks is read, a millisecond apart: the runtime removes a task from
/// its list a moment after it dropped it, and a task that has ended must not be reported as
/// dropped.
const MAX_LOOKS: u32 = 50;

/// The exit code after a panic of `main`, the same as that of the standard library.
const PANICKED: u8 = 101;

/// A worker that has its settings and sockets and is about to call `main`.
pub(crate) struct WorkerRuntime {
    state: Arc<SharedState>,
    duty: SignalOwner,
    reattach_socket: Option<ReattachSocket>,
}

/// The parts that a worker receives: by *welcome* from its supervisor, or in a solo daemon from the image
/// that executed this one.
pub(crate) struct WorkerSetup {
    pub(crate) link: OwnedFd,
    pub(crate) generation: u32,
    pub(crate) configuration: Configuration,
    pub(crate) counters: OwnedFd,
    pub(crate) listeners: Vec<(ListenerHandle, OwnedFd)>,
    /// The socket at which the next supervisor re-attaches to this worker if its own is killed.
    pub(crate) reattach_socket: Option<OwnedFd>,
}

/// Sends *hello* to the supervisor and waits for *welcome*.
///
/// `load` reads the settings, for the first worker of a generation. `None` for a respawned worker, which
/// receives the settings of its generation and reads no file.
pub(crate) fn handshake(
    link: OwnedFd,
    load: Option<&dyn Fn() -> Result<Configuration>>,
) -> Result<WorkerRuntime> {
    let configuration = match load.map(|load| load()) {
        None => None,
        Some(Ok(configuration)) => Some(Box::new(configuration)),
        Some(Err(error)) => return Err(misconfigured(&link, error)?),
    };
    let release = env!("CARGO_PKG_VERSION").to_owned();
    let hello = FromWorker::Hello { protocol: Protocols::OURS, release, configuration };
    let introduced = failpoint::try_hit(Step::WorkerBeforeHello, 0)
        .and_then(|()| link::send(&link, &hello, &[]));
    match introduced {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
            let error = Error::config(format!(
                "the configuration is too large to be sent to the supervisor ({error}); move large \
                 values of section `app` to a file, and name that file"
            ));
            return Err(misconfigured(&link, error)?);
        }
        sent => sent.map_err(link_error)?,
    }
    let odd = |what: &str| Error::new(ErrorKind::Protocol, format!("the supervisor {what}"));
    let Some((message, fds)) = link::receive::<ToWorker>(&link).map_err(link_error)? else {
        return Err(odd("closed the link to this worker"));
    };
    let ToWorker::Welcome { generation, configuration, listeners: names, reattaches } = message
    else {
        return Err(odd("did not send settings first"));
    };
    failpoint::hit(Step::WorkerAfterWelcome, generation);
    let mut fds = fds.into_iter();
    let counters = fds.next().ok_or_else(|| odd("sent no counters"))?;
    if fds.len() != names.len() + usize::from(reattaches) {
        return Err(odd("sent a different number of listeners than it announced"));
    }
    let listeners = names.into_iter().zip(fds.by_ref()).collect();
    let (configuration, reattach_socket) = (*configuration, fds.next());
    let handover =
        WorkerSetup { link, generation, configuration, counters, listeners, reattach_socket };
    WorkerRuntime::new(handover, SignalOwner::Worker)
}

/// Sends an error of the configuration to the supervisor, truncated to [`MAX_REASON`], and returns it.
pub(crate) fn misconfigured(link: &OwnedFd, error: Error) -> Result<Error> {
    let mut reason = error.to_string();
    link::cut(&mut reason, MAX_REASON);
    link::send(link, &FromWorker::Misconfigured { reason }, &[]).map_err(link_error)?;
    Ok(error)
}

fn link_error(error: io::Error) -> Error {
    Error::io("cannot communicate with the supervisor", error)
}

impl WorkerRuntime {
    /// Prepares the process: maps the counters, drops privileges, sets the environment, installs the log
    /// subscriber and sizes the descriptor table.
    pub(crate) fn new(handover: WorkerSetup, duty: SignalOwner) -> Result<WorkerRuntime> {
        let WorkerSetup {
            link,
            generation,
            configuration,
            counters: shared,
            listeners,
            reattach_socket,
        } = handover;
        let counters = Counters::open(&shared)
            .map_err(|error| Error::io("cannot map the shared counters", error))?;
        let reattach_socket =
            reattach_socket.map(|socket| ReattachSocket::new(socket, shared)).transpose()?;
        counters.set_stage(StartupStage::Welcomed);
        let settled = privileges::apply(&configuration.settings).and_then(|(identity, login)| {
            environment::apply(&configuration, login.as_ref()).map(|()| identity)
        });
        match settled {
            Ok(None) => {}
            Ok(Some(Account { uid, gid, groups })) => {
                link::send(&link, &FromWorker::Settled { uid, gid, groups }, &[])
                    .map_err(link_error)?;
            }
            Err(error) => {
                // Fails if the supervisor is gone. The caller prints the error to stderr as well.
                let reason = error.to_string();
                let _ = link::send(&link, &FromWorker::Failing { reason }, &[]);
                return Err(error);
            }
        }
        #[cfg(feature = "log")]
        logs::subscriber::install(&configuration.settings, generation);
        // The process still has one thread: with several, growing the table waits for the kernel's RCU.
        if let Err(error) = descriptors::size_table(&link) {
            tracing::debug!(%error, "cannot grow the descriptor table in advance");
        }
        let state = SharedState::new(configuration, generation, counters, listeners, link)
            .map_err(|error| Error::io("cannot prepare the worker", error))?;
        Ok(WorkerRuntime { state: Arc::new(state), duty, reattach_socket })
    }

    pub(crate) fn state(&self) -> &Arc<SharedState> {
        &self.state
    }

    /// Runs an `async fn main` on a runtime of the flavor that the attribute declares, then waits for the end
    /// of the drain.
    pub(crate) fn run_async<F, Fut>(mut self, spec: &Spec, main: F) -> ExitCode
    where
        F: FnOnce(Daemon) -> Fut,
        Fut: Future,
        Fut::Output: Termination,
    {
        // Before the runtime: starting the control thread unblocks signals, and the runtime's threads inherit
        // the signal mask.
        if let Err(error) = self.start_control_thread(MainShutdown::Cancelled) {
            return self.fail(&error);
        }
        let state = &self.state;
        let built = build_runtime(spec).and_then(|runtime| {
            failpoint::try_hit(Step::WorkerRuntime, state.generation).map(|()| runtime)
        });
        let runtime = match built {
            Ok(runtime) => runtime,
            Err(error) => return self.fail(&Error::io("cannot build the Tokio runtime", error)),
        };
        panics::install_hook(state);
        state.mark_running();
        let daemon = Daemon { state: Arc::clone(state) };
        // A `main` without a `Daemon` argument does not learn of the drain, so it is dropped when the drain
        // begins; one with the argument has until the drain deadline.
        let abandoned = match spec.takes_daemon {
            true => state.forced.clone(),
            false => state.draining.clone(),
        };
        let ran = std::panic::catch_unwind(AssertUnwindSafe(|| {
            runtime.block_on(async {
                HandoffRegistry::open_on_runtime(state);
                if !state.configuration.settings.watchdog.is_zero() {
                    state.answer_pings();
                }
                tokio::select! {
                    output = main(daemon) => output.report(),
                    () = abandoned.cancelled() => ExitCode::SUCCESS,
                }
            })
        }));
        if state.main_ended() {
            let left = runtime.block_on(async {
                state.tasks.close();
                tokio::select! {
                    () = state.tasks.wait() => {}
                    () = state.forced.cancelled() => {}
                }
                count_leftover_tasks(state, runtime.handle()).await
            });
            state.counters.record_dropped_tasks(left);
        }
        runtime.shutdown_timeout(RUNTIME_SHUTDOWN_TIMEOUT);
        if state.forced.is_cancelled() {
            // Blocking tasks could not be cancelled: their connections count as forced when the process
            // exits.
            state.counters.mark_exiting();
        }
        state.disconnect();
        ran.unwrap_or(ExitCode::from(PANICKED))
    }

    /// Runs a `fn main` without async, then waits for the end of the drain.
    pub(crate) fn run_sync<F, T>(mut self, spec: &Spec, main: F) -> ExitCode
    where
        F: FnOnce(Daemon) -> T,
        T: Termination,
    {
        let ending =
            if spec.takes_daemon { MainShutdown::Returns } else { MainShutdown::Terminated };
        if let Err(error) = self.start_control_thread(ending) {
            return self.fail(&error);
        }
        let state = &self.state;
        panics::install_hook(state);
        state.mark_running();
        let daemon = Daemon { state: Arc::clone(state) };
        let ran = std::panic::catch_unwind(AssertUnwindSafe(|| main(daemon).report()));
        if state.main_ended() {
            // Threads that `main` did not join may still own connections. The control thread ends the process
            // at the drain deadline.
            state.tasks.close();
            block_on(state.tasks.wait());
        }
        state.disconnect();
        ran.unwrap_or(ExitCode::from(PANICKED))
    }

    fn start_control_thread(&mut self, ending: MainShutdown) -> Result<()> {
        control_thread::start(
            Arc::clone(&self.state),
            ending,
            self.duty,
            self.reattach_socket.take(),
        )
    }

    /// Reports to the supervisor why this worker cannot run `main`, and returns the exit code.
    fn fail(self, error: &Error) -> ExitCode {
        self.state.send(&FromWorker::Failing { reason: error.to_string() });
        DaemonLog::new(&self.state.configuration.settings, false).error(&error.to_string());
        self.state.disconnect();
        ExitCode::from(error.exit_code())
    }
}

/// Returns how many of the program's tasks of `tokio::spawn` are about to be dropped with the runtime.
async fn count_leftover_tasks(state: &SharedState, runtime: &tokio::runtime::Handle) -> u64 {
    let count = || {
        let alive = u64::try_from(runtime.metrics().num_alive_tasks()).unwrap_or(u64::MAX);
        let own = u64::try_from(state.own.len()).unwrap_or(u64::MAX);
        alive.saturating_sub(own).saturating_sub(state.counters.remaining().tasks)
    };
    for _ in 0..MAX_LOOKS {
        if count() == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    count()
}

/// Builds a Tokio runtime of the kind that the attribute declares.
pub(crate) fn build_runtime(spec: &Spec) -> io::Result<tokio::runtime::Runtime> {
    let mut builder = match spec.flavor {
        Flavor::CurrentThread => tokio::runtime::Builder::new_current_thread(),
        Flavor::MultiThread => tokio::runtime::Builder::new_multi_thread(),
    };
    if let Some(threads) = spec.worker_threads {
        builder.worker_threads(threads);
    }
    builder.enable_all().build()
}

/// Runs a future on the calling thread, without a runtime.
fn block_on(future: impl Future) {
    struct Unpark(std::thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = std::pin::pin!(future);
    while future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() {
        std::thread::park();
    }
}
