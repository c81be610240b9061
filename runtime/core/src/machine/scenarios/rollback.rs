//! The rollback of a confirmed generation that uses up its start limit.

use super::*;

fn limited() -> Policy {
    Policy { start_limit_burst: 0, ..policy() }
}

/// A story in which worker 2 of the second generation serves and the first generation has ended.
fn replaced() -> Story {
    let mut story = Story::serving(limited());
    story.on(restart_no_wait(9));
    story.boots(2);
    assert_eq!(story.on(exited(1, 0)), ["retire 1"]);
    story
}

fn note(story: &Story) -> String {
    story.watch.machine.rolled_back().unwrap_or_default().to_owned()
}

#[test]
fn daemon_rolls_back_once_and_then_ends() {
    let mut story = replaced();
    assert_eq!(story.on(exited(2, 3)), ["spawn 3 of 3 from known-good 1"]);
    assert!(note(&story).starts_with(
        "rolled back to the known-good image of generation 1, now generation 3, because"
    ));
    assert_eq!(story.boots(3), ["welcome 3", "go 3", "retire 2"]);
    let actions = story.on(exited(3, 3));
    assert_eq!(actions.len(), 1, "{actions:?}");
    assert!(actions[0].starts_with("exit 3: the worker of generation 3 exited"), "{actions:?}");
}

#[test]
fn next_restart_reports_the_rollback() {
    let mut story = replaced();
    story.on(exited(2, 3));
    story.boots(3);
    let known = note(&story);
    story.on(restart_no_wait(5));
    story.on(exited(4, 1));
    let last_note =
        |story: &Story| story.watch.machine.restarts().next().and_then(|it| it.note.clone());
    assert_eq!(last_note(&story), Some(known.clone()), "one that fails changes nothing");
    story.on(restart_no_wait(6));
    story.boots(5);
    assert_eq!(last_note(&story), Some(known));
    assert_eq!(note(&story), "", "what was asked for runs again");
}

#[test]
fn first_generation_is_not_rolled_back() {
    let mut story = Story::serving(limited());
    let actions = story.on(exited(1, 3));
    assert!(actions[0].starts_with("exit 3: "), "{actions:?}");
}

#[test]
fn daemon_ends_if_the_rollback_fails_to_start() {
    let mut story = replaced();
    story.on(exited(2, 3));
    let actions = story.on(Event::SpawnFailed { worker: 3, reason: "it was written to".into() });
    assert_eq!(actions.len(), 2, "{actions:?}");
    assert!(actions[1].starts_with("exit 3: the worker of generation 2 exited"), "{actions:?}");
}

#[test]
fn rollback_waits_for_a_restart_in_progress() {
    let mut story = replaced();
    story.on(restart_no_wait(5));
    assert_eq!(story.on(exited(2, 3)), NOTHING);
    let actions = story.on(exited(3, 1));
    assert_eq!(
        actions.last().map(String::as_str),
        Some("spawn 4 of 4 from known-good 1"),
        "{actions:?}"
    );
}
