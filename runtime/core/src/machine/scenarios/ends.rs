//! Drain deadlines and the stop of the daemon.

use std::time::Duration;

use super::*;

#[test]
fn drain_ends_with_sigterm_and_sigkill() {
    let mut story = Story::serving(policy());
    story.on(restart(9));
    story.boots(2);
    assert_eq!(story.tick(29.0), NOTHING);
    assert_eq!(story.tick(30.0), ["terminate 1"]);
    assert_eq!(story.due(), Some(35.0));
    assert_eq!(story.tick(34.0), NOTHING);
    assert_eq!(story.tick(35.0), ["kill 1"]);
    assert_eq!(story.due(), None);
    assert_eq!(
        story.on(killed(1)),
        ["tell 9: restarted 1→2 committed 0.0 drained 35.0 accepted 1", "retire 1"]
    );
}

#[test]
fn oldest_worker_is_forced_when_too_many_drain() {
    let mut story = Story::serving(policy());
    for worker in 2..10 {
        story.on(HUP);
        let actions = story.boots(worker);
        assert!(!actions.iter().any(|action| action.ends_with("by 0.0")), "{actions:?}");
    }
    story.at(1.0);
    story.on(HUP);
    assert_eq!(
        story.boots(10),
        ["welcome 10", "quiesce 9", "go 10", "drain 9 by 31.0", "drain 1 by 1.0"]
    );
    assert_eq!(story.tick(1.0), ["terminate 1"]);
    assert_eq!(story.tick(6.0), ["kill 1"]);
    story.on(killed(1));
    assert_eq!(story.due(), Some(30.0));
}

#[test]
fn stop_drains_the_worker() {
    let mut story = Story::serving(policy());
    story.at(5.0);
    let stop = |client| Event::Stop { client: Some(client), at_once: false };
    assert_eq!(story.on(stop(1)), ["drain 1 by 35.0"]);
    assert_eq!(story.on(stop(2)), NOTHING);
    assert_eq!(story.on(restart(3)), ["tell 3: refused, the daemon is stopping"]);
    assert_eq!(story.watch.machine.state(), State::Stopping);
    assert_eq!(story.on(exited(1, 1)), ["tell 1: stopped, 1", "tell 2: stopped, 1", "exit 0"]);
    assert_eq!(story.on(Event::Tick), NOTHING);
}

#[test]
fn second_signal_stops_at_once_and_third_kills() {
    let mut story = Story::serving(policy());
    assert_eq!(story.on(TERM), ["drain 1 by 30.0"]);
    story.at(1.0);
    assert_eq!(story.on(TERM), ["drain 1 by 1.0"]);
    assert_eq!(story.tick(1.0), ["terminate 1"]);
    assert_eq!(story.due(), Some(2.0));
    assert_eq!(story.on(TERM), ["kill 1"]);
    assert_eq!(story.on(TERM), NOTHING);
    assert_eq!(story.on(killed(1)), ["exit 0"]);

    let mut story = Story::serving(policy());
    assert_eq!(story.on(QUIT), ["drain 1 by 0.0"]);
    assert_eq!(story.tick(0.0), ["terminate 1"]);
    assert_eq!(story.tick(1.0), ["kill 1"]);
}

#[test]
fn stop_at_once_does_not_postpone_a_kill() {
    let mut story = Story::serving(policy());
    story.on(TERM);
    assert_eq!(story.tick(30.0), ["terminate 1"]);
    story.at(34.5);
    assert_eq!(story.on(TERM), NOTHING);
    assert_eq!(story.tick(35.0), ["kill 1"]);
}

#[test]
fn first_signal_to_a_daemon_that_ends_by_itself_lets_it_drain() {
    let mut story = Story::serving(policy());
    story.on(HUP);
    story.boots(2);
    assert_eq!(story.on(exited(2, 0)), NOTHING, "worker 1 drains");
    assert_eq!(story.on(TERM), NOTHING);
    assert_eq!(story.due(), Some(30.0));
    assert_eq!(story.on(TERM), ["drain 1 by 0.0"]);
    assert_eq!(
        story.on(exited(1, 0)),
        ["retire 1", "exit 0: the worker of generation 2 exited with code 0"]
    );
}

#[test]
fn stop_ends_the_restarts_in_progress_and_pending() {
    let mut story = Story::serving(policy());
    story.on(restart(1));
    story.on(restart(2));
    assert_eq!(
        story.on(TERM),
        [
            "tell 1: aborted 1→2: the daemon was asked to stop",
            "tell 2: refused, the daemon was asked to stop",
            "drain 1 by 30.0",
            "kill 2"
        ]
    );
    assert_eq!(story.on(ready(2)), NOTHING);
    assert_eq!(story.on(killed(2)), ["retire 2"]);
    assert_eq!(story.on(exited(1, 0)), ["exit 0"]);
}

#[test]
fn stop_in_the_confirm_window_drains_both_workers_by_their_own_settings() {
    let mut story = Story::serving(confirming());
    story.on(restart(9));
    let slow = Policy { drain_timeout: Duration::from_secs(300), ..confirming() };
    story.on(hello(2, slow));
    story.on(ready(2));
    assert_eq!(
        story.on(TERM),
        [
            "tell 9: aborted 1→2: the daemon was asked to stop",
            "drain 1 by 30.0",
            "drain 2 by 300.0"
        ]
    );
    assert_eq!(story.on(exited(2, 0)), ["retire 2"]);
    assert_eq!(story.on(exited(1, 0)), ["exit 0"]);
}

#[test]
fn stop_ends_a_daemon_without_a_serving_worker() {
    assert_eq!(Story::new(policy()).on(TERM), ["exit 0"]);

    let mut story = Story::new(policy());
    story.on(Event::Begin);
    assert_eq!(story.on(TERM), ["kill 1"]);
    assert_eq!(story.on(killed(1)), ["retire 1", "exit 0"]);

    let mut story = Story::serving(policy());
    story.on(exited(1, 3));
    assert_eq!(story.on(TERM), ["exit 0"], "a respawn is not waited for");
}

#[test]
fn client_that_waits_for_a_drain_is_answered_before_the_exit() {
    let mut story = Story::serving(policy());
    story.on(restart(9));
    story.boots(2);
    story.at(1.0);
    assert_eq!(story.on(TERM), ["drain 2 by 31.0"]);
    assert_eq!(story.on(exited(2, 0)), NOTHING);
    assert_eq!(
        story.on(exited(1, 0)),
        ["tell 9: restarted 1→2 committed 0.0 drained 1.0 accepted 1", "retire 1", "exit 0"]
    );
}
