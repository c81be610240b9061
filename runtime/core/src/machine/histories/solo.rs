//! Events to a solo daemon in any order.

use super::*;
use crate::event::{Action, WorkerCommand};
use crate::health::Probe;
use crate::machine::State;
use crate::machine::solo::{SoloMachine, WORKER};

/// The milliseconds before it, and what happens.
type Step = (u64, SoloEvent);

#[derive(Debug, Clone)]
enum SoloEvent {
    Ready,
    Rejected,
    Missing,
    Unhealthy,
    Restart(bool),
    /// Whether a client asks, and whether to stop at once.
    Stop(bool, bool),
    Gone(Index),
    Exited,
    /// A tick when it is due, or now.
    Tick(bool),
}

fn step() -> impl Strategy<Value = Step> {
    let event = prop_oneof![
        6 => Just(SoloEvent::Ready),
        1 => Just(SoloEvent::Rejected),
        1 => Just(SoloEvent::Missing),
        1 => Just(SoloEvent::Unhealthy),
        2 => any::<bool>().prop_map(SoloEvent::Restart),
        4 => (any::<bool>(), any::<bool>()).prop_map(|(known, hard)| SoloEvent::Stop(known, hard)),
        2 => any::<Index>().prop_map(SoloEvent::Gone),
        1 => Just(SoloEvent::Exited),
        5 => any::<bool>().prop_map(SoloEvent::Tick),
    ];
    (select(&[0, 0, 20, 100, 1000][..]), event)
}

/// Returns how far a daemon has come.
fn progress(state: State) -> u8 {
    match state {
        State::Starting => 0,
        State::Running => 1,
        State::LameDuck => 2,
        State::Stopping => 3,
    }
}

/// Runs the steps and checks the rules after each: a solo daemon only goes forward, announces what changes,
/// accepts once, closes its listeners once and before its first *drain*, never extends its drain deadline,
/// answers each client once, and ends.
fn solo(policy: Policy, steps: Vec<Step>) {
    let mut now = crate::Instant::from_nanos(1_000_000_000);
    let mut machine = SoloMachine::new("app", policy, now);
    let (mut asked, mut waiting) = (0, Vec::new());
    let (mut accepts, mut closed, mut deadline, mut killed) = (false, false, None, false);
    let last = [(0, SoloEvent::Stop(false, false)), (0, SoloEvent::Exited)];
    for (after, step) in steps.into_iter().chain(last) {
        now += Duration::from_millis(after);
        let worker = WORKER;
        let reason = || "reason".to_owned();
        let event = match step {
            SoloEvent::Ready => Event::Ready { worker },
            SoloEvent::Rejected => Event::HelloRejected { worker, reason: reason() },
            SoloEvent::Missing => Event::ReadinessBlockedBy { worker, what: reason() },
            SoloEvent::Unhealthy => Event::Unhealthy { worker, reason: reason() },
            SoloEvent::Restart(known) | SoloEvent::Stop(known, _) => {
                let client = known.then(|| {
                    asked += 1;
                    waiting.push(asked);
                    asked
                });
                match step {
                    SoloEvent::Stop(_, at_once) => Event::Stop { client, at_once },
                    _ => Event::Restart { client, wait: true },
                }
            }
            SoloEvent::Gone(index) => {
                let client = index.index(asked as usize + 1) as u64;
                waiting.retain(|other| *other != client);
                Event::ClientGone { client }
            }
            SoloEvent::Exited => {
                Event::Exited { worker, exit: Exit::Code(0), ledger: Ledger::default() }
            }
            SoloEvent::Tick(due) => {
                now = now.max(machine.deadline().filter(|_| due).unwrap_or(now));
                Event::Tick
            }
        };
        let (before, health) = (machine.state(), machine.health());
        let actions = machine.on(event.clone(), now);
        let history = format!("{event:?} at {now:?} in {before} led to {actions:?}");
        let mut exit = None;
        for (index, action) in actions.iter().enumerate() {
            match action {
                Action::SendToWorker { command: WorkerCommand::Go, .. } => {
                    assert!(before == State::Starting && !accepts, "{history}");
                    accepts = true;
                }
                Action::SendToWorker {
                    command: WorkerCommand::Drain { deadline: new, .. },
                    ..
                } => {
                    let limit = deadline.map_or(now + policy.drain_timeout, |at| now.max(at));
                    assert!(closed && *new <= limit, "{history}");
                    deadline = Some(*new);
                }
                Action::CloseListeners => {
                    assert!(!std::mem::replace(&mut closed, true), "{history}");
                }
                Action::Answer { client, .. } => {
                    assert!(waiting.contains(client), "{history}");
                    waiting.retain(|other| other != client);
                }
                Action::Kill { .. } => {
                    assert!(deadline.is_some_and(|at| at <= now) && !killed, "{history}");
                    killed = true;
                }
                Action::Exit { code, .. } => {
                    assert_eq!(index + 1, actions.len(), "{history}");
                    assert_eq!(*code == 0, matches!(event, Event::Exited { .. }), "{history}");
                    exit = Some(*code);
                }
                _ => {}
            }
        }
        if let Some(code) = exit {
            assert!(waiting.is_empty() || code != 0, "{history}");
            assert_eq!((machine.deadline(), machine.on(Event::Tick, now)), (None, Vec::new()));
            return;
        }
        assert!(progress(machine.state()) >= progress(before), "{history}");
        assert_eq!(
            actions.contains(&Action::StateChanged),
            health != machine.health(),
            "{history}"
        );
        assert_eq!(closed, machine.state() == State::Stopping, "{history}");
        assert_eq!(machine.probe(Probe::Ready).ok, machine.state() == State::Running, "{history}");
        assert_eq!(machine.probe(Probe::Startup).ok, accepts, "{history}");
        let late = matches!(event, Event::Tick) && machine.deadline().is_some_and(|at| at <= now);
        assert!(!late, "{history}");
    }
    panic!("it does not end");
}

proptest! {
    #![proptest_config(cases(4000))]

    #[test]
    fn solo_daemon_obeys_its_rules(
        policy in policy(),
        steps in proptest::collection::vec(step(), 0..25),
    ) {
        solo(policy, steps);
    }
}
