//! P8: the events of the program and of the supervisor are written in the configured format.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{IoSliceMut, Read, Seek};
use std::mem::MaybeUninit;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use serde_json::Value as Json;
use unbroken_tests::{Child, Sandbox, Terminal, eventually, skip};

const SOON: Duration = Duration::from_secs(20);

#[test]
fn no_subscriber_is_installed_by_default() {
    let sandbox = Sandbox::new("logs");
    sandbox.start();
    sandbox.get("/events").unwrap();
    sandbox.stop();
    assert!(!sandbox.log().contains("an error"), "{}", sandbox.log());
    assert!(sandbox.log().contains("generation 1 serves"), "{}", sandbox.log());
}

#[test]
fn events_are_written_as_text() {
    let mut sandbox = Sandbox::new("logs");
    sandbox.set("DAEMON_LOG_FORMAT", "text").set("DAEMON_LOG_LEVEL", "debug");
    let status = sandbox.start();
    let worker = status.serving().pid;
    sandbox.get("/events").unwrap();
    sandbox.stop();
    let log = sandbox.log();
    for (level, text) in [
        ("ERROR", "fixture_logs::writes: request{id=7 user=jo}: an error listener=http"),
        ("WARN", "request{id=7 user=jo}: a warning\\nof two lines answer=42 ok=true"),
        ("INFO", "elsewhere: request{id=7 user=jo}: an information"),
        ("DEBUG", "debugged"),
        ("WARN", "of the crate log"),
    ] {
        let begin = format!(" {level} app[{worker}]: ");
        let found = log.lines().any(|line| line.contains(&begin) && line.ends_with(text));
        assert!(found, "{begin}…{text}\n{log}");
    }
    assert!(!log.contains("traced"), "{log}");
    let own = format!(" INFO app[{}]: generation 1 serves on http", status.pid);
    assert!(log.contains(&own), "{log}");
}

#[test]
fn events_are_written_as_json() {
    for solo in [false, true] {
        let mut sandbox = Sandbox::new(if solo { "logs-solo" } else { "logs" });
        sandbox.set("DAEMON_LOG_FORMAT", "json").set("RUST_LOG", "info,elsewhere=trace");
        let status = sandbox.start();
        let worker = u64::from(status.serving().pid);
        sandbox.get("/events").unwrap();
        sandbox.stop();
        let log = sandbox.log();
        let lines: Vec<Json> =
            log.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
        let find = |text: &str| {
            let of = |line: &&Json| line["fields"]["message"].as_str().unwrap().starts_with(text);
            lines.iter().find(of).unwrap_or_else(|| panic!("no {text}\n{log}"))
        };
        let error = find("an error");
        assert_eq!(error["level"], "ERROR");
        assert_eq!((&error["name"], &error["generation"]), (&"app".into(), &1.into()));
        assert_eq!((&error["pid"], &error["worker"]), (&worker.into(), &worker.into()));
        assert_eq!(error["fields"]["listener"], "http");
        assert_eq!(error["spans"][0]["user"], "jo");
        assert_eq!(find("a warning")["fields"]["message"], "a warning\nof two lines");
        assert_eq!(find("an information")["target"], "elsewhere");
        assert_eq!(find("of the crate log")["fields"].as_object().unwrap().len(), 1);
        assert!(!log.contains("debugged"), "{log}");
        if !solo {
            let own = find("generation 1 serves");
            assert_eq!((&own["pid"], &own["generation"]), (&status.pid.into(), &1.into()));
            assert_eq!(own["worker"], Json::Null);
        }
    }
}

/// A panic is logged as one event, including its backtrace. As plain text it would be dozens of lines that a
/// JSON parser does not understand.
#[test]
fn panic_is_one_event() {
    for backtrace in ["0", "1"] {
        let mut sandbox = Sandbox::new("logs");
        sandbox.set("DAEMON_LOG_FORMAT", "json").set("RUST_BACKTRACE", backtrace);
        let worker = u64::from(sandbox.start().serving().pid);
        sandbox.get("/panic").unwrap();
        sandbox.stop();
        let log = sandbox.log();
        let lines: Vec<Json> =
            log.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
        let text = "thread `unnamed` panicked: a thread's panic";
        let found: Vec<_> = lines.iter().filter(|it| it["fields"]["message"] == text).collect();
        let [event] = found[..] else { panic!("{log}") };
        assert_eq!((&event["level"], &event["generation"]), (&"ERROR".into(), &1.into()));
        assert_eq!((&event["pid"], &event["worker"]), (&worker.into(), &worker.into()));
        let place = event["fields"]["place"].as_str().unwrap();
        assert!(place.contains("writes/mod.rs:"), "{place}");
        let frames = event["fields"].get("backtrace").map(|it| it.as_str().unwrap().to_owned());
        assert_eq!(frames.is_some_and(|it| it.contains("writes::panic")), backtrace == "1");
    }
    let mut sandbox = Sandbox::new("logs");
    sandbox.set("DAEMON_LOG_FORMAT", "text").set("RUST_BACKTRACE", "1");
    sandbox.start();
    sandbox.get("/panic").unwrap();
    sandbox.stop();
    let log = sandbox.log();
    let stamped = |line: &str| line.starts_with("20") && line.contains("app[");
    assert!(log.lines().all(stamped), "{log}");
    assert_eq!(log.matches("panicked: a thread's panic").count(), 1, "{log}");
}

