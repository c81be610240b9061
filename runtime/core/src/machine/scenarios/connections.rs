//! To whom workers that drain pass their connections.

use super::*;

impl Story {
    /// Who passes to whom because of an event, and who is told to drain after that.
    fn passes(&mut self, event: Event) -> Vec<String> {
        let said = |action| match action {
            Action::OpenHandoffChannel { from, to } => Some(format!("{from} to {to}")),
            Action::SendToWorker { worker, command: WorkerCommand::Drain { .. } } => {
                Some(format!("drain {worker}"))
            }
            _ => None,
        };
        self.watch.on(event).into_iter().filter_map(said).collect()
    }
}

#[test]
fn a_worker_knows_its_successor_before_it_drains() {
    let mut story = Story::serving(policy());
    story.on(restart(7));
    story.on(hello(2, policy()));
    assert_eq!(story.passes(ready(2)), ["1 to 2", "drain 1"]);
}

#[test]
fn only_a_confirmed_worker_gets_connections() {
    let mut story = Story::serving(confirming());
    story.on(restart(7));
    story.on(hello(2, confirming()));
    assert_eq!(story.passes(ready(2)), NOTHING);
    story.at(2.0);
    assert_eq!(story.passes(Event::Tick), ["1 to 2", "drain 1"]);
}

#[test]
fn all_that_drain_pass_to_the_newest() {
    let mut story = Story::serving(policy());
    story.on(restart(7));
    story.boots(2);
    story.on(restart(8));
    story.on(hello(3, policy()));
    assert_eq!(story.passes(ready(3)), ["1 to 3", "2 to 3", "drain 2"]);
}

#[test]
fn a_respawn_takes_over_from_the_killed_one() {
    let mut story = Story::serving(policy());
    story.on(restart(7));
    story.boots(2);
    story.on(killed(2));
    story.tick(1.0);
    story.on(hello(3, policy()));
    assert_eq!(story.passes(ready(3)), ["1 to 3"]);
}
