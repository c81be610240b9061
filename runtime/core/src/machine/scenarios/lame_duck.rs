//! The lame-duck phase of a daemon that is asked to stop.

use std::time::Duration;

use super::*;
use crate::health::Probe;
use crate::health::ServicePhase;

const STOP: Event = Event::Stop { client: Some(7), at_once: false };

fn lame() -> Policy {
    Policy { lame_duck: Duration::from_secs(5), ..policy() }
}

fn probes(story: &Story) -> [bool; 3] {
    Probe::ALL.map(|probe| story.watch.machine.probe(probe).ok)
}

#[test]
fn lame_duck_accepts_without_being_ready_and_then_drains() {
    let mut story = Story::serving(lame());
    assert_eq!(probes(&story), [true, true, true]);
    story.at(2.0);
    assert_eq!(story.on(TERM), NOTHING);
    assert_eq!(probes(&story), [true, false, true]);
    let health = story.watch.machine.health();
    assert_eq!(
        (health.phase, health.ends_within),
        (ServicePhase::Stopping, Duration::from_secs(41))
    );
    assert_eq!(story.due(), Some(7.0));
    assert_eq!(story.tick(6.9), NOTHING);
    assert_eq!(story.tick(7.0), ["drain 1 by 37.0"]);
    assert_eq!(story.watch.machine.state(), State::Stopping);
    assert_eq!(probes(&story), [true, false, true]);
    assert_eq!(story.on(exited(1, 0)), ["exit 0"]);
}

#[test]
fn clients_wait_for_the_end_and_restarts_are_refused() {
    let mut story = Story::serving(lame());
    story.on(STOP);
    assert_eq!(story.on(restart(3)), ["tell 3: refused, the daemon is stopping"]);
    assert_eq!(story.on(Event::Stop { client: Some(8), at_once: false }), NOTHING);
    story.on(Event::ClientGone { client: 8 });
    assert_eq!(story.tick(5.0), ["drain 1 by 35.0"]);
    assert_eq!(story.on(exited(1, 0)), ["tell 7: stopped, 1", "exit 0"]);
}

#[test]
fn second_signal_stops_at_once() {
    let mut story = Story::serving(lame());
    story.on(STOP);
    story.at(1.0);
    assert_eq!(story.on(TERM), ["drain 1 by 1.0"]);
    assert_eq!(story.tick(1.0), ["terminate 1"]);
    assert_eq!(story.tick(2.0), ["kill 1"]);
    assert_eq!(story.on(killed(1)), ["tell 7: stopped, 1", "exit 0"]);

    let mut story = Story::serving(lame());
    story.on(TERM);
    assert_eq!(story.on(QUIT), ["drain 1 by 0.0"]);
}

#[test]
fn crashed_worker_is_respawned_and_restart_is_finished() {
    let mut story = Story::serving(lame());
    story.on(TERM);
    story.on(exited(1, 1));
    assert!(!story.watch.machine.probe(Probe::Ready).ok);
    story.tick(0.1);
    story.boots(2);
    assert_eq!(story.tick(5.0), ["drain 2 by 35.0"]);

    let mut story = Story::serving(lame());
    story.on(restart(3));
    story.on(TERM);
    assert_eq!(story.watch.machine.state(), State::LameDuck);
    story.boots(2);
    assert_eq!(story.watch.machine.serving_generation(), Some(2));
    assert_eq!(story.tick(5.0), ["drain 2 by 35.0"]);
}

#[test]
fn stop_begins_at_once_when_no_worker_accepts() {
    let mut story = Story::new(lame());
    story.on(Event::Begin);
    assert_eq!(probes(&story), [true, false, false]);
    assert_eq!(story.on(TERM), ["kill 1"]);
    assert_eq!(story.on(killed(1)), ["retire 1", "exit 0"]);
}
