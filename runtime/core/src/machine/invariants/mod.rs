//! What always holds, whatever happens in whatever order.
//!
//! [`Watch`] stands between a machine and whoever drives it. It keeps its own account of workers and
//! clients, from events and actions, compares it with what the machine holds, and panics with the
//! history as soon as one of these is not true:
//!
//! **Service.** Once the first generation serves, somebody accepts: a worker that was told *go* or
//! *resume* and since then neither to *quiesce*, to *drain* nor killed. Only the worker's own end, its
//! leaving, its silence, the loss of its link or a stop can change that, and then a successor is on its
//! way. No two accept at once. *Quiesce* to the old and *go* to the new are neighbours, in this order.
//! An accepting worker is killed only if its link is lost, if it does not answer its watchdog, or if it
//! is unconfirmed and says that it is unhealthy or has not passed its checks in time. The daemon gives up only where nobody accepts.
//!
//! **Transitions.** There is at most one, and its worker is the only one that is neither committed,
//! draining nor killed. Generations are numbered 1, 2, 3, … A worker gets *go* once, after its
//! *welcome*. *Resume* goes to a quiesced worker, at most once, when the new one does not accept any
//! more, and the old one drains when the confirm window is over. The settings of a committed generation
//! stay. What an undone transition leaves is what it found: worker, settings, crashes, respawn. A
//! respawn is of the committed generation, never of one that was undone or retired, and is its only
//! worker that is not ending.
//!
//! **Known good.** The committed generation changes only when a transition to it is confirmed: its worker
//! accepts, and its window is over, it is content, or there is nothing to resume. A worker of a generation
//! that was undone is never respawned. What is gone back to was confirmed, and not gone back to before. The
//! path that a restart has given to the daemon changes only with it, to the one that was on trial.
//!
//! **Ends.** Every worker that starts, drains, is quiesced or lost its link has a time limit, known to
//! [`Machine::deadline`], and is killed once at its end. None whose link is lost is confirmed. A drain
//! is never extended. No more than `MAX_DRAINING` drain beside each other unforced; else only a stop at
//! once shortens drains, to `AT_ONCE_GRACE`. Each generation retires once, when it has no worker and
//! will have none. Told to stop, the machine exits once its last worker is gone, says so once and is
//! silent from then on. Its code is 0 only if somebody asked or the program was done.
//!
//! **Lame duck.** Told to stop while a worker accepts that has a lame duck, the daemon goes on as it was
//! for exactly that long: it stops at its end, and before only by a second signal, at once, or as nobody
//! accepts and nobody will. No restart begins meanwhile.
//!
//! **The ledger.** What a report says of connections is the sum of what the generation's workers said at
//! their ends. Connections that were lost with a worker are told of in the log, as is every end of a worker
//! that served or was quiesced and was not told to go. What happened to the old one within the confirm window
//! is in the report.
//!
//! **Clients.** Each is answered once, never after it hung up, at the latest with the exit. A restart
//! is reported as done when it is confirmed and the supervisor has had its own upgrade or has not, to
//! whoever waits when no worker of the old generation is left. Without a transition or an upgrade, nobody
//! waits but for such an end. What was asked for during an upgrade comes after it.
//!
//! **Changes.** What differs is announced, and nothing else: a confirmation before and after what follows
//! from it, everything shown of the daemon at the end of the list, with only the exit behind that. A worker
//! that drains is the last one if its daemon stops or its program is exclusive.
//!
//! **Time.** After a tick nothing is due: a driver that sleeps until the deadline never spins.

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

/// A machine under observation.
pub(super) struct Watch {
    pub(super) machine: Machine,
    pub(super) now: Instant,
    began: Instant,
    initial: Policy,
    /// Those alive, with what they were told.
    workers: BTreeMap<WorkerId, Seen>,
    last_worker: WorkerId,
    last_generation: Generation,
    confirmed: BTreeSet<Generation>,
    /// Whose image the supervisor is about to run.
    pub(super) upgrading: Option<Generation>,
    unretired: BTreeSet<Generation>,
    /// Unanswered, with whether they wait for the old worker's end.
    clients: BTreeMap<ClientId, bool>,
    up: bool,
    stopping: bool,
    /// Told to stop, and to accept until then.
    lame_duck: Option<Instant>,
    /// By somebody.
    asked_to_stop: bool,
    /// Told to stop at once, or twice by signal.
    pressed: Option<Instant>,
    /// Stopped on demand, or the program was done.
    success: bool,
    pub(super) exit: Option<(u8, Option<String>)>,
    /// The workers that transitions led to, with their generations.
    transitions: BTreeMap<WorkerId, Generation>,
    /// Those that were undone.
    undone: BTreeSet<Generation>,
    /// Those that were started from an image known to be good.
    from_good: BTreeSet<Generation>,
    /// What the workers of a generation said at their ends.
    ledgers: BTreeMap<Generation, Ledger>,
    /// Transitions during whose window the old worker ended, by the generation that they led to.
    bereft: BTreeSet<Generation>,
    /// The transition in which the old worker was told to resume last.
    resumed: Option<Generation>,
    history: Vec<(Instant, Event, Vec<Action>)>,
}

