//! The upgrade of the supervisor's own image after a restart.

use super::*;
use crate::json;

/// A story in which the restart that client 8 asked for was confirmed at 1 s and the upgrade is in progress.
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
fn answer_waits_for_the_upgrade() {
    let mut story = upgrading();
    story.at(1.5);
    assert_eq!(
        story.on(Event::UpgradeFinished { kept: None }),
        ["tell 8: restarted 1→2 committed 0.5"]
    );
    assert_eq!(story.on(Event::UpgradeFinished { kept: None }), NOTHING);
}

#[test]
fn client_that_waits_for_the_drain_waits_for_the_upgrade_too() {
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
fn failed_upgrade_is_reported() {
    let mut story = Story::serving(policy());
    story.upgrades_at_once = false;
    story.on(restart(7));
    story.on(restart_no_wait(8));
    story.boots(2);
    let kept = Some("it panicked".to_owned());
    assert_eq!(story.on(Event::UpgradeFinished { kept }), ["spawn 3 of 3 from disk"]);
    let remark = "the workers run the new image, but the supervisor keeps the old one: it panicked";
    assert_eq!(
        story.on(exited(1, 0)),
        [
            format!("tell 7: restarted 1→2 committed 0.0 drained 0.0 accepted 1; {remark}"),
            "retire 1".to_owned()
        ]
    );
    let notes: Vec<_> = story.watch.machine.restarts().map(|it| it.note.as_deref()).collect();
    assert_eq!(notes, [Some(remark)]);
}

#[test]
fn pending_restart_begins_after_the_upgrade() {
    let mut story = upgrading();
    assert_eq!(story.on(restart_no_wait(9)), NOTHING);
    assert_eq!(
        story.on(Event::UpgradeFinished { kept: None }),
        ["tell 8: restarted 1→2 committed 0.5", "spawn 3 of 3 from disk"]
    );
}

#[test]
fn crashed_worker_is_respawned_during_the_upgrade() {
    let mut story = upgrading();
    assert_eq!(story.on(killed(2)), NOTHING);
    assert_eq!(story.tick(1.1), ["spawn 3 of 2 from pinned"]);
    assert_eq!(
        story.on(Event::UpgradeFinished { kept: None }),
        ["tell 8: restarted 1→2 committed 0.5"]
    );
}

#[test]
fn stop_does_not_wait_for_the_upgrade() {
    let mut story = upgrading();
    assert_eq!(story.on(TERM), ["tell 8: restarted 1→2 committed 0.5", "drain 2 by 31.0"]);
    assert_eq!(story.on(Event::UpgradeFinished { kept: None }), NOTHING);
}

#[test]
fn client_that_disconnects_is_not_answered() {
    let mut story = upgrading();
    story.on(Event::ClientGone { client: 8 });
    assert_eq!(story.on(Event::UpgradeFinished { kept: None }), NOTHING);
}

/// A supervisor that upgrades hands the machine to its next image in this form.
#[test]
fn serialized_machine_makes_the_same_decisions() {
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
