//! Exclusive programs, whose generations must not run at the same time.

use super::*;

fn alone() -> Policy {
    Policy { exclusive: true, confirm_window: Duration::from_secs(2), ..policy() }
}

#[test]
fn old_worker_ends_before_the_new_one_is_welcomed() {
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
fn old_generation_is_respawned_when_the_new_one_fails_to_start() {
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
fn old_generation_is_respawned_when_the_new_one_dies_in_the_confirm_window() {
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
fn old_generation_is_respawned_when_the_new_worker_dies_while_it_waits() {
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
fn new_worker_is_welcomed_when_the_old_one_crashes_in_its_drain() {
    let mut story = Story::serving(alone());
    story.on(restart(9));
    story.on(hello(2, alone()));
    assert_eq!(story.on(gone(1, Exit::Signal(11))), ["welcome 2"]);
}

/// A worker that is ready without its *welcome* may be running its `main` beside the old worker.
#[test]
fn worker_that_is_ready_before_its_welcome_is_killed() {
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

/// A generation that used up its start limit is not resumed: the image before it needs no confirm window.
#[test]
fn rolled_back_image_is_confirmed_at_once() {
    let policy = Policy { start_limit_burst: 0, ..alone() };
    let mut story = Story::serving(policy);
    story.on(restart_no_wait(9));
    story.on(hello(2, policy));
    story.on(exited(1, 0));
    story.on(ready(2));
    story.tick(2.0);
    assert_eq!(story.on(exited(2, 3)), ["spawn 3 of 3 from known-good 1"]);
    assert_eq!(story.boots(3), ["welcome 3", "go 3", "retire 2"]);
    // It is replaced as the worker of any confirmed generation.
    assert_eq!(story.on(leaving(3)), ["drain 3 by 32.0"]);
    story.on(exited(3, 0));
    assert_eq!(story.tick(2.1), ["spawn 4 of 3 from pinned"]);
}
