//! Orphans of an earlier supervisor.

use super::*;

/// A story in which the first worker has just replaced orphans, at 1 s.
fn replaced(policy: Policy) -> Story {
    let mut story = Story::with_orphans(policy, false);
    assert_eq!(story.on(Event::Begin), ["spawn 1 of 7 from disk"]);
    story.at(1.0);
    assert_eq!(story.boots(1), ["welcome 1", "go 1", "up 7", "drain orphans by 31.0"]);
    story
}

#[test]
fn orphans_drain_when_the_first_generation_serves() {
    let mut story = replaced(policy());
    assert_eq!(story.due(), Some(36.0));
    assert_eq!(story.on(Event::OrphansGone), NOTHING);
    assert_eq!(story.due(), None);
    assert_eq!(story.on(TERM), ["drain 1 by 31.0"]);
    assert_eq!(story.on(exited(1, 0)), ["exit 0"]);
}

#[test]
fn orphans_that_do_not_end_are_killed_until_they_do() {
    let mut story = replaced(policy());
    assert_eq!(story.tick(35.9), NOTHING);
    assert_eq!(story.tick(36.0), ["kill orphans"]);
    assert_eq!(story.tick(40.9), NOTHING);
    assert_eq!(story.tick(41.0), ["kill orphans"]);
    story.on(Event::OrphansGone);
    assert_eq!(story.due(), None);
}

#[test]
fn orphans_of_a_failed_start_go_on_serving() {
    let mut story = Story::with_orphans(policy(), false);
    story.on(Event::Begin);
    let reason = "the worker of generation 7 exited with code 3 before it was ready";
    assert_eq!(story.on(exited(1, 3)), ["retire 7".to_owned(), format!("exit 3: {reason}")]);
}

#[test]
fn a_stop_is_one_of_the_orphans_too() {
    let mut story = replaced(policy());
    story.at(2.0);
    let last = |by| format!("drain orphans by {by:?}, the last, with their listeners");
    assert_eq!(story.on(TERM), [last(32.0), "drain 1 by 32.0".to_owned()]);
    assert_eq!(story.due(), Some(32.0));
    story.at(3.0);
    assert_eq!(story.on(TERM), [last(3.0), "drain 1 by 3.0".to_owned()]);
    assert_eq!(story.on(exited(1, 0)), NOTHING, "orphans drain");
    let stop = Event::Stop { client: Some(4), at_once: false };
    assert_eq!(story.on(stop), [last(33.0)]);
    assert_eq!(story.tick(8.0), ["kill orphans"]);
    assert_eq!(story.on(Event::OrphansGone), ["tell 4: stopped, 1", "exit 0"]);

    let mut story = Story::with_orphans(policy(), false);
    story.on(Event::Begin);
    assert_eq!(story.on(QUIT), [last(0.0), "kill 1".to_owned()]);
    assert_eq!(story.on(Event::OrphansGone), NOTHING);
    assert_eq!(story.on(killed(1)), ["retire 7", "exit 0"]);
}

#[test]
fn exclusive_orphans_end_before_the_first_generation_begins() {
    for (policy, exclusive) in [(policy(), true), (Policy { exclusive: true, ..policy() }, false)] {
        let mut story = Story::with_orphans(policy, exclusive);
        assert_eq!(story.on(Event::Begin), ["drain orphans by 30.0, the last"]);
        assert_eq!(story.on(Event::Begin), NOTHING);
        assert_eq!(story.on(restart(9)), ["tell 9: refused, the daemon has not started yet"]);
        assert_eq!(story.on(Event::OrphansGone), ["spawn 1 of 7 from disk"]);

        let mut story = Story::with_orphans(policy, exclusive);
        story.on(Event::Begin);
        story.on(TERM);
        assert_eq!(story.on(Event::OrphansGone), ["exit 0"]);
    }
}

/// The daemon was asked to stop, so its end is that of the orphans too, even if its worker brings it about.
#[test]
fn lame_duck_that_ends_by_itself_drains_orphans() {
    let lame = Policy { lame_duck: Duration::from_secs(5), ..policy() };
    let mut story = replaced(lame);
    assert_eq!(story.on(TERM), NOTHING);
    story.at(2.0);
    assert_eq!(story.on(exited(1, 0)), ["drain orphans by 32.0, the last, with their listeners"]);
    let reason = "the worker of generation 7 exited with code 0";
    assert_eq!(story.on(Event::OrphansGone), [format!("exit 0: {reason}")]);

    // Without a request the orphans drain as before, and the exit waits for them.
    let mut story = replaced(policy());
    assert_eq!(story.on(exited(1, 0)), NOTHING);
    assert_eq!(story.on(Event::OrphansGone), [format!("exit 0: {reason}")]);
}
