//! What the machine announces: confirmations and changes of what is shown.

use super::*;

impl Story {
    /// What an event announces, in short.
    fn announces(&mut self, event: Event) -> Vec<String> {
        let announced = |action| match action {
            Action::Confirming { generation } => Some(format!("confirming {generation}")),
            Action::Confirmed { generation, previous } => {
                Some(format!("confirmed {generation} in place of {previous:?}"))
            }
            Action::StateChanged => Some("changed".to_owned()),
            Action::Exit { .. } => Some("exit".to_owned()),
            Action::SendToWorker { worker, command } => match command {
                WorkerCommand::Go => Some(format!("go {worker}")),
                WorkerCommand::Drain { last, listeners_end, .. } => {
                    Some(format!("drain {worker}, {last}, {listeners_end}"))
                }
                _ => None,
            },
            _ => None,
        };
        self.watch.on(event).into_iter().filter_map(announced).collect()
    }
}

#[test]
fn a_confirmation_encloses_what_follows_from_it() {
    let mut story = Story::new(policy());
    assert_eq!(story.announces(Event::Begin), ["changed"]);
    assert_eq!(story.announces(hello(1, policy())), NOTHING);
    let first = ["confirming 1", "go 1", "changed", "confirmed 1 in place of None"];
    assert_eq!(story.announces(ready(1)), first);
    assert_eq!(story.announces(Event::UpgradeFinished { kept: None }), ["changed"]);
    assert_eq!(story.announces(HUP), ["changed"]);
    story.on(hello(2, policy()));
    assert_eq!(
        story.announces(ready(2)),
        [
            "confirming 2",
            "go 2",
            "drain 1, false, false",
            "changed",
            "confirmed 2 in place of Some(1)"
        ]
    );
}

#[test]
fn a_confirm_window_lies_between_two_changes() {
    let mut story = Story::committed();
    assert_eq!(story.announces(Event::Tick), NOTHING);
    story.at(13.0);
    assert_eq!(
        story.announces(Event::Tick),
        ["confirming 2", "drain 1, false, false", "changed", "confirmed 2 in place of Some(1)"]
    );
}

#[test]
fn a_stop_changes_what_is_shown() {
    let mut story = Story::serving(policy());
    assert_eq!(story.announces(TERM), ["drain 1, true, true", "changed"]);
    assert_eq!(story.announces(TERM), ["drain 1, true, true"]);
    assert_eq!(story.announces(exited(1, 0)), ["changed", "exit"]);
}

/// The stop follows from the end of the only worker, which received *drain* before.
#[test]
fn a_drain_that_turns_out_to_be_the_end_is_the_last() {
    let policy =
        Policy { watchdog: Some(Duration::from_secs(2)), start_limit_burst: 0, ..policy() };
    let mut story = Story::serving(policy);
    story.tick(1.0);
    story.at(3.0);
    assert_eq!(story.announces(Event::Tick), ["drain 1, true, true", "changed"]);
}
