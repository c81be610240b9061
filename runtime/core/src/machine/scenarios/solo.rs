//! A daemon without a supervisor.

use super::*;
use crate::health::{Probe, ServicePhase};
use crate::machine::solo::{SoloMachine, WORKER};

/// A scenario of a solo daemon in progress, in which worker 1 is the process itself.
struct SoloStory {
    machine: SoloMachine,
    began: Instant,
    now: Instant,
    /// The log lines and progress so far, which the strings leave out.
    told: Vec<String>,
}

impl SoloStory {
    fn new(policy: Policy) -> SoloStory {
        let began = Instant::from_nanos(1_000_000_000);
        let machine = SoloMachine::new("app", policy, began);
        SoloStory { machine, began, now: began, told: Vec::new() }
    }

    fn serving(policy: Policy) -> SoloStory {
        let mut story = SoloStory::new(policy);
        assert_eq!(story.on(ready(WORKER)), ["go 1", "up 1"]);
        story
    }

    fn at(&mut self, seconds: f64) -> &mut SoloStory {
        self.now = self.began + Duration::from_secs_f64(seconds);
        self
    }

    /// Sends an event; returns the actions as short strings.
    fn on(&mut self, event: Event) -> Vec<String> {
        let actions = self.machine.on(event, self.now);
        self.told.extend(actions.iter().filter_map(|action| match action {
            Action::Log { text, .. } | Action::Progress { text } => Some(text.clone()),
            _ => None,
        }));
        actions.into_iter().filter_map(|action| say(self.began, action)).collect()
    }

    fn told(&mut self) -> Vec<String> {
        std::mem::take(&mut self.told)
    }

    fn probes(&self) -> [bool; 3] {
        Probe::ALL.map(|probe| self.machine.probe(probe).ok)
    }
}

fn stop(client: ClientId) -> Event {
    Event::Stop { client: Some(client), at_once: false }
}

#[test]
fn solo_daemon_starts_serves_and_stops() {
    let mut story = SoloStory::new(policy());
    assert_eq!((story.machine.state(), story.probes()), (State::Starting, [true, false, false]));
    assert_eq!(story.machine.deadline(), Some(story.began + policy().ready_timeout));
    assert_eq!(story.on(ready(WORKER)), ["go 1", "up 1"]);
    assert_eq!((story.machine.state(), story.probes()), (State::Running, [true, true, true]));
    assert_eq!((story.machine.deadline(), story.on(ready(WORKER))), (None, vec![]));
    assert_eq!(story.at(5.0).on(stop(7)), ["drain 1 by 35.0"]);
    assert_eq!(story.told(), ["draining", "stopping"]);
    assert_eq!((story.machine.state(), story.probes()), (State::Stopping, [true, false, true]));
    assert_eq!(story.at(6.0).on(stop(8)), NOTHING);
    assert_eq!(story.at(6.0).on(stop(9)), NOTHING);
    story.on(Event::ClientGone { client: 8 });
    let now = story.at(8.0).now;
    let ended = story.machine.on(exited(WORKER, 0), now);
    let [Action::Answer { client: 7, answer: ClientAnswer::Stopped { to_drained, .. } }, ..] =
        &ended[..]
    else {
        panic!("{ended:?}")
    };
    assert_eq!((to_drained.as_secs(), ended.len()), (3, 3), "{ended:?}");
    assert_eq!(ended.last(), Some(&Action::Exit { code: 0, reason: None }));
    assert_eq!(story.on(TERM), NOTHING);
}

#[test]
fn each_signal_to_a_solo_daemon_is_more_urgent() {
    let mut story = SoloStory::serving(policy());
    assert_eq!(story.on(TERM), ["drain 1 by 30.0"]);
    assert_eq!(story.at(1.0).on(TERM), ["drain 1 by 1.0"]);
    assert_eq!(story.on(stop(7)), NOTHING);
    assert_eq!(story.at(1.5).on(TERM), ["kill 1"]);

    let mut story = SoloStory::serving(policy());
    assert_eq!(story.on(QUIT), ["drain 1 by 0.0"]);
    assert_eq!((story.told(), story.on(QUIT)), (vec![], vec!["kill 1".to_owned()]));
}

