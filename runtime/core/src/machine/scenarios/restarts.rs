//! Restarts without a confirm window.

use super::*;

#[test]
fn restart_replaces_the_old_worker() {
    let mut story = Story::serving(policy());
    story.at(100.0);
    assert_eq!(story.on(restart(7)), ["spawn 2 of 2 from disk"]);
    story.at(101.0);
    assert_eq!(story.on(hello(2, policy())), ["welcome 2"]);
    story.at(102.0);
    assert_eq!(story.on(ready(2)), ["quiesce 1", "go 2", "drain 1 by 132.0"]);
    assert_eq!(story.watch.machine.serving_generation(), Some(2));
    story.at(105.5);
    assert_eq!(
        story.on(exited(1, 0)),
        ["tell 7: restarted 1→2 committed 2.0 drained 5.5 accepted 1", "retire 1"]
    );
    assert_eq!(story.due(), None);
}

#[test]
fn client_that_does_not_wait_is_answered_at_the_end_of_the_transition() {
    let mut story = Story::serving(policy());
    story.on(restart_no_wait(7));
    assert_eq!(
        story.boots(2),
        [
            "welcome 2",
            "quiesce 1",
            "go 2",
            "drain 1 by 30.0",
            "tell 7: restarted 1→2 committed 0.0"
        ]
    );
    assert_eq!(story.watch.machine.restarts().next().and_then(|report| report.ledger), None);
    story.at(3.0);
    assert_eq!(story.on(exited(1, 0)), ["retire 1"]);
    let report = story.watch.machine.restarts().next().cloned();
    let text = report.map(report_of);
    assert_eq!(text.as_deref(), Some("1→2 committed 0.0 drained 3.0 accepted 1"));
}

#[test]
fn requests_during_a_restart_lead_to_one_more() {
    let mut story = Story::serving(policy());
    story.on(restart_no_wait(1));
    for event in [restart_no_wait(2), HUP, restart(3), restart_no_wait(4)] {
        assert_eq!(story.on(event), NOTHING);
    }
    story.on(Event::ClientGone { client: 4 });
    assert_eq!(
        story.boots(2),
        [
            "welcome 2",
            "quiesce 1",
            "go 2",
            "drain 1 by 30.0",
            "tell 1: restarted 1→2 committed 0.0",
            "spawn 3 of 3 from disk"
        ]
    );
    assert_eq!(
        story.boots(3),
        [
            "welcome 3",
            "quiesce 2",
            "go 3",
            "drain 2 by 30.0",
            "tell 2: restarted 2→3 committed 0.0"
        ]
    );
    assert_eq!(
        story.on(exited(2, 0)),
        ["tell 3: restarted 2→3 committed 0.0 drained 0.0 accepted 2", "retire 2"]
    );
    assert_eq!(story.on(exited(1, 0)), ["retire 1"]);
}

#[test]
fn failed_restart_is_followed_by_the_pending_one() {
    let mut story = Story::serving(policy());
    story.on(restart(1));
    story.on(restart(2));
    assert_eq!(
        story.on(exited(2, 3)),
        [
            "tell 1: aborted 1→2: the worker of generation 2 exited with code 3 before it was ready",
            "retire 2",
            "spawn 3 of 3 from disk"
        ]
    );
}

#[test]
fn failed_restart_leaves_the_old_worker_untouched() {
    let reason = || "reason".to_owned();
    // Each way to fail, with all actions that it leads to.
    let ways: [(Event, &[&str]); 4] = [
        (
            Event::SpawnFailed { worker: 2, reason: reason() },
            &["tell 9: aborted 1→2: reason", "retire 2"],
        ),
        (
            Event::HelloRejected { worker: 2, reason: reason() },
            &["kill 2", "tell 9: aborted 1→2: reason"],
        ),
        (
            exited(2, 0),
            &[
                "tell 9: aborted 1→2: the worker of generation 2 exited with code 0 before it was \
                 ready",
                "retire 2",
            ],
        ),
        (
            leaving(2),
            &["kill 2", "tell 9: aborted 1→2: the worker of generation 2 received SIGTERM"],
        ),
    ];
    for (event, expected) in ways {
        let mut story = Story::serving(confirming());
        story.on(restart(9));
        assert_eq!(story.on(event), expected);
        assert_eq!(story.watch.accepting(), Some(1));
        story.on(killed(2));
        assert_eq!(story.due(), None);
        assert_eq!(story.on(HUP), ["spawn 3 of 3 from disk"]);
    }
}

#[test]
fn new_worker_that_times_out_or_loses_its_link_is_killed() {
    let mut story = Story::serving(policy());
    story.on(restart(9));
    story.tick(59.0);
    assert_eq!(
        story.tick(60.0),
        [
            "kill 2",
            "tell 9: aborted 1→2: the worker of generation 2 was not ready within 60 s; raise \
             `ready_timeout` if it needs longer"
        ]
    );
    assert_eq!(story.on(killed(2)), ["retire 2"]);

    story.on(restart(9));
    assert_eq!(story.on(lost(3)), NOTHING, "its exit code says more");
    assert_eq!(story.on(exited(3, 2)), ["tell 9: aborted 1→3: the link ended", "retire 3"]);

    story.on(restart(9));
    story.on(hello(4, policy()));
    story.on(lost(4));
    assert_eq!(story.on(ready(4)), NOTHING);
    assert_eq!(story.tick(61.0), ["kill 4", "tell 9: aborted 1→4: the link ended"]);
    assert_eq!(story.on(ready(4)), NOTHING);
    assert_eq!(story.on(killed(4)), ["retire 4"]);
}

#[test]
fn client_that_disconnects_is_not_answered() {
    let mut story = Story::serving(policy());
    story.on(restart(1));
    story.on(restart(2));
    story.on(Event::ClientGone { client: 1 });
    story.boots(2);
    story.boots(3);
    story.on(Event::ClientGone { client: 2 });
    assert_eq!(story.on(exited(1, 0)), ["retire 1"]);
    assert_eq!(story.on(exited(2, 0)), ["retire 2"]);
    story.on(Event::Stop { client: Some(3), at_once: false });
    story.on(Event::ClientGone { client: 3 });
    assert_eq!(story.on(exited(3, 0)), ["exit 0"]);
}
