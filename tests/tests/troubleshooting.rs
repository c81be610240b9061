//! The chapter on troubleshooting has every message of the code, and no others.
//!
//! The chapter has each message between double backticks, as in the sources, with `…` for values: at the
//! beginning of an item, before its cause and cure, or within a text.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

#[path = "troubleshooting/messages.rs"]
mod messages;

use messages::Message;

const CHAPTER: &str = "book/src/troubleshooting.md";

/// Texts that need no entry, by reason.
const EXEMPT: [(&str, &[&str]); 11] = [
    (
        "the type of a key in `check --help`, and the end of a message that has an entry",
        &[
            "a duration such as \"30s\"",
            "a limit such as \"1024:4096\"",
            "a literal address",
            "a name or a number",
            "a number, also below 0",
            "an address and a port",
            "an octal mode",
            "names of capabilities",
            "names or numbers",
        ],
    ),
    (
        "a piece of what `status` and `check` show, or systemd, and nothing that went wrong",
        &[
            "`stop` and `start`",
            "… is … as process … since … (…)",
            "the same, confirmed …",
            "… generation … … for …, … connections, … requests in flight…",
            "… bytes, written …, no build id",
            "`…` in the attribute at …",
            "leave it out",
            "stderr; when detached …",
            "not used without graceful_restart",
            "as process … since …",
            "generation … is starting",
            "it is in its confirm window of …",
            "stored by the service manager",
            "passed by the service manager",
            "a lame duck",
        ],
    ),
    (
        "names a descriptor, in a message that has an entry",
        &[
            "a control client",
            "the counters of a worker",
            "the process of a worker",
            "the link of a worker",
            "the counters of an orphan",
            "the process of an orphan",
            "the link of an orphan",
            "the listener of probes",
            "a client that probes",
        ],
    ),
    (
        "cannot happen: nothing of ours is empty, a marker is always JSON, and nobody indexes what is \
         not there",
        &[
            "an empty message looks like an end",
            "cannot write the marker",
            "no entry found for key",
        ],
    ),
    ("a word of serde's that is replaced", &["a borrowed string"]),
    ("ends a backtrace of the standard library", &["note: Some details are omitted"]),
    (
        "a piece of HTTP",
        &[
            "HTTP/1.1 … Content-Type: text/plain; charset=utf-8 Content-Length: … Cache-Control: \
             no-store …Connection: close …",
            "405 Method Not Allowed",
            "431 Request Header Fields Too Large",
            "505 HTTP Version Not Supported",
        ],
    ),
    ("is said to the service manager", &["FDSTORE=1 FDNAME=… FDPOLL=0"]),
    (
        "what an option has to be, in a message that has an entry",
        &[
            "live, ready or startup",
            "the path of a program",
            "the path of a file with variables, after `-` if it may be missing",
            "KEY=VALUE, such as drain_timeout=10s",
            "a whole number, such as -n 100",
        ],
    ),
    (
        "help of a verb",
        &["…_* variables, --set options and the program's own arguments after `--` become part \
             of the unit. Other variables of the program do not: write them to a file, and name it \
             with --environment-file."],
    ),
    (
        "a piece of a unit, or of how two of them differ",
        &[
            "AF_UNIX AF_INET AF_INET6",
            "\\ No newline at end of file",
            "systemd holds this socket; connections queue in it while the service is not running.",
            "the owner of a unix socket",
            "workers of another user",
        ],
    ),
];

/// Files whose texts need no entry, with the reason.
const EXEMPT_FILES: [(&str, &str); 5] = [
    ("runtime/src/cli/help.rs", "what `help` shows"),
    ("runtime/schema/src/table.rs", "what `check --help` and the reference say of each key"),
    ("runtime/src/failpoint/armed.rs", "for tests only"),
    ("runtime/core/src/json/mod.rs", "what is wrong with a message that is not understood"),
    ("runtime/core/src/json/std_types.rs", "the same"),
];

#[test]
fn every_entry_has_a_message_in_the_code() {
    let texts: BTreeSet<String> = ["runtime", "runtime/core", "runtime/schema", "macros"]
        .into_iter()
        .flat_map(messages_of)
        .map(|message| message.text)
        .collect();
    let gone: Vec<String> = entries().into_iter().filter(|entry| !texts.contains(entry)).collect();
    assert!(
        gone.is_empty(),
        "no such text is in the sources of runtime, core, schema or macros. Was the message changed? Then change {CHAPTER} \
         too: {gone:#?}"
    );
}

