//! A simulated host: it carries out the machine's actions, but its workers crash, hang and break the
//! protocol.

use crate::Instant;
use std::collections::BTreeMap;

use super::*;
use crate::event::{Action, WorkerCommand, WorkerId};

/// The behaviour of a worker process, drawn when it is spawned. Numbers are milliseconds.
#[derive(Debug, Clone)]
pub(super) struct Nature {
    /// Until it is ready.
    pub(super) start: Start,
    /// From *go* on.
    pub(super) life: Life,
    /// From *drain* on.
    pub(super) end: End,
    /// The time from SIGKILL to its end.
    pub(super) dies_after: u64,
    /// The time from a *ping* to its answer; `None` for no answer.
    pub(super) answers_after: Option<u64>,
}

/// How a worker starts. Numbers are the milliseconds from each step to the next.
#[derive(Debug, Clone)]
pub(super) enum Start {
    /// The spawn fails.
    Impossible,
    /// Its *hello* is rejected.
    Refused(u64),
    /// It sends nothing.
    Silent,
    /// It sends *hello* and is never ready.
    Mute(u64),
    /// It ends without a *hello*.
    Crash(u64, Exit),
    /// It sends *hello*, then reports a failure and ends.
    CrashAfterHello(u64, u64, Exit),
    /// It sends *hello*, and *ready* after its *welcome*.
    Ready(u64, u64),
    /// It sends *ready* without a *hello*.
    Hasty(u64),
    /// It sends *hello* again and again, as if to extend its `ready_timeout`.
    Stutter(u64),
}

/// What a worker does after its *go*.
#[derive(Debug, Clone)]
pub(super) enum Life {
    /// It serves until it receives *drain*.
    Long,
    /// It ends on its own.
    Ends(u64, Exit),
    /// It gets SIGTERM and drains on its own.
    Leaves(u64),
    /// Its `main` ends, and it drains on its own.
    Returns(u64),
    /// It reports itself unhealthy.
    Sickens(u64),
    /// It begins a health check, which passes after the given time or never.
    Checks(Option<u64>),
    /// It asks to be confirmed early.
    Confirms,
    /// It closes its link and ends after the second time, or never.
    Unlinks(u64, Option<u64>),
}

/// How a worker ends after its *drain*.
#[derive(Debug, Clone)]
pub(super) enum End {
    /// It drains in time.
    Finishes(u64),
    /// It ends only by SIGTERM.
    WaitsForTerm,
    /// It ends only by SIGKILL.
    WaitsForKill,
}

/// Something that happens from outside. A worker is named by how many were spawned after it, among the
/// living.
#[derive(Debug, Clone)]
pub(super) enum Ask {
    /// A restart; `known` if a client asks for it.
    Restart { known: bool, wait: bool },
    /// A stop; `known` if a client asks for it.
    Stop { known: bool, at_once: bool },
    /// One of the clients so far disconnects.
    Gone(u64),
    /// A worker gets SIGTERM.
    Term(u8),
    /// A worker ends.
    Crash(u8, Exit),
    /// A worker sends a message that it should not send now.
    Says(u8, Word),
    /// The machine gets no event for so many milliseconds, not even ticks that are due.
    Jump(u64),
}

/// An event about a worker at a time that its behaviour does not provide for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Word {
    Hello,
    Ready,
    Failing,
    Unhealthy,
    Confirm,
    Check(bool),
    Pong,
    Missing,
    Unacceptable,
    LinkLost,
}

fn nature() -> impl Strategy<Value = Nature> {
    let after = || select(&[0_u64, 5, 60, 250][..]);
    let start = prop_oneof![
        14 => (after(), after()).prop_map(|(hello, ready)| Start::Ready(hello, ready)),
        1 => Just(Start::Impossible),
        1 => after().prop_map(Start::Refused),
        1 => Just(Start::Silent),
        1 => after().prop_map(Start::Mute),
        1 => (after(), exit()).prop_map(|(at, exit)| Start::Crash(at, exit)),
        1 => (after(), after(), exit()).prop_map(|(a, b, exit)| Start::CrashAfterHello(a, b, exit)),
        1 => after().prop_map(Start::Hasty),
        1 => after().prop_map(Start::Stutter),
    ];
    let span = || select(&[0_u64, 20, 90, 800, 5000][..]);
    let life = prop_oneof![
        6 => Just(Life::Long),
        3 => (span(), exit()).prop_map(|(at, exit)| Life::Ends(at, exit)),
        1 => span().prop_map(|at| Life::Leaves(at.max(20))),
        1 => span().prop_map(|at| Life::Returns(at.max(20))),
        1 => span().prop_map(Life::Sickens),
        1 => proptest::option::of(span()).prop_map(Life::Checks),
        1 => Just(Life::Confirms),
        2 => (span(), proptest::option::of(after())).prop_map(|(at, gap)| Life::Unlinks(at, gap)),
    ];
    let end = prop_oneof![
        3 => after().prop_map(End::Finishes),
        1 => Just(End::WaitsForTerm),
        1 => Just(End::WaitsForKill),
    ];
    let dies = select(&[0_u64, 1, 500][..]);
    let answers = select(&[Some(0_u64), Some(0), Some(2), Some(400), None][..]);
    (start, life, end, dies, answers).prop_map(|(start, life, end, dies_after, answers_after)| {
        Nature { start, life, end, dies_after, answers_after }
    })
}

