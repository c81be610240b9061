//! Crashes, respawns, and workers that drain on their own.

use std::time::Duration;

use super::*;

#[test]
fn crashed_worker_is_respawned_with_backoff_up_to_the_start_limit() {
    let mut story = Story::serving(policy());
    let mut now = 10.0;
    for (worker, delay) in (1..).zip([0.1, 0.2, 0.4, 0.8, 1.0]) {
        story.at(now);
        assert_eq!(story.on(exited(worker, 3)), NOTHING);
        now += delay;
        assert!((story.due().unwrap() - now).abs() < 1e-6, "{:?} at {now}", story.due());
        assert_eq!(story.tick(now + 1e-6), [format!("spawn {} of 1 from pinned", worker + 1)]);
        now += 1.0;
        assert_eq!(
            story.boots(worker + 1),
            [format!("welcome {}", worker + 1), format!("go {}", worker + 1)]
        );
    }
    story.at(now);
    assert_eq!(
        story.on(gone(6, Exit::Signal(6))),
        ["exit 134: the worker of generation 1 was killed by SIGABRT: crash 6 within 60 s, \
             over the start limit of 5"]
    );
}

#[test]
fn crashes_are_forgotten_after_the_interval() {
    let mut story = Story::serving(policy());
    for worker in 1..20 {
        let now = 61.0 * worker as f64;
        story.at(now);
        story.on(exited(worker, 3));
        assert_eq!(story.tick(now + 0.1), [format!("spawn {} of 1 from pinned", worker + 1)]);
        story.boots(worker + 1);
    }
}

#[test]
fn new_generation_starts_without_the_crashes_of_the_old() {
    let limited = Policy { start_limit_burst: 1, ..policy() };
    let mut story = Story::serving(limited);
    story.on(exited(1, 3));
    assert_eq!(story.tick(0.1), ["spawn 2 of 1 from pinned"]);
    story.boots(2);
    story.on(restart_no_wait(9));
    story.boots(3);
    assert_eq!(story.on(exited(2, 0)), ["retire 1"]);
    assert_eq!(story.on(exited(3, 3)), NOTHING);
    assert_eq!(story.tick(0.2), ["spawn 4 of 2 from pinned"]);
}

#[test]
fn respawn_that_is_never_ready_counts_as_a_crash() {
    let ready_timeout = Duration::from_secs(5);
    let mut story = Story::serving(Policy { start_limit_burst: 1, ready_timeout, ..policy() });
    story.on(exited(1, 3));
    story.tick(0.1);
    story.at(3.0);
    story.on(hello(2, policy()));
    assert_eq!(story.tick(5.0), NOTHING);
    assert_eq!(story.tick(5.1), ["kill 2"]);
    // Also if it exits with 0 before SIGKILL arrives.
    let actions = story.on(exited(2, 0));
    assert_eq!(actions.len(), 1);
    assert!(
        actions[0].starts_with("exit 1: ") && actions[0].ends_with("start limit of 1"),
        "{actions:?}"
    );
}

#[test]
fn start_limit_waits_for_a_restart_in_progress() {
    let limited = Policy { start_limit_burst: 0, ..policy() };
    // A restart that succeeds saves the daemon …
    let mut story = Story::serving(limited);
    story.on(restart(9));
    assert_eq!(story.on(exited(1, 3)), NOTHING);
    assert_eq!(story.due(), Some(60.0), "no respawn");
    assert_eq!(
        story.boots(2),
        [
            "welcome 2",
            "go 2",
            "retire 1",
            "tell 9: restarted 1→2 committed 0.0 drained 0.0 accepted 1"
        ]
    );
    // … one that fails does not, nor does the pending one that fails after it.
    let mut story = Story::serving(limited);
    story.on(restart(8));
    story.on(restart(9));
    story.on(exited(1, 3));
    assert_eq!(
        story.on(exited(2, 4)),
        [
            "tell 8: aborted 1→2: the worker of generation 2 exited with code 4 before it was ready",
            "retire 2",
            "spawn 3 of 3 from disk"
        ]
    );
    assert_eq!(
        story.on(exited(3, 5)),
        [
            "tell 9: aborted 1→3: the worker of generation 3 exited with code 5 before it was ready",
            "retire 3",
            "exit 3: the worker of generation 1 exited with code 3: crash 1 within 60 s, over the \
             start limit of 0"
        ]
    );
}

