//! The invariants of the machine: what holds whatever happens in whatever order.
//!
//! [`Watch`] sits between a machine and what drives it, a scenario or a random history. From the events and
//! actions that pass it keeps a model of its own of workers, generations and clients. After each event it
//! compares the machine with this model and panics with the whole history if one of the rules below is
//! broken.
//!
//! # Service
//!
//! - A worker *accepts* from its *go* or *resume* until it gets *quiesce*, *drain* or SIGKILL. At most one
//!   worker accepts at any time.
//! - Once the first generation serves, a worker accepts, until the daemon stops. Exceptions are an accepting
//!   worker that ends, drains on its own, hangs, loses its link or has its restart aborted, and exclusive
//!   generations. Then the next worker is starting, or it is certain when it will.
//! - In a commit, *quiesce* to the old worker is directly followed by *go* to the new one.
//! - An accepting worker is killed only if its link is lost, if it hangs, if it is unconfirmed and reports
//!   itself unhealthy or does not pass its checks in time, or if the daemon is stopped at once.
//! - The daemon ends by itself only when no worker accepts.
//!
//! # Transitions
//!
//! - There is at most one transition. Its worker and that of the committed generation are the only ones that
//!   are neither draining nor killed.
//! - Generations are numbered 1, 2, 3, …
//! - A worker gets *go* at most once, after its *welcome*.
//! - Only a paused worker gets *resume*, at most once in a transition and only when the new worker no longer
//!   accepts. Without a *resume* it drains when the confirm window is over.
//! - The settings of a committed generation never change.
//! - An aborted transition leaves the committed generation as it was: worker, settings, crashes, respawn.
//! - Only the committed generation is respawned, and only when it has no worker except draining and killed
//!   ones.
//!
//! # Known-good images
//!
//! - The committed generation changes only when a transition to the new one is confirmed: its worker accepts,
//!   has passed its checks and, if there is an old worker to resume, the confirm window is over or the
//!   program asked to be confirmed early.
//! - A generation whose transition was aborted is never respawned.
//! - A rollback goes to a generation that was confirmed before the failing one, and never from one that is
//!   itself the result of a rollback.
//! - The path of the image changes only together with the committed generation, to the path on trial.
//!
//! # Ends
//!
//! **Changes.** What differs is announced, and nothing else: a confirmation before and after what follows
//! from it, everything shown of the daemon at the end of the list, with only the exit behind that. A worker
//! that drains is the last one if its daemon stops or its program is exclusive.
//!
//! - Every worker that starts, drains, is paused or lost its link has a time limit. [`Machine::deadline`] is
//!   never later, and a worker that exceeds its limit is killed, once.
//! - A worker whose link is lost is never confirmed.
//! - A drain deadline is never extended. It is shortened only for the oldest of more than `MAX_DRAINING`
//!   workers, and by a stop at once, after which `AT_ONCE_GRACE` is left.
//! - Each generation is released once, when it has no workers and will get none.
//! - A daemon that stops exits when its last worker has ended, and returns no action after that. Its exit
//!   code is 0 only if the stop was requested or the program was done.
//!
//! # Orphans
//!
//! - Orphans drain as soon as the first generation serves, when a stop that was asked for begins or is
//!   hastened, and before an exclusive generation begins, which waits for their end. Otherwise they are left
//!   alone, also by a daemon that ends because its start failed.
//! - Orphans that drain are killed `kill_timeout` after the earliest of their drain deadlines, and again if
//!   they do not end. The daemon does not exit before their end.
//!
//! # Lame duck
//!
//! - A daemon that is asked to stop while a worker with a `lame_duck` accepts goes on for exactly that time.
//!   The stop begins earlier only by a second signal, by a stop at once, or when no worker accepts.
//! - No restart begins during this time.
//!
//! # Ledgers
//!
//! - The ledger in a report is the sum of what the generation's workers reported at their ends.
//! - The log mentions all connections that were lost with a worker, and each end of a worker that served or
//!   was paused and had no command to drain.
//! - The report of a restart contains an end of the old worker within the confirm window.
//!
//! # Clients
//!
//! - Each client gets exactly one answer, at the latest just before the exit; one that disconnected gets
//!   none.
//! - A restart is reported as done only when it is confirmed and the upgrade of the supervisor is over,
//!   successful or not; to clients that wait for the drain, only when the old generation has no workers.
//! - While there is no transition, upgrade or stop, each client without an answer waits for a worker of an
//!   older or aborted generation to end.
//! - A restart requested during an upgrade begins after it.
//!
//! # Time
//!
//! - After a tick nothing is due: a driver that sleeps until the deadline never spins.