fn orphaned() -> impl Strategy<Value = Orphaned> {
    let after = proptest::option::of(select(&[0_u64, 40, 900][..]));
    (any::<bool>(), after).prop_map(|(exclusive, after)| Orphaned { exclusive, after })
}

fn ask() -> impl Strategy<Value = Ask> {
    prop_oneof![
        30 => (any::<bool>(), any::<bool>()).prop_map(|(known, wait)| Ask::Restart { known, wait }),
        1 => (any::<bool>(), any::<bool>()).prop_map(|(known, at_once)| Ask::Stop { known, at_once }),
        4 => any::<u64>().prop_map(Ask::Gone),
        3 => (0..3_u8).prop_map(Ask::Term),
        3 => (0..3_u8, exit()).prop_map(|(back, exit)| Ask::Crash(back, exit)),
    ]
}

/// Orphans that the first supervisor on the host re-attaches.
#[derive(Debug, Clone)]
pub(super) struct Orphaned {
    pub(super) exclusive: bool,
    /// The milliseconds that they take to drain; `None` if they have to be killed.
    pub(super) after: Option<u64>,
}

/// The simulated host.
struct Host {
    watch: Watch,
    /// The behaviours from which each spawn takes one.
    natures: Vec<Nature>,
    /// The events to come, by time and, within one instant, in the order in which they were scheduled.
    agenda: BTreeMap<(Instant, u64), Event>,
    /// The number of events scheduled so far.
    asked: u64,
    /// The milliseconds that orphans take to drain; `None` for ones that have to be killed.
    orphans: Option<Option<u64>>,
    /// The worker processes that have not ended.
    living: BTreeMap<WorkerId, Nature>,
}

impl Host {
    /// Schedules an event in so many milliseconds.
    fn later(&mut self, after: u64, event: Event) {
        self.asked += 1;
        self.agenda.insert((self.watch.now + Duration::from_millis(after), self.asked), event);
    }

    /// Schedules the end of a worker, with one lost connection.
    fn exits(&mut self, after: u64, worker: WorkerId, exit: Exit) {
        let ledger = Ledger { accepted: 1, lost: 1, ..Ledger::default() };
        self.later(after, Event::Exited { worker, exit, ledger });
    }

    /// Sends an event to the machine and carries out the actions. The second end of a worker is dropped.
    fn on(&mut self, event: Event, policy: Policy) {
        match &event {
            Event::Exited { worker, .. } | Event::SpawnFailed { worker, .. }
                if self.living.remove(worker).is_none() =>
            {
                return;
            }
            Event::SelfDraining { worker, .. } if !self.living.contains_key(worker) => return,
            Event::SelfDraining { worker, .. } => self.drains(*worker),
            _ => {}
        }
        for action in self.watch.on(event) {
            self.act(action, policy);
        }
    }

    /// Schedules the end of a worker that begins to drain, if it drains in time.
    fn drains(&mut self, worker: WorkerId) {
        if let Some(Nature { end: End::Finishes(after), .. }) = self.living.get(&worker) {
            self.exits(*after, worker, Exit::Code(0));
        }
    }

