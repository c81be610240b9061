//! Compatibility with earlier releases: the present code must read what they have written. A supervisor,
//! its next image and its workers may be of different releases.
//!
//! `compat/<release>/` holds recorded messages of the supervisor link and the control socket, one per line,
//! and the state of a supervisor in the middle of a restart. The files of a published release never change.

use serde_json::{Value, json};

use crate::control::{Reply, Request};
use crate::json::{self, FromJson, ToJson};
use crate::link::{FromWorker, ToWorker};
use crate::supervisor::upgrade::SupervisorState;

/// The recorded state of the present release.
pub(crate) const STATE: &str = include_str!("0.1.0/state.json");

/// What a release has written.
struct Release {
    from_worker: &'static str,
    to_worker: &'static str,
    request: &'static str,
    reply: &'static str,
    state: &'static str,
}

const RELEASES: [Release; 1] = [Release {
    from_worker: include_str!("0.1.0/from_worker.jsonl"),
    to_worker: include_str!("0.1.0/to_worker.jsonl"),
    request: include_str!("0.1.0/request.jsonl"),
    reply: include_str!("0.1.0/reply.jsonl"),
    state: STATE,
}];

#[test]
fn messages_of_all_releases_are_understood() {
    for release in &RELEASES {
        understood::<FromWorker>(release.from_worker);
        understood::<ToWorker>(release.to_worker);
        understood::<Request>(release.request);
        understood::<Reply>(release.reply);
    }
}

#[test]
fn states_of_all_releases_are_understood() {
    for release in &RELEASES {
        let recorded: Value = serde_json::from_str(release.state).unwrap();
        let state = SupervisorState::read(release.state.as_bytes()).unwrap();
        holds(&json::to_value(&state).unwrap(), &recorded, "state");

        let mut later = recorded.clone();
        let places = ["", "/machine", "/machine/workers/1", "/workers/1", "/images/0", "/clients"];
        for place in places {
            if let Some(Value::Object(fields)) = later.pointer_mut(place) {
                fields.insert("of-a-later-release".into(), json!({ "a": [1, null] }));
            }
        }
        assert_ne!(later, recorded);
        let read = SupervisorState::read(later.to_string().as_bytes()).unwrap();
        assert_eq!(json::to_value(&read).unwrap(), json::to_value(&state).unwrap());
    }
}

#[test]
fn state_of_a_later_version_is_rejected() {
    let mut later: Value = serde_json::from_str(STATE).unwrap();
    later["version"] = json!(2);
    later["release"] = json!("7.1.0");
    later["machine"] = json!("of another kind");
    assert_eq!(
        SupervisorState::read(later.to_string().as_bytes()).unwrap_err().to_string(),
        "the supervisor's state has version 2 (release 7.1.0), but this image supports versions up \
         to 1; stop and start the daemon"
    );
    assert!(SupervisorState::read(b"{}").is_err());
    assert!(SupervisorState::read(b"").is_err());
}

/// Checks that each line is a known message, of which no field is lost.
#[track_caller]
fn understood<M: ToJson + FromJson>(lines: &str) {
    let mut count = 0;
    for line in lines.lines() {
        let recorded: Value = serde_json::from_str(line).unwrap();
        let read = json::from_slice::<M>(line.as_bytes()).unwrap();
        holds(&json::to_value(&read).unwrap(), &recorded, line);
        count += 1;
    }
    assert!(count > 3, "{count} lines");
}

/// Checks that `now` contains everything in `recorded`; it may contain more.
#[track_caller]
fn holds(now: &Value, recorded: &Value, at: &str) {
    match (now, recorded) {
        (Value::Object(now), Value::Object(recorded)) => {
            for (name, value) in recorded {
                let Some(kept) = now.get(name) else { panic!("`{name}` is lost: {at}") };
                holds(kept, value, at);
            }
        }
        (Value::Array(now), Value::Array(recorded)) => {
            assert_eq!(now.len(), recorded.len(), "{at}");
            now.iter().zip(recorded).for_each(|(now, recorded)| holds(now, recorded, at));
        }
        (now, recorded) => assert_eq!(now, recorded, "{at}"),
    }
}

/// Records the messages of the present release. Its state is recorded by a test that runs a supervisor.
#[test]
#[ignore = "for a release that is not out yet"]
fn record_the_messages() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/compat/0.1.0");
    std::fs::create_dir_all(&dir).unwrap();
    for target in ["from_worker", "to_worker", "request", "reply"] {
        let messages = crate::fuzz::seeds::of(target, "a \"text\"", 7);
        let lines: Vec<String> = messages
            .into_iter()
            .map(|message| String::from_utf8(message).unwrap())
            .filter(|line| !line.contains("\"unknown\""))
            .collect();
        std::fs::write(dir.join(format!("{target}.jsonl")), lines.join("\n") + "\n").unwrap();
    }
}