/// The program's own panic hook runs, in addition to the event.
#[test]
fn panic_hook_of_the_program_runs() {
    for (format, events) in [("none", 0), ("json", 1)] {
        let mut sandbox = Sandbox::new("own-hook");
        sandbox.set("DAEMON_LOG_FORMAT", format);
        sandbox.start();
        // The panic ends the task and its connection.
        sandbox.get("/panic").unwrap_err();
        sandbox.stop();
        let log = sandbox.log();
        assert_eq!(log.matches("own hook: panicked at ").count(), 1, "{log}");
        assert_eq!(log.matches("` panicked: of the program").count(), events, "{log}");
        assert!(!log.contains("' panicked at "), "{log}");
    }
}

#[test]
fn log_level_applies_to_the_supervisor() {
    let mut sandbox = Sandbox::new("logs");
    sandbox.set("DAEMON_LOG_FORMAT", "text").set("DAEMON_LOG_LEVEL", "error");
    sandbox.start();
    sandbox.get("/events").unwrap();
    sandbox.restart();
    sandbox.stop();
    assert_eq!(sandbox.log().lines().count(), 1, "{}", sandbox.log());
}

#[test]
fn auto_is_text_on_a_terminal_and_json_elsewhere() {
    let mut sandbox = Sandbox::new("logs");
    sandbox.unset("DAEMON_LOG").set("DAEMON_LOG_FORMAT", "auto");
    // This variable names another file than the daemon's stderr.
    sandbox.set("JOURNAL_STREAM", "1:1");
    let terminal = Terminal::spawn(&sandbox.command(["run"]));
    sandbox.wait_serving();
    sandbox.get("/events").unwrap();
    terminal.wait_for(" ERROR app[", SOON);
    terminal.wait_for(" INFO app[", SOON);
    sandbox.stop();
    let child = sandbox.foreground();
    sandbox.get("/events").unwrap();
    child.wait_for_stderr("\"message\":\"an error\"", SOON);
    child.wait_for_stderr("\"message\":\"generation 1 serves", SOON);
    sandbox.stop();
}

/// A stand-in for the journal: a socket at the journal's path, in the daemon's mount namespace.
struct Journal {
    socket: UnixDatagram,
}

type Entry = BTreeMap<String, String>;

impl Journal {
    /// Reports a skipped test and returns `None` without root.
    fn of(sandbox: &Sandbox) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            skip("a socket can be mounted at the journal's path by root alone");
            return None;
        }
        fs::create_dir(sandbox.path("journal")).unwrap();
        let socket = UnixDatagram::bind(sandbox.path("journal/socket")).unwrap();
        socket.set_read_timeout(Some(SOON)).unwrap();
        Some(Self { socket })
    }

    /// Runs the daemon in the foreground with this journal, after `script`.
    fn run(&self, sandbox: &Sandbox, script: &str) -> Child {
        let script = format!(
            "mount -t tmpfs none /run && mkdir -p /run/systemd/journal && \
             mount --bind \"$1\" /run/systemd/journal && shift && {script} exec \"$@\""
        );
        let mut command = sandbox.command_of("unshare", ["--mount", "--propagation", "private"]);
        command.args(["sh", "-c", &script, "sh"]).arg(sandbox.path("journal"));
        command.arg(sandbox.image()).arg("run");
        let child = Child::spawn(&mut command);
        sandbox.wait_serving();
        child
    }

    fn next(&self) -> Entry {
        let mut bytes = vec![0; 1 << 20];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut io = [IoSliceMut::new(&mut bytes)];
        let received = recvmsg(&self.socket, &mut io, &mut control, RecvFlags::CMSG_CLOEXEC)
            .expect("an entry");
        let length = received.bytes;
        let files = control.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(files) => Some(files),
            _ => None,
        });
        match files.flatten().next() {
            None => parse(&bytes[..length]),
            Some(fd) => {
                assert_eq!(length, 0);
                let mut file = File::from(fd);
                let mut bytes = Vec::new();
                file.rewind().unwrap();
                file.read_to_end(&mut bytes).unwrap();
                parse(&bytes)
            }
        }
    }

    /// Skips entries until the one with this message.
    fn until(&self, message: &str) -> Entry {
        loop {
            let entry = self.next();
            if entry["MESSAGE"].starts_with(message) {
                return entry;
            }
        }
    }
}

fn parse(mut bytes: &[u8]) -> Entry {
    let mut entry = Entry::new();
    while !bytes.is_empty() {
        let end = bytes.iter().position(|byte| *byte == b'\n').expect("a line");
        let (line, rest) = (&bytes[..end], &bytes[end + 1..]);
        let (name, value, rest) = match line.iter().position(|byte| *byte == b'=') {
            Some(at) => (&line[..at], &line[at + 1..], rest),
            None => {
                let (length, rest) = rest.split_at(8);
                let length = u64::from_le_bytes(length.try_into().unwrap());
                let (value, rest) = rest.split_at(usize::try_from(length).unwrap());
                assert_eq!(rest[0], b'\n');
                (line, value, &rest[1..])
            }
        };
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let before = entry.insert(text(name), text(value));
        assert_eq!(before, None, "{} twice", text(name));
        bytes = rest;
    }
    entry
}

