//! Fail points: named steps of the protocol at which a test can kill, stop, fail or delay the process.
//!
//! Without the feature `failpoints`, which only the tests of this project enable, the functions here are
//! empty and the table does not exist. With it, `UNBROKEN_FAILPOINTS` is either a list of entries, such as
//! `worker.before-ready=kill;supervisor.before-welcome@2=delay(50ms)`, or the path of a file that holds one.
//! The entries of a list apply every time. A file may be created at any time, and applies once in all
//! processes: the first process that reaches one of its steps renames it to `<path>.hit.<pid>` and then acts.
//!
//! An entry is `step[@generation][#time]=action`. It applies from this generation on, and with `#3` only the
//! third time that the process reaches the step. The actions are `kill` (SIGKILL to itself), `stop` (SIGSTOP
//! to itself, until the test sends SIGCONT), `error` (the step fails as its system call could),
//! `delay(duration)`, `panic`, `overflow` (of the stack) and `signal(number)` (raises that signal).

use std::io;

#[cfg(feature = "failpoints")]
mod armed;
#[cfg(feature = "failpoints")]
pub use self::armed::{Point, VARIABLE, points};

/// Defines the enumeration of steps, for the code, and the table of the same steps, for the tests: neither
/// can have a step that the other lacks.
macro_rules! steps {
    ($(#[doc = $what:literal] $(#[cfg_attr($($attribute:tt)*)])? $step:ident $name:literal $($errno:ident)?;)*) => {
        /// A step of the protocol.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Step {
            $(#[doc = $what] $(#[cfg_attr($($attribute)*)])? $step,)*
        }

        #[cfg(feature = "failpoints")]
        const TABLE: &[Point] = &[$(Point {
            name: $name,
            what: $what.trim_ascii(),
            errno: &[$(rustix::io::Errno::$errno.raw_os_error())?],
        },)*];
    };
}

steps! {
    /// A client has asked for a restart or a stop.
    SupervisorRequest "supervisor.request-received";
    /// The image on disk is about to be opened.
    SupervisorBeforeOpen "supervisor.before-open" NOENT;
    /// The image is open.
    SupervisorAfterOpen "supervisor.after-open";
    /// A worker is about to be forked.
    SupervisorBeforeFork "supervisor.before-fork" AGAIN;
    /// The worker is forked.
    SupervisorAfterFork "supervisor.after-fork";
    /// The forked child is about to exec.
    SupervisorBeforeExec "supervisor.before-exec" NOEXEC;
    /// A hello was read.
    SupervisorHello "supervisor.hello-received";
    /// A listener that is new is about to be bound.
    SupervisorBeforeBind "supervisor.before-bind" ADDRINUSE;
    /// The welcome is about to be sent.
    SupervisorBeforeWelcome "supervisor.before-welcome" PIPE;
    /// The welcome is sent.
    SupervisorAfterWelcome "supervisor.after-welcome";
    /// A worker's *ready* was read.
    SupervisorReady "supervisor.ready-received";
    /// *Quiesce* was sent to the old worker, and *go* is about to be sent to the new one.
    SupervisorBetween "supervisor.between-quiesce-and-go" PIPE;
    /// *Go* was sent to the new worker.
    SupervisorAfterGo "supervisor.after-go";
    /// The new generation is confirmed, and no process was notified yet.
    SupervisorBeforeConfirm "supervisor.before-confirm";
    /// The confirmation of the new generation was reported everywhere.
    SupervisorAfterConfirm "supervisor.after-confirm";
    /// The handoff channel is about to be opened.
    SupervisorBeforeConnect "supervisor.before-connect" MFILE;
    /// *Drain* is about to be sent to the old worker.
    SupervisorBeforeDrain "supervisor.before-drain" PIPE;
    /// A worker has ended and is about to be reaped.
    SupervisorBeforeReap "supervisor.before-reap" INTR;
    /// A worker was reaped.
    SupervisorAfterReap "supervisor.after-reap";
    /// A child is about to be forked that rehearses the upgrade.
    SupervisorBeforeRehearsal "supervisor.before-rehearsal" AGAIN;
    /// The new image rehearses the upgrade.
    SupervisorInRehearsal "supervisor.in-rehearsal" IO;
    /// The supervisor is about to become the new image.
    SupervisorBeforeUpgrade "supervisor.before-upgrade" NOEXEC;
    /// The supervisor is the new image, and has nothing yet.
    SupervisorInTakeover "supervisor.in-takeover" MFILE;
    /// The new image has everything, and may still go back.
    SupervisorAfterTakeover "supervisor.after-takeover" IO;
    /// A client is about to be given its answer.
    SupervisorBeforeAnswer "supervisor.before-answer";
    /// The daemon stops, and its listeners are about to be closed.
    SupervisorBeforeClose "supervisor.before-closing-listeners";
    /// The daemon has stopped, and its pidfile is about to be removed.
    SupervisorBeforeUnlock "supervisor.before-removing-pidfile";
    /// The worker is about to introduce itself.
    WorkerBeforeHello "worker.before-hello" PIPE;
    /// The worker was welcomed.
    WorkerAfterWelcome "worker.after-welcome";
    /// The runtime is built.
    WorkerRuntime "worker.runtime-built" MFILE;
    /// The worker is about to send *ready*.
    WorkerBeforeReady "worker.before-ready" PIPE;
    /// The worker has received *go*.
    WorkerGo "worker.go";
    /// The worker has received *quiesce*.
    WorkerQuiesce "worker.quiesce";
    /// The worker has received *resume*.
    WorkerResume "worker.resume";
    /// The worker has received *drain*.
    WorkerDrain "worker.drain";
    /// A connection is about to be accepted.
    WorkerBeforeAccept "worker.before-accept" MFILE;
    /// A connection was accepted.
    WorkerAfterAccept "worker.after-accept";
    /// A request is in flight.
    #[cfg_attr(not(feature = "http"), expect(dead_code, reason = "a request is HTTP's"))]
    WorkerRequest "worker.in-request";
    /// Connections are about to be handed off.
    WorkerBeforeHandoff "worker.before-handoff" PIPE;
    /// Connections were sent and not yet answered for.
    WorkerAfterHandoff "worker.after-handoff";
    /// Connections have come from an older generation and were not yet answered for.
    WorkerHandoffReceived "worker.handoff-received" CONNRESET;
    /// Connections were taken and acknowledged to the older generation, and are not yet served.
    WorkerHandoffAnswered "worker.handoff-answered";
    /// The worker has done all it had to and is about to exit.
    WorkerBeforeExit "worker.before-exit";
}

/// Marks that this process has reached a step. `generation` is that of the worker concerned, or 0 if there is
/// none.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub(crate) fn hit(_: Step, _: u32) {}

/// Like [`hit`], for a step that can fail.
///
/// # Errors
/// Only if a test asked for it.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
#[allow(clippy::unnecessary_wraps, reason = "with the feature it may fail")]
pub(crate) fn try_hit(_: Step, _: u32) -> io::Result<()> {
    Ok(())
}

/// Records for a test that this process now has the connection of the socket's peer.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub(crate) fn note_peer(_: &impl std::os::fd::AsFd) {}

#[cfg(feature = "failpoints")]
pub(crate) fn hit(step: Step, generation: u32) {
    // Always `Ok`: a step without an error in the table refuses `error` when the entry is parsed.
    let _ = armed::act(step, generation);
}

#[cfg(feature = "failpoints")]
pub(crate) fn try_hit(step: Step, generation: u32) -> io::Result<()> {
    armed::act(step, generation)
}

#[cfg(feature = "failpoints")]
pub(crate) fn note_peer(socket: &impl std::os::fd::AsFd) {
    armed::note_peer(socket);
}