    /// Carries out an action.
    fn act(&mut self, action: Action, policy: Policy) {
        match action {
            Action::Spawn { worker, generation, .. } => self.spawn(worker, generation, policy),
            Action::Welcome { worker } => {
                let nature = self.living.get(&worker);
                if let Some(Nature { start: Start::Ready(_, then), .. }) = nature {
                    self.later(*then, Event::Ready { worker });
                }
            }
            Action::SendToWorker { worker, command: WorkerCommand::Go } => {
                match self.living.get(&worker).map(|nature| nature.life.clone()) {
                    Some(Life::Ends(after, exit)) => self.exits(after, worker, exit),
                    Some(Life::Sickens(after)) => {
                        self.later(after, Event::Unhealthy { worker, reason: "sick".into() });
                    }
                    Some(Life::Checks(passes)) => {
                        self.later(0, Event::HealthCheck { worker, passed: false });
                        if let Some(after) = passes {
                            self.later(after, Event::HealthCheck { worker, passed: true });
                        }
                    }
                    Some(Life::Confirms) => self.later(0, Event::ConfirmEarly { worker }),
                    Some(Life::Leaves(after)) => {
                        self.later(after, Event::SelfDraining { worker, main_ended: false });
                    }
                    Some(Life::Returns(after)) => {
                        self.later(after, Event::SelfDraining { worker, main_ended: true });
                    }
                    Some(Life::Unlinks(after, gap)) => {
                        self.later(after, Event::LinkLost { worker, reason: "unlinked".into() });
                        if let Some(gap) = gap {
                            self.exits(after + gap, worker, Exit::Code(0));
                        }
                    }
                    Some(Life::Long) | None => {}
                }
            }
            Action::SendToWorker { worker, command: WorkerCommand::Ping } => {
                if let Some(Nature { answers_after: Some(after), .. }) = self.living.get(&worker) {
                    self.later(*after, Event::Pong { worker });
                }
            }
            Action::SendToWorker { worker, command: WorkerCommand::Drain { .. } } => {
                self.drains(worker)
            }
            Action::Terminate { worker } => {
                if let Some(Nature { end: End::WaitsForTerm, .. }) = self.living.get(&worker) {
                    self.exits(3, worker, Exit::Signal(15));
                }
            }
            Action::DrainOrphans { .. } => {
                if let Some(Some(after)) = self.orphans {
                    self.later(after, Event::OrphansGone);
                }
            }
            Action::KillOrphans => self.later(3, Event::OrphansGone),
            Action::Upgrade { generation } => {
                let after = [0, 3, 0, 700][generation as usize % 4];
                let kept = generation.is_multiple_of(3).then(|| "it panicked".to_owned());
                self.later(after, Event::UpgradeFinished { kept });
            }
            Action::Kill { worker } => {
                let after = self.living.get(&worker).map_or(0, |nature| nature.dies_after);
                self.exits(after, worker, Exit::Signal(9));
            }
            _ => {}
        }
    }

    /// Starts a worker process.
    fn spawn(&mut self, worker: WorkerId, generation: u32, policy: Policy) {
        // Workers of one generation behave alike, except that some respawns differ.
        let index =
            generation as usize + if worker.is_multiple_of(4) { worker as usize } else { 0 };
        let nature = self.natures[index % self.natures.len()].clone();
        self.living.insert(worker, nature.clone());
        let hello = Event::Hello { worker, policy };
        let reason = "reason".to_owned();
        match nature.start {
            Start::Impossible => self.later(0, Event::SpawnFailed { worker, reason }),
            Start::Refused(after) => self.later(after, Event::HelloRejected { worker, reason }),
            Start::Silent => {}
            Start::Mute(after) => {
                self.later(after, hello);
                self.later(after, Event::ReadinessBlockedBy { worker, what: reason });
            }
            Start::Crash(after, exit) => {
                self.later(after, Event::LinkLost { worker, reason });
                self.exits(after, worker, exit);
            }
            Start::CrashAfterHello(first, then, exit) => {
                self.later(first, hello);
                self.later(first + then, Event::Failing { worker, reason });
                self.exits(first + then, worker, exit);
            }
            // *Ready* follows its *welcome*.
            Start::Ready(first, _) => self.later(first, hello),
            Start::Hasty(after) => self.later(after, Event::Ready { worker }),
            Start::Stutter(after) => {
                for round in 1..50 {
                    self.later(after.max(20) * round, hello.clone());
                }
            }
        }
    }

    /// Lets something happen from outside.
    fn ask(&mut self, ask: Ask, client: u64, policy: Policy) {
        let nth = |back: u8| self.living.keys().rev().nth(back.into()).copied();
        let event = match ask {
            Ask::Restart { known, wait } => {
                Event::Restart { client: known.then_some(client), wait }
            }
            Ask::Stop { known, at_once } => {
                Event::Stop { client: known.then_some(client), at_once }
            }
            Ask::Gone(any) => Event::ClientGone { client: any % client },
            Ask::Term(back) => match nth(back) {
                Some(worker) => Event::SelfDraining { worker, main_ended: false },
                None => return,
            },
            Ask::Crash(back, exit) => match nth(back) {
                Some(worker) => Event::Exited { worker, exit, ledger: Ledger::default() },
                None => return,
            },
            Ask::Says(back, word) => match nth(back) {
                Some(worker) => word.event(worker, policy),
                None => return,
            },
            Ask::Jump(by) => {
                self.watch.advance(Duration::from_millis(by));
                return;
            }
        };
        self.on(event, policy);
    }

