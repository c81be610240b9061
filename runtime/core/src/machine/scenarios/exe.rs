//! Restarts from another path.

use super::*;

fn from(path: &str, client: ClientId) -> Event {
    Event::RestartFrom { exe: path.into(), client: Some(client), wait: false }
}

fn path(story: &Story) -> Option<&str> {
    story.watch.machine.exe()?.to_str()
}

#[test]
fn path_is_adopted_when_its_generation_is_confirmed() {
    let mut story = Story::serving(confirming());
    assert_eq!(path(&story), None);
    assert_eq!(story.on(from("/srv/2", 9)), ["spawn 2 of 2 from disk"]);
    assert_eq!(path(&story), Some("/srv/2"), "what is spawned now");
    story.boots(2);
    story.tick(2.0);
    assert_eq!(path(&story), Some("/srv/2"));
    assert_eq!(story.on(HUP), ["spawn 3 of 3 from disk"]);
    assert_eq!(path(&story), Some("/srv/2"), "also of a restart that says nothing");
}

#[test]
fn path_is_forgotten_when_the_restart_is_aborted() {
    let mut story = Story::serving(confirming());
    story.on(from("/srv/2", 9));
    story.on(exited(2, 1));
    assert_eq!(path(&story), None);
    // Also if it is aborted after its commit.
    story.on(from("/srv/3", 9));
    story.boots(3);
    assert_eq!(path(&story), Some("/srv/3"));
    story.on(killed(3));
    assert_eq!(path(&story), None);
    story.on(HUP);
    assert_eq!(path(&story), None);
}

#[test]
fn relative_path_is_refused() {
    let mut story = Story::serving(policy());
    assert_eq!(story.on(from("srv/2", 9)), ["tell 9: refused, srv/2 is not an absolute path"]);
    assert_eq!(path(&story), None);
}

#[test]
fn latest_path_of_pending_restarts_counts() {
    let mut story = Story::serving(policy());
    story.on(restart_no_wait(5));
    story.on(from("/srv/2", 6));
    story.on(from("/srv/3", 7));
    assert_eq!(story.on(restart_no_wait(8)), NOTHING);
    assert_eq!(path(&story), None, "the restart in progress is as it was asked for");
    let actions = story.boots(2);
    assert_eq!(actions.last().map(String::as_str), Some("spawn 3 of 3 from disk"), "{actions:?}");
    assert_eq!(path(&story), Some("/srv/3"));
}

#[test]
fn rollback_does_not_change_the_path() {
    let mut story = Story::serving(Policy { start_limit_burst: 0, ..policy() });
    story.on(from("/srv/2", 9));
    story.boots(2);
    story.on(exited(1, 0));
    assert_eq!(story.on(exited(2, 3)), ["spawn 3 of 3 from known-good 1"]);
    story.boots(3);
    assert_eq!(path(&story), Some("/srv/2"), "as with what lies on disk");
}

#[test]
fn refused_restart_does_not_change_the_path() {
    let mut story = Story::new(policy());
    story.on(from("/srv/2", 9));
    story.on(Event::Begin);
    assert_eq!(path(&story), None);
}