/// The worker forces its connections at the deadline itself, and reports them in its ledger.
#[test]
fn solo_daemon_reports_what_the_stop_cost() {
    let mut story = SoloStory::serving(policy());
    let ledger = Ledger { accepted: 3, forced: 3, lost: 0, ..Ledger::default() };
    story.on(TERM);
    assert_eq!(story.machine.deadline(), None);
    story.told();
    let end = Event::Exited { worker: WORKER, exit: Exit::Code(0), ledger };
    assert_eq!(story.at(30.0).on(end), ["exit 0"]);
    let forced = "forced at the drain deadline: 3 connections".to_owned();
    assert_eq!(story.told(), [forced, format!("stopped: {ledger}")]);

    let mut story = SoloStory::serving(policy());
    let ledger = Ledger { accepted: 1, lost: 1, forced_tasks: 2, ..Ledger::default() };
    story.on(Event::Exited { worker: WORKER, exit: Exit::Code(0), ledger });
    let told = story.told();
    assert!(told[0].starts_with("forced at the drain deadline: "), "{told:?}");
    assert_eq!(told[1..], [format!("exited without being asked to stop: {ledger}")]);
}

#[test]
fn solo_daemon_that_is_not_ready_in_time_exits() {
    let mut story = SoloStory::new(policy());
    story.on(Event::ReadinessBlockedBy { worker: WORKER, what: "it hangs".into() });
    assert_eq!(story.at(59.0).on(Event::Tick), NOTHING);
    let reason = "app was not ready within 1m: it hangs; raise `ready_timeout` if it needs longer";
    assert_eq!(story.at(60.0).on(Event::Tick), [format!("exit 1: {reason}")]);
    assert_eq!(story.told(), [reason]);
    assert_eq!(story.on(ready(WORKER)), NOTHING);

    let mut story = SoloStory::new(policy());
    let slip = Event::HelloRejected { worker: WORKER, reason: "a slip".into() };
    assert_eq!(story.on(slip), ["exit 1: a slip"]);
}

#[test]
fn solo_daemon_that_starts_drains_at_a_stop() {
    let mut story = SoloStory::new(Policy { lame_duck: Duration::from_secs(5), ..policy() });
    assert_eq!(story.on(TERM), ["drain 1 by 30.0"]);
    assert_eq!((story.on(ready(WORKER)), story.probes()), (vec![], [true, false, false]));
    assert_eq!(story.on(exited(WORKER, 0)), ["exit 0"]);
}

#[test]
fn solo_lame_duck_accepts_without_being_ready() {
    let lame = Policy { lame_duck: Duration::from_secs(5), ..policy() };
    let mut story = SoloStory::serving(lame);
    assert_eq!(story.at(2.0).on(TERM), NOTHING);
    assert_eq!((story.machine.state(), story.probes()), (State::LameDuck, [true, false, true]));
    let health = story.machine.health();
    assert_eq!((health.phase, health.ends_within.as_secs()), (ServicePhase::Stopping, 41));
    assert_eq!(story.at(3.0).on(stop(7)), NOTHING);
    let left = |left| format!("lame duck for {left} s: not ready, still accepting");
    let begun = "lame duck for 5s: not ready, still accepting".to_owned();
    assert_eq!(story.told(), [begun, left(5), left(4)]);
    assert_eq!(story.at(6.9).on(Event::Tick), NOTHING);
    assert_eq!(story.at(7.0).on(Event::Tick), ["drain 1 by 37.0"]);
    assert_eq!(story.on(exited(WORKER, 0)), ["tell 7: stopped, 1", "exit 0"]);

    for signal in [TERM, QUIT] {
        let mut story = SoloStory::serving(lame);
        story.on(TERM);
        assert_eq!(story.at(1.0).on(signal), ["drain 1 by 1.0"]);
    }
}

#[test]
fn solo_daemon_refuses_restarts() {
    let mut story = SoloStory::serving(policy());
    let refused = "tell 7: refused, app runs without a supervisor; add `graceful_restart` to its \
                   attribute, or stop and start it";
    assert_eq!(story.on(restart(7)), [refused]);
    assert_eq!(story.on(HUP), NOTHING);
    let sick = Event::Unhealthy { worker: WORKER, reason: "no database".into() };
    assert_eq!(story.on(sick), NOTHING);
    assert_eq!(story.told(), ["the program is unhealthy: no database"]);
    assert_eq!(story.machine.state(), State::Running);
}