    /// Runs the host until a time, for at most 300 steps, or until the daemon exits, which must take at most
    /// 20,000. Ticks are late by `late`.
    fn run(&mut self, until: Option<Instant>, policy: Policy, late: Duration) {
        let steps = if until.is_some() { 300 } else { 20_000 };
        for _ in 0..steps {
            if self.watch.exit.is_some() {
                return;
            }
            let event = self.agenda.first_key_value().map(|(key, _)| *key);
            let tick = self.watch.machine.deadline().map(|at| at.max(self.watch.now) + late);
            let next = match (event, tick) {
                (Some((at, _)), Some(tick)) => at.min(tick),
                (Some((at, _)), None) => at,
                (None, Some(tick)) => tick,
                (None, None) => match until {
                    Some(_) => return,
                    None => self.watch.fail("it waits for nothing"),
                },
            };
            if until.is_some_and(|until| next > until) {
                return;
            }
            self.watch.now = next.max(self.watch.now);
            match event.filter(|(at, _)| *at == next).and_then(|key| self.agenda.remove(&key)) {
                Some(event) => self.on(event, policy),
                None => self.on(Event::Tick, policy),
            }
        }
        if until.is_none() {
            self.watch.fail("it does not stop");
        }
    }
}

impl Word {
    fn event(self, worker: WorkerId, policy: Policy) -> Event {
        let reason = "reason".to_owned();
        match self {
            Word::Hello => Event::Hello { worker, policy },
            Word::Ready => Event::Ready { worker },
            Word::Failing => Event::Failing { worker, reason },
            Word::Unhealthy => Event::Unhealthy { worker, reason },
            Word::Confirm => Event::ConfirmEarly { worker },
            Word::Check(passed) => Event::HealthCheck { worker, passed },
            Word::Pong => Event::Pong { worker },
            Word::Missing => Event::ReadinessBlockedBy { worker, what: reason },
            Word::Unacceptable => Event::HelloRejected { worker, reason },
            Word::LinkLost => Event::LinkLost { worker, reason },
        }
    }
}

/// Runs a whole history: the first start, `asks` with the milliseconds before each, and a stop to its end.
/// Every third ask comes with the second policy for the workers spawned because of it.
pub(super) fn host(
    policies: (Policy, Policy),
    natures: Vec<Nature>,
    asks: Vec<(u64, Ask)>,
    late: Duration,
    stop_at_once: bool,
    orphans: Option<Orphaned>,
) -> Watch {
    let mut watch = Watch::new(policies.0);
    if let Some(orphaned) = &orphans {
        watch = watch.with_orphans(6, orphaned.exclusive);
    }
    let orphans = orphans.map(|orphaned| orphaned.after);
    let (agenda, living) = (BTreeMap::new(), BTreeMap::new());
    let mut host = Host { watch, natures, agenda, asked: 0, orphans, living };
    host.on(Event::Begin, policies.0);
    for (client, (after, ask)) in (1..).zip(asks) {
        let policy = if client % 3 == 0 { policies.1 } else { policies.0 };
        let until = host.watch.now + Duration::from_millis(after);
        host.run(Some(until), policy, late);
        host.watch.now = until;
        host.ask(ask, client, policy);
    }
    host.on(Event::Stop { client: Some(0), at_once: stop_at_once }, policies.0);
    host.run(None, policies.0, late);
    host.watch
}

proptest! {
    #![proptest_config(cases(4000))]

    #[test]
    fn invariants_hold_on_a_host_of_unreliable_workers(
        policies in (policy(), policy()),
        natures in proptest::collection::vec(nature(), 1..8),
        asks in proptest::collection::vec((select(&[0_u64, 0, 10, 130, 700, 4000][..]), ask()), 0..25),
        late in millis(&[0, 0, 1, 70]),
        stop_at_once in any::<bool>(),
        orphans in proptest::option::of(orphaned()),
    ) {
        host(policies, natures, asks, late, stop_at_once, orphans);
    }
}