#[test]
fn events_are_sent_to_the_journal_with_their_fields() {
    let mut sandbox = Sandbox::new("logs");
    let Some(journal) = Journal::of(&sandbox) else { return };
    sandbox
        .unset("DAEMON_LOG")
        .set("DAEMON_LOG_FORMAT", "journald")
        .set("DAEMON_LOG_LEVEL", "trace");
    let child = journal.run(&sandbox, "");
    let status = sandbox.status();

    let own = journal.until("generation 1 serves");
    let field = |entry: &Entry, name: &str| entry.get(name).cloned().unwrap_or_default();
    assert_eq!(field(&own, "PRIORITY"), "6");
    assert_eq!(field(&own, "SYSLOG_IDENTIFIER"), "app");
    assert_eq!(field(&own, "SYSLOG_PID"), status.pid.to_string());
    assert_eq!((field(&own, "GENERATION"), field(&own, "WORKER")), ("1".into(), String::new()));

    sandbox.get("/events").unwrap();
    let worker = status.serving().pid.to_string();
    for (message, priority, level) in [
        ("an error", "3", "ERROR"),
        ("a warning\nof two lines", "4", "WARN"),
        ("an information", "6", "INFO"),
        ("debugged", "7", "DEBUG"),
        ("traced", "7", "TRACE"),
        ("of the crate log", "4", "WARN"),
    ] {
        let entry = journal.until(message);
        assert_eq!(field(&entry, "MESSAGE"), message);
        assert_eq!(
            (field(&entry, "PRIORITY"), field(&entry, "LEVEL")),
            (priority.into(), level.into())
        );
        assert_eq!(
            (field(&entry, "GENERATION"), field(&entry, "WORKER")),
            ("1".into(), worker.clone())
        );
        assert_eq!((field(&entry, "ID"), field(&entry, "USER")), ("7".into(), "jo".into()));
        if message == "an error" {
            assert_eq!(field(&entry, "LISTENER"), "http");
            assert!(field(&entry, "CODE_FILE").ends_with("writes/mod.rs"), "{entry:?}");
        }
    }

    sandbox.get("/panic").unwrap();
    let entry = journal.until("thread `unnamed` panicked: a thread's panic");
    assert_eq!((field(&entry, "PRIORITY"), field(&entry, "WORKER")), ("3".into(), worker));
    assert!(field(&entry, "CODE_FILE").ends_with("writes/mod.rs"), "{entry:?}");

    // An entry that is larger than a datagram is sent as a file.
    sandbox.get("/large").unwrap();
    let entry = journal.until("large");
    assert_eq!(field(&entry, "LARGE").len(), 1024 * 1024);

    sandbox.restart();
    let entry = journal.until("generation 1 drained");
    assert_eq!((field(&entry, "GENERATION"), field(&entry, "TO")), ("1".into(), "2".into()));
    assert_eq!(field(&entry, "LOST"), "0");
    sandbox.stop();
    assert_eq!(child.stderr(), "");
}

#[test]
fn full_or_missing_journal_blocks_nothing() {
    let mut sandbox = Sandbox::new("logs");
    let Some(journal) = Journal::of(&sandbox) else { return };
    sandbox.unset("DAEMON_LOG").set("DAEMON_LOG_FORMAT", "journald");
    let child = journal.run(&sandbox, "");
    // Fills the queue of the socket.
    let filler = UnixDatagram::unbound().unwrap();
    filler.set_nonblocking(true).unwrap();
    while filler.send_to(b"MESSAGE=filler\n", sandbox.path("journal/socket")).is_ok() {}
    sandbox.restart();
    child.wait_for_stderr(&format!(" INFO app[{}]: ", sandbox.status().pid), SOON);
    sandbox.get("/events").unwrap();
    child.wait_for_stderr(" ERROR app[", SOON);
    drop(journal);
    fs::remove_file(sandbox.path("journal/socket")).unwrap();
    sandbox.restart();
    eventually("what nobody takes is on stderr", SOON, || {
        child.stderr().contains("generation 2 drained")
    });
    sandbox.stop();
}

#[test]
fn auto_is_the_journal_if_stderr_is_connected_to_it() {
    let mut sandbox = Sandbox::new("logs");
    let Some(journal) = Journal::of(&sandbox) else { return };
    sandbox.unset("DAEMON_LOG").set("DAEMON_LOG_FORMAT", "auto");
    let child = journal.run(&sandbox, "export JOURNAL_STREAM=$(stat -L -c %d:%i /proc/self/fd/2);");
    journal.until("generation 1 serves");
    sandbox.get("/events").unwrap();
    journal.until("an error");
    sandbox.restart();
    journal.until("generation 1 drained");
    sandbox.stop();
    assert_eq!(child.stderr(), "");
}
