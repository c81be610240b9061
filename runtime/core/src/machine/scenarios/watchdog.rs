//! Workers whose runtime does not answer the watchdog.

use super::*;

fn watched() -> Policy {
    Policy { watchdog: Some(Duration::from_secs(10)), ..policy() }
}

fn pong(worker: WorkerId) -> Event {
    Event::Pong { worker }
}

#[test]
fn worker_is_pinged_after_half_the_time_for_an_answer() {
    let mut story = Story::serving(watched());
    assert_eq!(story.due(), Some(5.0));
    assert_eq!(story.tick(5.0), ["ping 1"]);
    assert_eq!(story.due(), Some(15.0));
    story.at(6.0);
    assert_eq!(story.on(pong(1)), NOTHING);
    assert_eq!(story.on(pong(1)), NOTHING, "an answer without a question");
    assert_eq!(story.tick(11.0), ["ping 1"]);
}

#[test]
fn worker_is_not_pinged_without_a_watchdog() {
    let story = Story::serving(policy());
    assert_eq!(story.due(), None);
}

#[test]
fn hung_worker_is_replaced_and_then_killed() {
    let mut story = Story::serving(watched());
    story.tick(5.0);
    assert_eq!(story.tick(15.0), ["examine 1", "drain 1 by 45.0"]);
    assert_eq!(story.tick(15.1), ["spawn 2 of 1 from pinned"]);
    assert_eq!(story.boots(2), ["welcome 2", "go 2", "kill 1"]);
    assert_eq!(story.on(killed(1)), NOTHING);
    assert_eq!(story.tick(20.1), ["ping 2"]);
}

#[test]
fn hung_worker_counts_as_a_crash() {
    let mut story = Story::serving(Policy { start_limit_burst: 0, ..watched() });
    story.tick(5.0);
    assert_eq!(story.tick(15.0), ["examine 1", "drain 1 by 45.0"]);
    assert_eq!(
        story.on(exited(1, 0)),
        ["exit 137: the worker of generation 1 has not responded to its watchdog for 10 s: \
             crash 1 within 60 s, over the start limit of 0"]
    );
}

#[test]
fn hung_new_worker_aborts_the_restart() {
    let confirming = Policy { confirm_window: Duration::from_secs(60), ..watched() };
    let mut story = Story::serving(confirming);
    story.on(restart(9));
    assert_eq!(story.boots(2), ["welcome 2", "quiesce 1", "go 2"]);
    assert_eq!(story.tick(5.0), ["ping 1", "ping 2"]);
    story.on(pong(1));
    assert_eq!(story.tick(15.0), ["ping 1", "examine 2", "kill 2", "resume 1"]);
    assert_eq!(
        story.on(killed(2)),
        [
            "tell 9: aborted 1→2 accepted 2: the worker of generation 2 has not responded to its \
             watchdog for 10 s",
            "retire 2"
        ]
    );
}
