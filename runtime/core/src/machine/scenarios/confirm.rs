//! The confirm window.

use super::*;

#[test]
fn old_worker_drains_when_the_new_one_is_confirmed() {
    let mut story = Story::committed();
    assert_eq!(story.due(), Some(13.0));
    assert_eq!(story.watch.machine.serving_generation(), Some(2));
    assert_eq!(story.tick(12.9), NOTHING);
    assert_eq!(story.tick(13.0), ["drain 1 by 43.0"]);
    story.at(14.0);
    assert_eq!(
        story.on(exited(1, 0)),
        ["tell 9: restarted 1→2 committed 1.0 drained 4.0 accepted 1", "retire 1"]
    );
}

#[test]
fn old_worker_resumes_when_the_new_one_dies() {
    let mut story = Story::committed();
    story.at(12.0);
    assert_eq!(
        story.on(gone(2, Exit::Signal(11))),
        [
            "resume 1",
            "tell 9: aborted 1→2 accepted 2: the worker of generation 2 was killed by SIGSEGV before it \
             was confirmed",
            "retire 2"
        ]
    );
    assert_eq!(story.due(), None);
    assert_eq!(story.watch.machine.serving_generation(), Some(1));
}

#[test]
fn old_worker_resumes_when_the_new_one_loses_its_link() {
    let mut story = Story::committed();
    story.at(12.5);
    assert_eq!(story.on(lost(2)), NOTHING);
    assert_eq!(story.tick(13.0), NOTHING, "what may be dead is not confirmed");
    assert_eq!(story.tick(13.5), ["kill 2", "resume 1"]);
    assert_eq!(story.on(killed(2)), ["tell 9: aborted 1→2 accepted 2: the link ended", "retire 2"]);
}

#[test]
fn new_worker_that_got_sigterm_finishes_its_connections() {
    let mut story = Story::committed();
    assert_eq!(story.on(leaving(2)), ["drain 2 by 41.0", "resume 1"]);
    assert_eq!(
        story.on(exited(2, 0)),
        ["tell 9: aborted 1→2 accepted 2: the worker of generation 2 received SIGTERM", "retire 2"]
    );
}

#[test]
fn old_generation_is_respawned_when_both_workers_die() {
    let mut story = Story::committed();
    assert_eq!(story.on(exited(1, 3)), NOTHING, "the new one serves");
    assert_eq!(
        story.on(exited(2, 3)),
        [
            "tell 9: aborted 1→2 accepted 2: the worker of generation 2 exited with code 3 before \
             it was confirmed; generation 1 exited with code 3 while it was paused in the confirm \
             window",
            "retire 2"
        ]
    );
    assert_eq!(story.due(), Some(11.0));
    assert_eq!(story.tick(11.0), ["spawn 3 of 1 from pinned"]);
    assert_eq!(story.boots(3), ["welcome 3", "go 3"]);
}

#[test]
fn new_worker_is_confirmed_although_the_old_one_dies() {
    let mut story = Story::committed();
    story.on(exited(1, 3));
    assert_eq!(
        story.tick(13.0),
        [
            "retire 1",
            "tell 9: restarted 1→2 committed 1.0 drained 3.0 accepted 1; \
             generation 1 exited with code 3 while it was paused in the confirm window"
        ]
    );

    let mut story = Story::committed();
    assert_eq!(story.on(lost(1)), NOTHING);
    assert_eq!(story.tick(12.0), ["kill 1"]);
    assert_eq!(story.tick(13.0), NOTHING, "a killed worker gets no command");
    assert_eq!(
        story.on(killed(1)),
        ["tell 9: restarted 1→2 committed 1.0 drained 3.0 accepted 1", "retire 1"]
    );
}