#[test]
fn worker_that_crashes_during_a_restart_is_respawned() {
    let mut story = Story::serving(policy());
    story.on(restart(9));
    story.on(exited(1, 3));
    assert_eq!(story.tick(0.1), ["spawn 3 of 1 from pinned"]);
    story.on(hello(3, policy()));
    // The new generation serves first, so the respawn is not needed. The ledger has both workers.
    assert_eq!(story.boots(2), ["welcome 2", "kill 3", "go 2"]);
    assert_eq!(
        story.on(killed(3)),
        ["tell 9: restarted 1→2 committed 0.1 drained 0.1 accepted 4", "retire 1"]
    );
}

#[test]
fn program_that_is_done_ends_the_daemon_unless_it_always_restarts() {
    let mut story = Story::serving(policy());
    assert_eq!(story.on(exited(1, 0)), ["exit 0: the worker of generation 1 exited with code 0"]);
    let mut story = Story::serving(restarting(RestartPolicy::Always));
    assert_eq!(story.on(exited(1, 0)), NOTHING);
    assert_eq!(story.tick(0.1), ["spawn 2 of 1 from pinned"]);
}

#[test]
fn daemon_without_respawns_exits_with_the_code_of_its_worker() {
    for (exit, expected) in [
        (Exit::Code(0), "exit 0: the worker of generation 1 exited with code 0"),
        (Exit::Code(7), "exit 7: the worker of generation 1 exited with code 7"),
        (Exit::Signal(9), "exit 137: the worker of generation 1 was killed by SIGKILL"),
    ] {
        let mut story = Story::serving(restarting(RestartPolicy::No));
        assert_eq!(story.on(gone(1, exit)), [expected]);
    }
    let mut story = Story::serving(restarting(RestartPolicy::No));
    story.on(restart(9));
    assert_eq!(
        story.on(exited(1, 7)),
        [
            "tell 9: aborted 1→2: the daemon is stopping: the worker of generation 1 exited with \
             code 7",
            "kill 2"
        ]
    );
}

#[test]
fn worker_that_loses_its_link_is_killed_and_respawned() {
    let mut story = Story::serving(policy());
    story.at(5.0);
    assert_eq!(story.on(lost(1)), NOTHING);
    story.at(5.5);
    story.on(lost(1));
    assert_eq!(story.due(), Some(6.0), "a second loss puts nothing off");
    assert_eq!(story.tick(6.0), ["kill 1"]);
    assert_eq!(story.on(killed(1)), NOTHING);
    assert_eq!(story.tick(6.1), ["spawn 2 of 1 from pinned"]);
}

#[test]
fn worker_that_got_sigterm_is_replaced_without_counting_a_crash() {
    let mut story = Story::serving(Policy { start_limit_burst: 0, ..policy() });
    for worker in 1..10 {
        story.at(worker as f64);
        let actions = story.on(leaving(worker));
        assert_eq!(
            actions,
            [
                format!("drain {worker} by {:?}", worker as f64 + 30.0),
                format!("spawn {} of 1 from pinned", worker + 1)
            ]
        );
        assert_eq!(story.on(leaving(worker)), NOTHING);
        story.boots(worker + 1);
        assert_eq!(story.on(exited(worker, 0)), NOTHING);
    }
}

#[test]
fn worker_that_gets_sigterm_at_once_is_respawned_after_the_backoff() {
    let mut story = Story::serving(policy());
    story.at(0.04);
    assert_eq!(story.on(leaving(1)), ["drain 1 by 30.04"]);
    assert_eq!(story.tick(0.1), ["spawn 2 of 1 from pinned"]);
}

#[test]
fn answer_contains_the_ledger_of_all_workers_of_the_old_generation() {
    let mut story = Story::serving(policy());
    story.at(1.0);
    story.on(leaving(1));
    story.boots(2);
    story.on(restart(9));
    assert_eq!(story.boots(3), ["welcome 3", "quiesce 2", "go 3", "drain 2 by 31.0"]);
    assert_eq!(story.on(exited(2, 0)), NOTHING);
    assert_eq!(
        story.on(exited(1, 0)),
        ["tell 9: restarted 1→2 committed 0.0 drained 0.0 accepted 3", "retire 1"]
    );
}
