//! Events in any order, also ones that a correct driver never sends.

use super::*;

/// One step of a history.
#[derive(Debug, Clone)]
enum Step {
    Begin,
    /// An event about the worker that was spawned so many before the last one; if there were not so many,
    /// about a worker that does not exist yet.
    Worker(u8, What),
    /// *Hello* and *ready* of the worker spawned last.
    Boot(Policy),
    /// A restart that succeeds, unless another one is in progress.
    Replace(Policy),
    /// Whether a client asks, and whether it waits.
    Restart(bool, bool),
    /// The number of the path.
    RestartFrom(u8),
    /// Whether a client asks, and whether to stop at once.
    Stop(bool, bool),
    /// The disconnect of one of the clients so far.
    Gone(Index),
    /// Whether the supervisor keeps its own image.
    Upgraded(bool),
    /// Milliseconds without an event.
    Wait(u64),
    Tick,
    /// A tick when it is due, or so many milliseconds later.
    Due(u64),
}

/// An event about a worker.
#[derive(Debug, Clone)]
enum What {
    SpawnFailed,
    Hello(Policy),
    Unacceptable,
    Ready,
    Failing,
    Leaving,
    Returning,
    Missing,
    LinkLost,
    Unhealthy,
    Confirm,
    Check(bool),
    Pong,
    Exited(Exit),
}

fn step() -> impl Strategy<Value = Step> {
    let what = prop_oneof![
        1 => Just(What::SpawnFailed),
        3 => policy().prop_map(What::Hello),
        1 => Just(What::Unacceptable),
        3 => Just(What::Ready),
        1 => Just(What::Failing),
        2 => Just(What::Leaving),
        2 => Just(What::Returning),
        1 => Just(What::Missing),
        2 => Just(What::LinkLost),
        1 => Just(What::Unhealthy),
        1 => Just(What::Confirm),
        1 => any::<bool>().prop_map(What::Check),
        3 => Just(What::Pong),
        4 => exit().prop_map(What::Exited),
    ];
    let which = prop_oneof![4 => Just(0_u8), 3 => Just(1), 1 => 2..12_u8, 1 => Just(u8::MAX)];
    prop_oneof![
        40 => (which, what).prop_map(|(back, what)| Step::Worker(back, what)),
        24 => policy().prop_map(Step::Boot),
        18 => policy().prop_map(Step::Replace),
        2 => Just(Step::Begin),
        20 => (any::<bool>(), any::<bool>()).prop_map(|(known, wait)| Step::Restart(known, wait)),
        6 => (0..3_u8).prop_map(Step::RestartFrom),
        1 => (any::<bool>(), any::<bool>()).prop_map(|(known, hard)| Step::Stop(known, hard)),
        3 => any::<Index>().prop_map(Step::Gone),
        12 => any::<bool>().prop_map(Step::Upgraded),
        8 => select(&[1, 20, 100, 1000][..]).prop_map(Step::Wait),
        4 => Just(Step::Tick),
        14 => select(&[0, 0, 1, 1200][..]).prop_map(Step::Due),
    ]
}

/// Runs the steps, then stops the daemon and checks that it exits.
fn any_order(initial: Policy, begin: bool, steps: Vec<Step>) {
    let mut watch = Watch::new(initial);
    let mut clients = 0;
    if begin {
        watch.on(Event::Begin);
    }
    for step in steps {
        match step {
            Step::Begin => drop(watch.on(Event::Begin)),
            Step::Worker(back, what) => {
                let newest = watch.last_worker();
                let worker = newest.checked_sub(back.into()).unwrap_or(newest + 1);
                let reason = "reason".to_owned();
                watch.on(match what {
                    What::SpawnFailed => Event::SpawnFailed { worker, reason },
                    What::Hello(policy) => Event::Hello { worker, policy },
                    What::Unacceptable => Event::HelloRejected { worker, reason },
                    What::Ready => Event::Ready { worker },
                    What::Failing => Event::Failing { worker, reason },
                    What::Leaving => Event::SelfDraining { worker, main_ended: false },
                    What::Returning => Event::SelfDraining { worker, main_ended: true },
                    What::Missing => Event::ReadinessBlockedBy { worker, what: reason },
                    What::Unhealthy => Event::Unhealthy { worker, reason },
                    What::Confirm => Event::ConfirmEarly { worker },
                    What::Check(passed) => Event::HealthCheck { worker, passed },
                    What::Pong => Event::Pong { worker },
                    What::LinkLost => Event::LinkLost { worker, reason },
                    What::Exited(exit) => {
                        let ledger =
                            Ledger { accepted: 3, finished: 1, lost: 2, ..Ledger::default() };
                        Event::Exited { worker, exit, ledger }
                    }
                });
            }
            Step::Replace(policy) => {
                watch.on(Event::UpgradeFinished { kept: None });
                watch.on(Event::Restart { client: None, wait: false });
                let worker = watch.last_worker();
                watch.on(Event::Hello { worker, policy });
                watch.on(Event::Ready { worker });
            }
            Step::Boot(policy) => {
                let worker = watch.last_worker();
                watch.on(Event::Hello { worker, policy });
                watch.on(Event::Ready { worker });
            }
            Step::Restart(known, wait) => {
                clients += u64::from(known);
                watch.on(Event::Restart { client: known.then_some(clients), wait });
            }
            Step::RestartFrom(place) => {
                let exe = format!("/srv/{place}").into();
                watch.on(Event::RestartFrom { exe, client: None, wait: false });
            }
            Step::Stop(known, at_once) => {
                clients += u64::from(known);
                watch.on(Event::Stop { client: known.then_some(clients), at_once });
            }
            Step::Gone(index) => {
                let client = index.index(clients as usize + 1) as u64;
                watch.on(Event::ClientGone { client });
            }
            Step::Upgraded(kept) => {
                watch.on(Event::UpgradeFinished { kept: kept.then(|| "it hung".into()) });
            }
            Step::Wait(by) => watch.advance(Duration::from_millis(by)),
            Step::Tick => drop(watch.on(Event::Tick)),
            Step::Due(late) => {
                if let Some(at) = watch.machine.deadline() {
                    watch.now = watch.now.max(at) + Duration::from_millis(late);
                    watch.on(Event::Tick);
                }
            }
        }
    }
    // Whatever came before, a stop leads to an exit, provided that killed processes end.
    watch.on(Event::Stop { client: None, at_once: false });
    for _ in 0..1000 {
        if watch.exit.is_some() {
            watch.on(Event::Tick);
            return;
        }
        if let Some(worker) = watch.killed() {
            let exit = Exit::Signal(9);
            watch.on(Event::Exited { worker, exit, ledger: Ledger::default() });
        } else if let Some(at) = watch.machine.deadline() {
            watch.now = watch.now.max(at);
            watch.on(Event::Tick);
        } else {
            watch.fail("it stops, and waits for nothing");
        }
    }
    watch.fail("it does not stop");
}

proptest! {
    #![proptest_config(cases(4000))]

    #[test]
    fn invariants_hold_for_events_in_any_order(
        initial in policy(),
        begin in proptest::bool::weighted(0.9),
        steps in proptest::collection::vec(step(), 0..70),
    ) {
        any_order(initial, begin, steps);
    }
}