/// Fails the test with the history and this message unless the condition holds.
macro_rules! holds {
    ($watch:expr, $condition:expr, $($text:tt)+) => {
        if !$condition {
            $watch.fail(&format!($($text)+));
        }
    };
}

mod actions;
mod between;
mod changes;
mod known_good;
mod ledger;
mod orphans;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write as _;
use std::time::Duration;

use crate::Instant;

use super::timers::Timer;
use super::{Machine, State};
use crate::Ledger;
use crate::event::{Action, ClientId, Event, Generation, ImageSource, WorkerCommand, WorkerId};
use crate::policy::Policy;

/// When every history begins.
const START: Instant = Instant::from_nanos(1_000_000_000_000_000);

/// A machine under observation, and the model that it is compared with.
pub(super) struct Watch {
    pub(super) machine: Machine,
    /// The time of the next event.
    pub(super) now: Instant,
    /// The time at which the history begins.
    began: Instant,
    initial: Policy,
    /// The orphans that have not ended.
    orphans: Option<SeenOrphans>,
    /// The workers that have not ended.
    workers: BTreeMap<WorkerId, Seen>,
    last_worker: WorkerId,
    last_generation: Generation,
    /// All generations that were ever confirmed.
    confirmed: BTreeSet<Generation>,
    /// The generation whose image the supervisor is about to run.
    pub(super) upgrading: Option<Generation>,
    /// The generations that are not released yet.
    unretired: BTreeSet<Generation>,
    /// The clients without an answer, and whether each waits for the old generation to drain.
    clients: BTreeMap<ClientId, bool>,
    /// Whether the first generation has served.
    up: bool,
    /// Whether the machine has begun to stop.
    stopping: bool,
    /// The end of the lame-duck phase.
    lame_duck: Option<Instant>,
    /// Whether a client or a signal asked the daemon to stop.
    asked_to_stop: bool,
    /// When the daemon was asked to stop at once, or by a second signal.
    pressed: Option<Instant>,
    /// Whether exit code 0 is right: the stop was requested, or the program was done.
    success: bool,
    /// The exit code and reason of [`Action::Exit`].
    pub(super) exit: Option<(u8, Option<String>)>,
    /// The first workers of new generations, until their transitions end.
    transitions: BTreeMap<WorkerId, Generation>,
    /// The generations whose transitions ended without a confirmation.
    aborted: BTreeSet<Generation>,
    /// The generations that were started by a rollback.
    from_good: BTreeSet<Generation>,
    /// The sum of the ledgers that the workers of each generation reported at their ends.
    ledgers: BTreeMap<Generation, Ledger>,
    /// The new generations in whose confirm windows the old worker ended.
    bereft: BTreeSet<Generation>,
    /// The new generation of the last transition that ended with a *resume*.
    resumed: Option<Generation>,
    /// All events so far, with their times and the actions that they led to.
    history: Vec<(Instant, Event, Vec<Action>)>,
}

/// The model of one worker.
#[derive(Debug, Clone)]
struct Seen {
    generation: Generation,
    source: ImageSource,
    policy: Policy,
    command: LastCommand,
    /// The policy in its first *hello*.
    hello_policy: Option<Policy>,
    welcomed: bool,
    /// Whether it reported that it drains on its own.
    leaving: bool,
    /// When it must be ready, confirmed or drained, whichever comes next.
    limit: Instant,
    /// When it got SIGTERM.
    terminated: Option<Instant>,
    /// When it must have answered the *ping* of its watchdog.
    asked: Option<Instant>,
    /// Whether it drains because it did not answer its watchdog.
    hung: bool,
    /// The number of its health checks that began and have not passed.
    checks: u32,
    /// Whether it asked to be confirmed early.
    content: bool,
    /// When its link was lost.
    lost: Option<Instant>,
}

/// The model of the orphans.
#[derive(Debug, Clone, Copy)]
struct SeenOrphans {
    exclusive: bool,
    /// When they must be gone, once they drain.
    limit: Option<Instant>,
    killed: bool,
}

/// The last command that a worker received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LastCommand {
    Start,
    /// By *go* or *resume*.
    Accept,
    Quiesce,
    Drain,
    /// By SIGKILL.
    Die,
}

/// The part of the committed generation that an aborted restart must not change.
#[derive(Debug, Clone, PartialEq)]
struct Kept {
    generation: Generation,
    policy: Policy,
    worker: Option<WorkerId>,
    crashes: VecDeque<Instant>,
    respawn_at: Option<Instant>,
    exhausted: bool,
}