#[test]
fn every_message_has_an_entry() {
    let entries = entries();
    let exempt = |message: &Message| {
        EXEMPT.iter().any(|(_, texts)| texts.contains(&message.text.as_str()))
            || EXEMPT_FILES.iter().any(|(file, _)| *file == message.file)
    };
    let mut missing: BTreeMap<String, String> = BTreeMap::new();
    let messages = of_the_runtime().into_iter().filter(|message| message.is_sentence);
    for message in messages.filter(|message| !entries.contains(&message.text) && !exempt(message)) {
        let Message { file, line, text, .. } = message;
        missing.entry(text).or_insert(format!("{file}:{line}"));
    }
    if missing.is_empty() {
        return;
    }
    let mut report = format!("{CHAPTER} has no entry for these. Add, as items of the list:\n\n");
    for (text, place) in &missing {
        writeln!(report, "- {}: what causes it. What to do.    ({place})", quoted(text)).unwrap();
    }
    report.push_str("\nunder the heading that tells what the user did:\n\n");
    for heading in chapter().lines().filter(|line| line.starts_with("##")) {
        writeln!(report, "{heading}").unwrap();
    }
    report.push_str(
        "\nMessages of one cause share an item: - ``one``, ``the other``: …. A text that is none which \
         a user would look up goes to EXEMPT in tests/tests/troubleshooting.rs, with the reason.",
    );
    panic!("{report}");
}

#[test]
fn exemptions_are_needed() {
    let (entries, messages) = (entries(), of_the_runtime());
    for text in EXEMPT.iter().flat_map(|(_, texts)| texts.iter()) {
        let known = messages.iter().any(|message| message.is_sentence && message.text == *text);
        assert!(known, "{text:?} is no sentence of the runtime: remove it from EXEMPT");
        assert!(!entries.contains(*text), "{text:?} has an entry: remove it from EXEMPT");
    }
    for (file, _) in EXEMPT_FILES {
        let known = messages.iter().any(|message| message.file == file);
        assert!(known, "{file} says nothing: remove it from EXEMPT_FILES");
    }
}

/// Every item that begins with messages has a text after them, and no message has two items.
#[test]
fn every_entry_has_a_cause_and_is_unique() {
    let mut seen = BTreeSet::new();
    for item in chapter().lines().filter(|line| line.starts_with("- ``")) {
        let (messages, advice) = item
            .split_once("``: ")
            .unwrap_or_else(|| panic!("no `: ` between the messages and their cause: {item}"));
        assert!(advice.split_whitespace().count() >= 3, "say why that is, and what to do: {item}");
        for text in messages_in(messages) {
            assert!(seen.insert(text.clone()), "{text:?} has an entry above: {item}");
        }
    }
    assert!(seen.len() > 200, "only {} entries were found", seen.len());
}

fn entries() -> BTreeSet<String> {
    messages_in(&chapter()).collect()
}

/// The texts between double backticks.
fn messages_in(text: &str) -> impl Iterator<Item = String> {
    text.split("``").skip(1).step_by(2).map(|text| text.trim().to_owned())
}

/// The text as the chapter must quote it.
fn quoted(text: &str) -> String {
    let before = if text.starts_with('`') { " " } else { "" };
    let behind = if text.ends_with('`') || !before.is_empty() { " " } else { "" };
    let before = if behind.is_empty() { before } else { " " };
    format!("``{before}{text}{behind}``")
}

fn chapter() -> String {
    fs::read_to_string(root().join(CHAPTER)).unwrap()
}

/// The texts of the runtime, of its core and of its schema.
fn of_the_runtime() -> Vec<Message> {
    let mut messages = messages_of("runtime");
    messages.extend(messages_of("runtime/core"));
    messages.extend(messages_of("runtime/schema"));
    messages
}

/// The texts of the crate in a directory.
fn messages_of(krate: &str) -> Vec<Message> {
    let src = Path::new(krate).join("src");
    messages::of_crate(&root(), &src)
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}
