//! Generations that must not run beside each other.

use super::*;

fn alone() -> Policy {
    Policy { exclusive: true, confirm_window: Duration::from_secs(2), ..policy() }
}

#[test]
fn the_old_one_is_gone_before_the_new_one_begins() {
    let mut story = Story::serving(alone());
    assert_eq!(story.on(restart(9)), ["spawn 2 of 2 from disk"]);
    assert_eq!(story.on(hello(2, alone())), ["quiesce 1", "drain 1 by 30.0"]);
    story.at(1.0);
    assert_eq!(story.on(exited(1, 0)), ["welcome 2"]);
    assert_eq!(story.on(ready(2)), ["go 2"]);
    assert_eq!(
        story.tick(3.0),
        ["retire 1", "tell 9: restarted 1→2 committed 1.0 drained 3.0 accepted 1"]
    );
}

#[test]
fn a_new_one_that_fails_at_start_is_followed_by_the_old() {
    let mut story = Story::serving(alone());
    story.on(restart(9));
    story.on(hello(2, alone()));
    story.on(exited(1, 0));
    assert_eq!(
        story.on(exited(2, 3)),
        [
            "tell 9: aborted 1→2: the worker of generation 2 exited with code 3 before it was ready",
            "retire 2",
            "spawn 3 of 1 from pinned"
        ]
    );
    assert_eq!(story.boots(3), ["welcome 3", "go 3"]);
}

#[test]
fn a_new_one_that_dies_in_the_confirm_window_is_followed_by_the_old() {
    let mut story = Story::serving(alone());
    story.on(restart(9));
    story.on(hello(2, alone()));
    story.on(exited(1, 0));
    story.on(ready(2));
    assert_eq!(
        story.on(Event::Unhealthy { worker: 2, reason: "no".into() }),
        ["kill 2"],
        "the old one waits for its end"
    );
    assert_eq!(
        story.on(killed(2)),
        [
            "tell 9: aborted 1→2 accepted 2: generation 2 is unhealthy: no",
            "retire 2",
            "spawn 3 of 1 from pinned"
        ]
    );
}

#[test]
fn a_newcomer_that_dies_while_it_waits() {
    let mut story = Story::serving(alone());
    story.on(restart(9));
    story.on(hello(2, alone()));
    assert_eq!(
        story.on(exited(2, 3)),
        [
            "tell 9: aborted 1→2: the worker of generation 2 exited with code 3 before it was ready",
            "retire 2"
        ]
    );
    assert_eq!(story.on(exited(1, 0)), ["spawn 3 of 1 from pinned"]);
}

#[test]
fn a_crash_during_the_drain() {
    let mut story = Story::serving(alone());
    story.on(restart(9));
    story.on(hello(2, alone()));
    assert_eq!(story.on(gone(1, Exit::Signal(11))), ["welcome 2"]);
}

/// It was not welcomed yet, and so runs beside the old one if it means that.
#[test]
fn one_that_is_ready_while_it_waits_is_turned_away() {
    let mut story = Story::serving(alone());
    story.on(restart(9));
    story.on(hello(2, alone()));
    assert_eq!(
        story.on(ready(2)),
        [
            "kill 2",
            "tell 9: aborted 1→2: the worker of generation 2 reported ready before it received its \
             settings"
        ]
    );
    story.on(exited(1, 0));
    assert_eq!(story.on(killed(2)), ["retire 2", "spawn 3 of 1 from pinned"]);
}

/// What used up its start limit is nothing to go back to: the image before it needs no confirm window.
#[test]
fn an_image_that_is_gone_back_to_is_confirmed_at_once() {
    let policy = Policy { start_limit_burst: 0, ..alone() };
    let mut story = Story::serving(policy);
    story.on(restart_no_wait(9));
    story.on(hello(2, policy));
    story.on(exited(1, 0));
    story.on(ready(2));
    story.tick(2.0);
    assert_eq!(story.on(exited(2, 3)), ["spawn 3 of 3 from known-good 1"]);
    assert_eq!(story.boots(3), ["welcome 3", "go 3", "retire 2"]);
    // Replaced, as the worker of any generation that serves.
    assert_eq!(story.on(leaving(3)), ["drain 3 by 32.0"]);
    story.on(exited(3, 0));
    assert_eq!(story.tick(2.1), ["spawn 4 of 3 from pinned"]);
}