impl Watch {
    pub(super) fn new(initial: Policy) -> Watch {
        let now = START;
        Watch {
            machine: Machine::new(initial),
            now,
            began: now,
            initial,
            orphans: None,
            workers: BTreeMap::new(),
            last_worker: 0,
            last_generation: 0,
            confirmed: BTreeSet::new(),
            upgrading: None,
            unretired: BTreeSet::new(),
            clients: BTreeMap::new(),
            up: false,
            stopping: false,
            lame_duck: None,
            asked_to_stop: false,
            pressed: None,
            success: false,
            exit: None,
            transitions: BTreeMap::new(),
            aborted: BTreeSet::new(),
            from_good: BTreeSet::new(),
            ledgers: BTreeMap::new(),
            bereft: BTreeSet::new(),
            resumed: None,
            history: Vec::new(),
        }
    }

    /// Re-attaches orphans of `generation`, before the first event.
    pub(super) fn with_orphans(self, generation: Generation, exclusive: bool) -> Watch {
        let orphans = Some(SeenOrphans { exclusive, limit: None, killed: false });
        let machine = self.machine.with_orphans(generation, exclusive);
        Watch { machine, orphans, last_generation: generation, ..self }
    }

    /// Passes one event to the machine and checks all rules against the actions and the new state.
    pub(super) fn on(&mut self, event: Event) -> Vec<Action> {
        let accepted = self.accepting();
        let kept = self.kept();
        let transition = self.transition();
        if let Some((last, ..)) = self.history.last() {
            holds!(self, *last <= self.now, "time runs backwards: the test is wrong");
        }
        let ended = self.ended(&event);
        let ended_well = self.ended_well(&event);
        self.hear(&event);
        let exe = self.machine.exe.clone();
        let shown = self.machine.shown();
        let actions = self.machine.on(event.clone(), self.now);
        self.history.push((self.now, event.clone(), actions.clone()));
        if self.exit.is_some() {
            holds!(self, actions.is_empty(), "it acts after its exit");
            return actions;
        }
        if let Some(current) = &self.machine.current
            && self.confirmed.insert(current.generation)
            && let Some(worker) = transition.and_then(|id| self.workers.get(&id))
        {
            holds!(self, worker.lost.is_none(), "confirmed, though its link is lost: {worker:?}");
        }
        self.check_told(ended, &actions);
        self.check_known_good(&event, kept.as_ref(), transition);
        self.check_exe(&event, &exe, kept.as_ref());
        let stops = self.machine.state() == State::Stopping;
        if stops && !self.stopping {
            self.check_end(&event, accepted, ended_well);
        }
        for (index, action) in actions.iter().enumerate() {
            let before = index.checked_sub(1).and_then(|index| actions.get(index));
            self.see(&event, before, action, actions.get(index + 1));
        }
        holds!(self, self.stopping == stops, "it does not say that it stops");
        self.check_changes(&shown, &actions);
        self.check_drains(&actions);
        self.check_orphans(&event, &actions);
        if self.exit.is_some() {
            holds!(self, self.machine.deadline().is_none(), "a deadline after the exit");
            return actions;
        }

        self.check_lame_duck(&event);
        self.note_aborted(transition);
        self.check_service(&event, accepted);
        self.check_transition();
        if let (Some(before), Some(after)) = (&kept, self.kept()) {
            let same = before.generation != after.generation || before.policy == after.policy;
            holds!(self, same, "the settings of a committed generation change");
        }
        if let (Some(old), Some(kept)) = (transition, kept)
            && self.transition() != Some(old)
            && !self.stopping
        {
            self.check_abort(&actions, kept);
        }
        self.check_generations();
        self.check_clients();
        self.check_time(&event);
        actions
    }

    /// Updates the model by an event, before the machine gets it.
    fn hear(&mut self, event: &Event) {
        if self.exit.is_some() {
            return;
        }
        match event {
            Event::SpawnFailed { worker, .. } | Event::Exited { worker, .. } => {
                self.workers.remove(worker);
            }
            Event::Hello { worker, policy } => {
                if let Some(worker) = self.workers.get_mut(worker) {
                    worker.hello_policy.get_or_insert(*policy);
                }
            }
            Event::SelfDraining { worker, .. } => {
                if let Some(worker) = self.workers.get_mut(worker) {
                    worker.leaving = true;
                }
            }
            Event::LinkLost { worker, .. } => {
                if let Some(worker) = self.workers.get_mut(worker) {
                    worker.lost.get_or_insert(self.now);
                }
            }
            Event::Pong { worker } => {
                if let Some(worker) = self.workers.get_mut(worker) {
                    worker.asked = None;
                }
            }
            Event::ConfirmEarly { worker } => {
                if let Some(worker) = self.workers.get_mut(worker) {
                    worker.content = true;
                }
            }
            Event::HealthCheck { worker, passed } => {
                if let Some(worker) = self.workers.get_mut(worker) {
                    match passed {
                        true => worker.checks = worker.checks.saturating_sub(1),
                        false => worker.checks += 1,
                    }
                }
            }
            Event::Restart { client: Some(client), wait }
            | Event::RestartFrom { client: Some(client), wait, .. } => {
                self.clients.insert(*client, *wait);
            }
            Event::Stop { client, at_once } => {
                self.clients.extend(client.map(|client| (client, true)));
                if *at_once || (client.is_none() && self.asked_to_stop) {
                    self.pressed.get_or_insert(self.now);
                } else if !self.asked_to_stop && !self.stopping {
                    self.lame_duck = self.lame_duck_of().map(|length| self.now + length);
                }
                self.asked_to_stop = true;
            }
            Event::ClientGone { client } => {
                self.clients.remove(client);
            }
            Event::UpgradeFinished { .. } => self.upgrading = None,
            Event::OrphansGone => self.orphans = None,
            _ => {}
        }
    }

