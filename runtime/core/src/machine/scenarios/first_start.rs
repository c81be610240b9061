//! The first start.

use std::time::Duration;

use super::*;
use crate::machine::Machine;

#[test]
fn first_generation_serves_when_ready() {
    let mut story = Story::new(policy());
    assert_eq!(story.on(Event::Begin), ["spawn 1 of 1 from disk"]);
    assert_eq!(story.on(Event::Begin), NOTHING);
    assert_eq!(story.due(), Some(60.0));
    story.at(2.0);
    let quick = Policy { ready_timeout: Duration::from_secs(7), ..policy() };
    assert_eq!(story.on(hello(1, quick)), ["welcome 1"]);
    assert_eq!(story.due(), Some(9.0), "its own settings count from its hello");
    assert_eq!(story.watch.machine.state(), State::Starting);
    assert_eq!(story.on(ready(1)), ["go 1", "up 1"]);
    assert_eq!(story.on(ready(1)), NOTHING);
    assert_eq!(story.due(), None);
    assert_eq!(story.watch.machine.state(), State::Running);
    assert_eq!(story.watch.machine.serving_generation(), Some(1));
    assert_eq!(story.watch.machine.restarts().next(), None);
}

#[test]
fn failed_first_start_exits_with_the_code_of_its_worker() {
    for (exit, code) in [
        (
            Exit::Code(3),
            "exit 3: the worker of generation 1 exited with code 3 before it was ready",
        ),
        (
            Exit::Code(0),
            "exit 0: the worker of generation 1 exited with code 0 before it was ready",
        ),
        (
            Exit::Signal(11),
            "exit 139: the worker of generation 1 was killed by SIGSEGV before it was ready",
        ),
    ] {
        let mut story = Story::new(policy());
        story.on(Event::Begin);
        story.on(hello(1, policy()));
        assert_eq!(story.on(gone(1, exit)), ["retire 1", code]);
    }
}

#[test]
fn exit_code_0_of_a_failing_worker_is_reported_as_1() {
    // It never said *hello*.
    let mut story = Story::new(policy());
    story.on(Event::Begin);
    let ended = "the worker of generation 1 exited with code 0 before it was ready";
    assert_eq!(story.on(exited(1, 0)), ["retire 1".to_owned(), format!("exit 1: {ended}")]);

    let mut story = Story::new(policy());
    story.on(Event::Begin);
    story.on(hello(1, policy()));
    story.on(Event::Failing { worker: 1, reason: "no database".into() });
    assert_eq!(story.on(exited(1, 0)), ["retire 1", "exit 1: no database"]);

    let mut story = Story::new(policy());
    story.on(Event::Begin);
    story.on(hello(1, policy()));
    let ledger = Ledger { accepted: 1, lost: 1, ..Ledger::default() };
    let actions = story.on(Event::Exited { worker: 1, exit: Exit::Code(0), ledger });
    assert!(actions.iter().any(|action| action.starts_with("exit 1: ")), "{actions:?}");
}

#[test]
fn failed_first_start_reports_the_workers_own_reason() {
    let mut story = Story::new(policy());
    story.on(Event::Begin);
    story.on(Event::Failing { worker: 1, reason: "no database".into() });
    story.on(lost(1));
    assert_eq!(story.on(exited(1, 4)), ["retire 1", "exit 4: no database"]);

    let mut story = Story::new(policy());
    story.on(Event::Begin);
    let event = Event::SpawnFailed { worker: 1, reason: "no memory".into() };
    assert_eq!(story.on(event), ["retire 1", "exit 1: no memory"]);

    let mut story = Story::new(policy());
    story.on(Event::Begin);
    let event = Event::HelloRejected { worker: 1, reason: "port in use".into() };
    assert_eq!(story.on(event), ["kill 1"]);
    assert_eq!(story.on(killed(1)), ["retire 1", "exit 1: port in use"]);
}

#[test]
fn first_start_that_times_out_reports_what_is_missing() {
    let mut story = Story::new(policy());
    story.on(Event::Begin);
    story.on(hello(1, policy()));
    story.on(Event::ReadinessBlockedBy {
        worker: 1,
        what: "listener `http` was never polled".into(),
    });
    assert_eq!(story.tick(59.9), NOTHING);
    assert_eq!(story.tick(60.0), ["kill 1"]);
    assert_eq!(
        story.on(killed(1)),
        [
            "retire 1",
            "exit 1: the worker of generation 1 was not ready within 60 s: listener `http` was never \
             polled; raise `ready_timeout` if it needs longer"
        ]
    );
}

#[test]
fn restart_during_the_first_start_follows_it() {
    let mut story = Story::new(policy());
    assert_eq!(story.on(restart(1)), ["tell 1: refused, the daemon has not started yet"]);
    story.on(Event::Begin);
    assert_eq!(story.on(restart(2)), NOTHING);
    assert_eq!(story.boots(1), ["welcome 1", "go 1", "up 1", "spawn 2 of 2 from disk"]);

    let mut story = Story::new(policy());
    story.on(Event::Begin);
    story.on(restart(2));
    assert_eq!(
        story.on(exited(1, 3)),
        [
            "retire 1",
            "tell 2: refused, the worker of generation 1 exited with code 3 before it was ready",
            "exit 3: the worker of generation 1 exited with code 3 before it was ready"
        ]
    );
}

#[test]
fn messages_out_of_order_abort_a_restart() {
    let mut story = Story::serving(policy());
    story.on(restart(9));
    assert_eq!(
        story.on(ready(2)),
        [
            "kill 2",
            "tell 9: aborted 1→2: the worker of generation 2 reported ready before it sent hello"
        ]
    );
    story.on(restart(9));
    story.on(hello(3, policy()));
    assert_eq!(
        story.on(hello(3, policy())),
        ["kill 3", "tell 9: aborted 1→3: the worker of generation 3 sent hello twice"]
    );
    let late = Event::HelloRejected { worker: 1, reason: "late".into() };
    assert_eq!(story.on(late), NOTHING, "it serves");
}

/// Orphans of a supervisor that was killed still have the earlier numbers.
#[test]
fn generations_are_numbered_after_those_of_orphans() {
    let (mut machine, now) =
        (Machine::new(policy()).with_orphans(7, false), Instant::from_nanos(0));
    let refused = machine.on(restart(9), now);
    assert!(matches!(refused[..], [Action::Answer { answer: ClientAnswer::Refused { .. }, .. }]));
    let begun = machine.on(Event::Begin, now);
    let spawned = matches!(begun[0], Action::Spawn { worker: 1, generation: 8, .. });
    assert!(spawned && begun[1..] == [Action::StateChanged], "{begun:?}");
    assert_eq!(machine.on(Event::Begin, now), []);
    machine.on(hello(1, policy()), now);
    let up = machine.on(ready(1), now);
    assert!(up.contains(&Action::FirstReady { generation: 8 }), "{up:?}");
}