/// The old worker finishes the connections that are open when its `main` ends within the window; the new one
/// serves already.
#[test]
fn old_worker_drains_when_its_main_ends_in_the_window() {
    const ENDED: &str = "`main` of generation 1 returned while it was paused in the confirm window; its \
         connections are finished as in a drain";
    let mut story = Story::committed();
    story.at(12.0);
    assert_eq!(story.on(main_ended(1)), ["drain 1 by 42.0"]);
    assert_eq!(story.tick(13.0), NOTHING, "it drains already");
    story.at(20.0);
    let actions = story.on(exited(1, 1));
    let answer = format!(
        "tell 9: restarted 1→2 committed 1.0 drained 10.0 accepted 1; {ENDED}; \
         generation 1 exited with code 1 while draining"
    );
    assert_eq!(actions, [answer.as_str(), "retire 1"]);

    // It cannot resume: if the new worker fails, the old generation is respawned.
    let mut story = Story::committed();
    story.on(main_ended(1));
    assert_eq!(story.on(exited(2, 3)).len(), 2);
    assert_eq!(story.tick(11.0), ["spawn 3 of 1 from pinned"]);
    assert_eq!(story.boots(3), ["welcome 3", "go 3"]);
}

#[test]
fn respawn_does_not_wait_for_a_killed_worker() {
    let mut story = Story::committed();
    story.on(lost(1));
    assert_eq!(story.tick(12.0), ["kill 1"]);
    story.on(exited(2, 3));
    assert_eq!(story.tick(12.0), ["spawn 3 of 1 from pinned"]);
    assert_eq!(story.on(killed(1)), NOTHING);
    assert_eq!(story.boots(3), ["welcome 3", "go 3"]);
}

fn unhealthy(worker: WorkerId) -> Event {
    Event::Unhealthy { worker, reason: "no database".into() }
}

#[test]
fn unhealthy_worker_aborts_the_restart() {
    let mut story = Story::committed();
    assert_eq!(story.on(unhealthy(2)), ["kill 2", "resume 1"]);
    assert_eq!(story.on(unhealthy(2)), NOTHING, "reported twice");
    assert_eq!(
        story.on(killed(2)),
        ["tell 9: aborted 1→2 accepted 2: generation 2 is unhealthy: no database", "retire 2"]
    );
}

#[test]
fn worker_unhealthy_before_ready_aborts_the_restart() {
    let mut story = Story::serving(confirming());
    story.on(restart(9));
    story.on(hello(2, confirming()));
    assert_eq!(
        story.on(unhealthy(2)),
        ["kill 2", "tell 9: aborted 1→2: generation 2 is unhealthy: no database"]
    );
}

#[test]
fn unhealthy_worker_changes_nothing_after_the_window() {
    let mut story = Story::committed();
    story.tick(13.0);
    assert_eq!(story.on(unhealthy(2)), NOTHING);
    assert_eq!(story.on(unhealthy(1)), NOTHING);
}

#[test]
fn worker_can_confirm_early() {
    let mut story = Story::committed();
    story.at(11.5);
    assert_eq!(story.on(Event::ConfirmEarly { worker: 1 }), NOTHING, "not by the old one");
    assert_eq!(story.on(Event::ConfirmEarly { worker: 2 }), ["drain 1 by 41.5"]);
}

#[test]
fn worker_that_confirms_before_ready_is_confirmed_at_the_commit() {
    let mut story = Story::serving(confirming());
    story.on(restart(9));
    story.on(hello(2, confirming()));
    assert_eq!(story.on(Event::ConfirmEarly { worker: 2 }), NOTHING);
    assert_eq!(story.on(ready(2)), ["quiesce 1", "go 2", "drain 1 by 30.0"]);
}

#[test]
fn passed_check_allows_the_confirmation() {
    let check = |passed| Event::HealthCheck { worker: 2, passed };
    let mut story = Story::committed();
    assert_eq!(story.on(check(false)), NOTHING);
    assert_eq!(story.on(Event::ConfirmEarly { worker: 2 }), NOTHING, "it waits for the check");
    assert_eq!(story.on(check(true)), ["drain 1 by 41.0"]);

    let mut story = Story::committed();
    story.on(check(false));
    story.on(check(true));
    assert_eq!(story.tick(13.0), ["drain 1 by 43.0"], "a check alone does not shorten the window");
}

#[test]
fn check_that_does_not_pass_in_time_aborts_the_restart() {
    let mut story = Story::committed();
    story.on(Event::HealthCheck { worker: 2, passed: false });
    assert_eq!(story.tick(13.0), ["kill 2", "resume 1"]);
    assert_eq!(
        story.on(killed(2)),
        [
            "tell 9: aborted 1→2 accepted 2: the confirm check of generation 2 did not pass within 2 s; \
             raise `confirm_window` if it needs longer",
            "retire 2"
        ]
    );
}