#[derive(Debug, Clone)]
struct Seen {
    generation: Generation,
    source: ImageSource,
    policy: Policy,
    told: Told,
    /// In its first hello.
    said: Option<Policy>,
    welcomed: bool,
    leaving: bool,
    /// To be ready, to be confirmed or to have drained.
    limit: Instant,
    terminated: Option<Instant>,
    /// Has to answer its watchdog by then.
    asked: Option<Instant>,
    /// Drains because it did not.
    hung: bool,
    checks: u32,
    /// Needs no confirm window.
    content: bool,
    lost: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Start,
    Accept,
    Quiesce,
    Drain,
    Die,
}

/// Of the committed generation, what a restart that fails must not touch.
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
            undone: BTreeSet::new(),
            from_good: BTreeSet::new(),
            ledgers: BTreeMap::new(),
            bereft: BTreeSet::new(),
            resumed: None,
            history: Vec::new(),
        }
    }

    /// Passes one event on, and looks at what comes of it.
    pub(super) fn on(&mut self, event: Event) -> Vec<Action> {
        let accepted = self.accepting();
        let kept = self.kept();
        let transition = self.transition();
        if let Some((last, ..)) = self.history.last() {
            holds!(self, *last <= self.now, "time runs backwards: the test is wrong");
        }
        let ended = self.ended(&event);
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
            self.check_end(&event, accepted);
        }
        for (index, action) in actions.iter().enumerate() {
            let before = index.checked_sub(1).and_then(|index| actions.get(index));
            self.see(&event, before, action, actions.get(index + 1));
        }
        holds!(self, self.stopping == stops, "it does not say that it stops");
        self.check_changes(&event, &shown, &actions);
        self.check_drains(&actions);
        if self.exit.is_some() {
            holds!(self, self.machine.deadline().is_none(), "a deadline after the exit");
            return actions;
        }

        self.check_lame_duck(&event);
        self.note_undone(transition);
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
                    worker.said.get_or_insert(*policy);
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
            _ => {}
        }
    }

    pub(super) fn accepting(&self) -> Option<WorkerId> {
        self.workers.iter().find(|(_, worker)| worker.told == Told::Accept).map(|(id, _)| *id)
    }

    /// How long the worker that accepts goes on when the daemon is told to stop.
    fn lame_duck_of(&self) -> Option<Duration> {
        let worker = self.accepting().and_then(|id| self.workers.get(&id))?;
        Some(worker.policy.lame_duck).filter(|length| !length.is_zero())
    }

    /// Whether generations must not run beside each other, of which stories alone tell.
    fn exclusive(&self) -> bool {
        self.initial.exclusive
    }

    pub(super) fn last_worker(&self) -> WorkerId {
        self.last_worker
    }

    /// Who is killed and not yet reaped.
    pub(super) fn killed(&self) -> Option<WorkerId> {
        self.workers.iter().find(|(_, worker)| worker.told == Told::Die).map(|(id, _)| *id)
    }

    fn living(&self, id: WorkerId) -> Seen {
        match self.workers.get(&id) {
            Some(worker) if worker.told == Told::Die => {
                self.fail(&format!("an action for the killed worker {id}"))
            }
            Some(worker) => worker.clone(),
            None => self.fail(&format!("an action for worker {id}, which is not there")),
        }
    }

    fn alive(&self, generation: Generation) -> usize {
        self.workers.values().filter(|worker| worker.generation == generation).count()
    }

    fn transition(&self) -> Option<WorkerId> {
        self.machine.life.transition().map(|transition| transition.worker)
    }

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

    pub(super) fn fail(&self, what: &str) -> ! {
        let skipped = self.history.len().saturating_sub(100);
        panic!("{what}\n{:?}\n{}", self.initial, self.told(skipped));
    }

    /// What was heard, and what was said to that.
    pub(super) fn steps(&self) -> impl Iterator<Item = (&Event, &[Action])> {
        self.history.iter().map(|(_, event, actions)| (event, actions.as_slice()))
    }

    /// The whole history, in times from its beginning.
    pub(super) fn transcript(&self) -> String {
        self.told(0)
    }

    fn told(&self, skipped: usize) -> String {
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
