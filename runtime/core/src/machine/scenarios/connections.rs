//! The handoff channels that are opened from draining workers to the one that serves.

use super::*;

impl Story {
    /// Sends an event; returns the handoff channels that it opens and the workers that it drains, in order.
    fn handoffs_and_drains(&mut self, event: Event) -> Vec<String> {
        let describe = |action| match action {
            Action::OpenHandoffChannel { from, to } => Some(format!("{from} to {to}")),
            Action::SendToWorker { worker, command: WorkerCommand::Drain { .. } } => {
                Some(format!("drain {worker}"))
            }
            _ => None,
        };
        self.watch.on(event).into_iter().filter_map(describe).collect()
    }
}

#[test]
fn handoff_channel_is_opened_before_the_drain() {
    let mut story = Story::serving(policy());
    story.on(restart(7));
    story.on(hello(2, policy()));
    assert_eq!(story.handoffs_and_drains(ready(2)), ["1 to 2", "drain 1"]);
}

#[test]
fn handoff_channel_is_opened_only_when_the_worker_is_confirmed() {
    let mut story = Story::serving(confirming());
    story.on(restart(7));
    story.on(hello(2, confirming()));
    assert_eq!(story.handoffs_and_drains(ready(2)), NOTHING);
    story.at(2.0);
    assert_eq!(story.handoffs_and_drains(Event::Tick), ["1 to 2", "drain 1"]);
}

#[test]
fn all_draining_workers_hand_off_to_the_newest() {
    let mut story = Story::serving(policy());
    story.on(restart(7));
    story.boots(2);
    story.on(restart(8));
    story.on(hello(3, policy()));
    assert_eq!(story.handoffs_and_drains(ready(3)), ["1 to 3", "2 to 3", "drain 2"]);
}

#[test]
fn draining_workers_hand_off_to_a_respawned_worker() {
    let mut story = Story::serving(policy());
    story.on(restart(7));
    story.boots(2);
    story.on(killed(2));
    story.tick(1.0);
    story.on(hello(3, policy()));
    assert_eq!(story.handoffs_and_drains(ready(3)), ["1 to 3"]);
}
