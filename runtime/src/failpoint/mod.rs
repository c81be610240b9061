//! Steps of the protocol at which a test can kill, stop, fail or delay the process, by name.
//!
//! Without the feature `failpoints`, which only this project's own tests switch on, the functions here
//! are empty and the table does not exist. With it `UNBROKEN_FAILPOINTS` is either a list, such as
//! `worker.before-ready=kill;supervisor.before-welcome@2=delay(50ms)`, or the path of a file that holds
//! one. What a list says happens every time. A file may be put there at any time, and is good for one
//! time in all processes: whoever gets there first renames it to `<path>.hit.<pid>` and then acts.
//!
//! An entry is `step[@generation][#time]=action`: from this generation on, and only the so many-th time
//! that one process gets there. The actions are `kill` (SIGKILL to itself), `stop` (SIGSTOP to itself,
//! until somebody continues it), `error` (the step fails as its system call could), `delay(duration)`,
//! `panic`, `overflow` (of the stack) and `signal(number)`, which it raises.

use std::io;

#[cfg(feature = "failpoints")]
mod armed;
#[cfg(feature = "failpoints")]
pub use self::armed::{Point, VARIABLE, points};

/// Makes the enumeration, which is all that the code can name, and the table, which is all that the
/// tests go through.
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
    /// A worker has said that it is ready.
    SupervisorReady "supervisor.ready-received";
    /// The old worker was told to quiesce, and the new one is about to be told to go.
    SupervisorBetween "supervisor.between-quiesce-and-go" PIPE;
    /// The new worker was told to go.
    SupervisorAfterGo "supervisor.after-go";
    /// It is decided that the new generation is confirmed, and nobody knows yet.
    SupervisorBeforeConfirm "supervisor.before-confirm";
    /// Everybody was told that the new generation is confirmed.
    SupervisorAfterConfirm "supervisor.after-confirm";
    /// The channel by which connections are passed is about to be opened.
    SupervisorBeforeConnect "supervisor.before-connect" MFILE;
    /// The old worker is about to be told to drain.
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
    /// The worker is about to say that it is ready.
    WorkerBeforeReady "worker.before-ready" PIPE;
    /// The worker was told to go.
    WorkerGo "worker.go";
    /// The worker was told to quiesce.
    WorkerQuiesce "worker.quiesce";
    /// The worker was told to resume.
    WorkerResume "worker.resume";
    /// The worker was told to drain.
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
    /// Connections were taken, which the older generation was told, and are not yet served.
    WorkerHandoffAnswered "worker.handoff-answered";
    /// The worker has done all it had to and is about to exit.
    WorkerBeforeExit "worker.before-exit";
}

/// This process is at a step. `generation`: of the worker it is about, 0 where it is about none.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub(crate) fn hit(_: Step, _: u32) {}

/// As [`reach`], at a step that can fail.
///
/// # Errors
/// Only where a test wants it.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
#[allow(clippy::unnecessary_wraps, reason = "with the feature it may fail")]
pub(crate) fn try_hit(_: Step, _: u32) -> io::Result<()> {
    Ok(())
}

/// Notes whose connection this process has now.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub(crate) fn note_peer(_: &impl std::os::fd::AsFd) {}

#[cfg(feature = "failpoints")]
pub(crate) fn hit(step: Step, generation: u32) {
    // What cannot fail is not asked to by a table that says so.
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