    /// Returns the worker that accepts.
    pub(super) fn accepting(&self) -> Option<WorkerId> {
        self.workers
            .iter()
            .find(|(_, worker)| worker.command == LastCommand::Accept)
            .map(|(id, _)| *id)
    }

    /// Returns the lame-duck time of the worker that accepts, if it has one.
    fn lame_duck_of(&self) -> Option<Duration> {
        let worker = self.accepting().and_then(|id| self.workers.get(&id))?;
        Some(worker.policy.lame_duck).filter(|length| !length.is_zero())
    }

    /// Returns whether generations are exclusive. A history has this the same in all its policies.
    fn exclusive(&self) -> bool {
        self.initial.exclusive
    }

    pub(super) fn last_worker(&self) -> WorkerId {
        self.last_worker
    }

    /// Returns a worker that was killed and is not reaped yet.
    pub(super) fn killed(&self) -> Option<WorkerId> {
        self.workers
            .iter()
            .find(|(_, worker)| worker.command == LastCommand::Die)
            .map(|(id, _)| *id)
    }

    /// Returns the model of a worker that may get commands; fails if it has ended or was killed.
    fn living(&self, id: WorkerId) -> Seen {
        match self.workers.get(&id) {
            Some(worker) if worker.command == LastCommand::Die => {
                self.fail(&format!("an action for the killed worker {id}"))
            }
            Some(worker) => worker.clone(),
            None => self.fail(&format!("an action for worker {id}, which is not there")),
        }
    }

    /// Returns the number of workers that a generation has.
    fn alive(&self, generation: Generation) -> usize {
        self.workers.values().filter(|worker| worker.generation == generation).count()
    }

    /// Returns the worker of the machine's transition.
    fn transition(&self) -> Option<WorkerId> {
        self.machine.life.transition().map(|transition| transition.worker)
    }

    /// Returns the state of the machine's committed generation.
    fn kept(&self) -> Option<Kept> {
        self.machine.current.as_ref().map(|current| Kept {
            generation: current.generation,
            policy: current.policy,
            worker: current.worker,
            crashes: current.crashes.clone(),
            respawn_at: self.machine.timers.get(Timer::Respawn),
            exhausted: current.exhausted.is_some(),
        })
    }

    pub(super) fn advance(&mut self, by: Duration) {
        self.now += by;
    }

    /// Fails the test with a message and the last 100 events.
    pub(super) fn fail(&self, what: &str) -> ! {
        let skipped = self.history.len().saturating_sub(100);
        panic!("{what}\n{:?}\n{}", self.initial, self.transcript_from(skipped));
    }

    /// Returns all events of the history, each with the actions that it led to.
    pub(super) fn steps(&self) -> impl Iterator<Item = (&Event, &[Action])> {
        self.history.iter().map(|(_, event, actions)| (event, actions.as_slice()))
    }

    /// Returns the whole history as text, with times from its beginning.
    pub(super) fn transcript(&self) -> String {
        self.transcript_from(0)
    }

    /// Returns the history as text without its first `skipped` events.
    fn transcript_from(&self, skipped: usize) -> String {
        let mut text = String::new();
        for (at, event, actions) in self.history.iter().skip(skipped) {
            let _ = writeln!(text, "{:>8?} {event:?}", at.saturating_duration_since(self.began));
            for action in actions {
                let _ = match action {
                    Action::SendToWorker {
                        worker,
                        command: WorkerCommand::Drain { deadline, last, .. },
                    } => writeln!(
                        text,
                        "         -> drain {worker} until {:?}, last: {last}",
                        deadline.saturating_duration_since(self.began)
                    ),
                    action => writeln!(text, "         -> {action:?}"),
                };
            }
        }
        text
    }
}
