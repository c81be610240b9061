//! The supervisor's own part of a restart.

use super::*;
use crate::json;

/// Committed at 1 s and confirmed at once, by client 7 who waits for the old worker and 8 who does not.
fn upgrading() -> Story {
    let mut story = Story::serving(policy());
    story.upgrades_at_once = false;
    story.at(0.5);
    assert_eq!(story.on(restart_no_wait(8)), ["spawn 2 of 2 from disk"]);
    story.at(1.0);
    assert_eq!(story.boots(2), ["welcome 2", "quiesce 1", "go 2", "drain 1 by 31.0", "upgrade 2"]);
    story
}

#[test]
fn is_part_of_the_answer() {
    let mut story = upgrading();
    story.at(1.5);
    assert_eq!(
        story.on(Event::UpgradeFinished { kept: None }),
        ["tell 8: restarted 1→2 committed 0.5"]
    );
    assert_eq!(story.on(Event::UpgradeFinished { kept: None }), NOTHING);
}

#[test]
fn who_waits_for_the_old_worker_waits_for_both() {
    let mut story = Story::serving(policy());
    story.upgrades_at_once = false;
    story.on(restart(7));
    story.boots(2);
    story.at(1.0);
    assert_eq!(story.on(exited(1, 0)), ["retire 1"]);
    story.at(2.0);
    assert_eq!(
        story.on(Event::UpgradeFinished { kept: None }),
        ["tell 7: restarted 1→2 committed 0.0 drained 1.0 accepted 1"]
    );
}

#[test]
fn that_fails_is_told_and_remembered() {
    let mut story = Story::serving(policy());
    story.upgrades_at_once = false;
    story.on(restart(7));
    story.on(restart_no_wait(8));
    story.boots(2);
    let kept = Some("it panicked".to_owned());
    assert_eq!(story.on(Event::UpgradeFinished { kept }), ["spawn 3 of 3 from disk"]);
    let told = "the workers run the new image, but the supervisor keeps the old one: it panicked";
    assert_eq!(
        story.on(exited(1, 0)),
        [
            format!("tell 7: restarted 1→2 committed 0.0 drained 0.0 accepted 1; {told}"),
            "retire 1".to_owned()
        ]
    );
    let notes: Vec<_> = story.watch.machine.restarts().map(|it| it.note.as_deref()).collect();
    assert_eq!(notes, [Some(told)]);
}

#[test]
fn the_next_restart_comes_after_it() {
    let mut story = upgrading();
    assert_eq!(story.on(restart_no_wait(9)), NOTHING);
    assert_eq!(
        story.on(Event::UpgradeFinished { kept: None }),
        ["tell 8: restarted 1→2 committed 0.5", "spawn 3 of 3 from disk"]
    );
}

#[test]
fn a_crash_heals_beside_it() {
    let mut story = upgrading();
    assert_eq!(story.on(killed(2)), NOTHING);
    assert_eq!(story.tick(1.1), ["spawn 3 of 2 from pinned"]);
    assert_eq!(
        story.on(Event::UpgradeFinished { kept: None }),
        ["tell 8: restarted 1→2 committed 0.5"]
    );
}

#[test]
fn a_stop_does_not_wait_for_it() {
    let mut story = upgrading();
    assert_eq!(story.on(TERM), ["tell 8: restarted 1→2 committed 0.5", "drain 2 by 31.0"]);
    assert_eq!(story.on(Event::UpgradeFinished { kept: None }), NOTHING);
}

#[test]
fn who_hung_up_is_not_told() {
    let mut story = upgrading();
    story.on(Event::ClientGone { client: 8 });
    assert_eq!(story.on(Event::UpgradeFinished { kept: None }), NOTHING);
}

/// The state that is handed on leads to the same decisions.
#[test]
fn the_machine_survives_being_written_down() {
    let mut story = upgrading();
    let written = json::to_vec(&story.watch.machine).unwrap();
    story.watch.machine = json::from_slice(&written).unwrap();
    assert_eq!(json::to_vec(&story.watch.machine).unwrap(), written);
    assert_eq!(story.due(), Some(31.0));
    assert_eq!(
        story.on(Event::UpgradeFinished { kept: None }),
        ["tell 8: restarted 1→2 committed 0.5"]
    );
    story.at(31.0);
    assert_eq!(story.on(Event::Tick), ["terminate 1"]);
}
