//! Fuzz targets: one function for each parser of input from outside the process.
//!
//! Every function takes arbitrary bytes and panics if a property does not hold: no input panics a parser, a
//! message that is understood stays the same when it is sent again, a field of a later release is ignored,
//! and a message of a later release is recognized as unknown. `tests/fuzz` drives the targets by coverage;
//! the loop in [`stable`] needs no tools and is part of the tests.

#![allow(clippy::expect_used, reason = "a property that does not hold is a panic")]

#[cfg(test)]
pub(crate) mod seeds;
#[cfg(test)]
mod stable;

use serde_json::Value;

use crate::json::{self, FromJson, ToJson};
use crate::launch::role;
use crate::{config, control, image, link, pidfile};

/// Messages of a worker to its supervisor.
pub fn from_worker(bytes: &[u8]) {
    message::<link::FromWorker>(bytes, |read| matches!(read, link::FromWorker::Unknown));
    // The supervisor computes deadlines from the settings in a hello: adding them must not overflow the
    // clock.
    if let Ok(link::FromWorker::Hello { configuration: Some(it), .. }) = link::decode(bytes) {
        let settings = it.settings;
        let mut deadline = std::time::Instant::now();
        for timeout in [
            settings.ready_timeout,
            settings.drain_timeout,
            settings.kill_timeout,
            settings.lame_duck,
            settings.confirm_window,
            settings.watchdog,
            settings.orphan_grace,
            settings.backoff_min,
            settings.backoff_max,
            settings.start_limit_interval,
        ] {
            deadline += timeout;
        }
    }
}

/// Messages of a supervisor to its worker.
pub fn to_worker(bytes: &[u8]) {
    message::<link::ToWorker>(bytes, |read| matches!(read, link::ToWorker::Unknown));
}

/// Requests of a control client.
pub fn request(bytes: &[u8]) {
    message::<control::Request>(bytes, |read| matches!(read, control::Request::Unknown));
}

/// Replies of a daemon to a control client.
pub fn reply(bytes: &[u8]) {
    message::<control::Reply>(bytes, |read| matches!(read, control::Reply::Unknown));
}

/// Handoff messages between generations, and the answers to them.
pub fn handoff(bytes: &[u8]) {
    crate::worker::handoff::roundtrip(bytes);
}

/// The state that a supervisor writes for its next image.
pub fn state(bytes: &[u8]) {
    if let Ok(state) = crate::supervisor::upgrade::SupervisorState::read(bytes) {
        again(&state);
    }
}

/// The role marker in the environment of an exec'd process.
pub fn marker(bytes: &[u8]) {
    use std::os::unix::ffi::OsStrExt;
    if let Some(marker) = role::parse(std::ffi::OsStr::from_bytes(bytes)) {
        again(&marker);
    }
}

/// A configuration file, variables and options.
pub fn configuration(bytes: &[u8]) {
    config::fuzz::configuration(&String::from_utf8_lossy(bytes));
}

/// A listen address.
pub fn address(bytes: &[u8]) {
    config::fuzz::address(&String::from_utf8_lossy(bytes));
}

/// A duration.
pub fn duration(bytes: &[u8]) {
    config::fuzz::duration(&String::from_utf8_lossy(bytes));
}

/// Requests to the HTTP server for probes.
pub fn probe(bytes: &[u8]) {
    use crate::probe::{ParsedProbe, ProbeResult, parse, response};
    let parsed = parse(bytes);
    let answer = response(parsed, |_| ProbeResult::passes("yes"));
    assert_eq!(answer.is_none(), parsed == ParsedProbe::Partial);
    // Once there is an answer, further bytes do not change it.
    if parsed != ParsedProbe::Partial {
        let longer = [bytes, b"\r\n\r\n"].concat();
        assert_eq!(parse(&longer), parsed);
    }
}

/// The content of a pidfile.
pub fn pid(bytes: &[u8]) {
    assert!(pidfile::pid(bytes).is_none_or(|pid| pid > 0));
}

/// A program whose build id is read.
pub fn elf(bytes: &[u8]) {
    if let Some(id) = image::build_id_of(bytes) {
        assert!(id.len() <= 128 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
    }
}

/// Checks the properties of a message type.
fn message<M: ToJson + FromJson>(bytes: &[u8], is_unknown: impl Fn(&M) -> bool) {
    let Ok(read) = link::decode::<M>(bytes) else { return };
    let sent = again(&read);
    let Ok(Value::Object(mut fields)) = serde_json::from_slice(bytes) else { return };
    let decoded = |fields: &serde_json::Map<String, Value>| {
        let bytes = json::to_vec(&Value::Object(fields.clone())).expect("JSON is written as JSON");
        link::decode::<M>(&bytes).expect("what was understood")
    };
    fields.insert("of-a-later-release".into(), serde_json::json!({ "a": [1, null] }));
    let later = decoded(&fields);
    assert_eq!(json::to_vec(&later).expect("a message"), sent, "a new field changed it");
    fields.insert("type".into(), "of-a-later-release".into());
    assert!(is_unknown(&decoded(&fields)), "understood as something else");
}

/// Encodes a value, decodes it, and checks that it stays the same; returns the encoded form.
fn again<M: ToJson + FromJson>(read: &M) -> Vec<u8> {
    let sent = json::to_vec(read).expect("what was read can be sent");
    let received = link::decode::<M>(&sent).expect("what was sent is understood");
    let twice = json::to_vec(&received).expect("what was received can be sent");
    assert_eq!(String::from_utf8_lossy(&twice), String::from_utf8_lossy(&sent));
    sent
}
