//! Seeds for fuzzing: every message of the protocols, and valid input of the other parsers.

use std::time::Duration;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::config::{Address, Configuration, ListenSettings};
use crate::control::{Reply, Request, RestartOutcome, Status};
use crate::counters::Ledger;
use crate::link::{FromWorker, ListenerHandle, OrphanedListener, Protocols, ToWorker};
use crate::listener::ListenerSource;
use crate::probe::Probe;

const FILE: &str = "name = \"hello\"\ndrain_timeout = \"1m 30s\"\numask = 0o027\nrestart = \"always\"\n\
    [listen]\nhttp = \"127.0.0.1:80\"\n[listen.admin]\naddr = \"unix:/run/a.sock\"\nmode = \"0660\"\n\
    backlog = 16\n[app]\ntitle = \"a\"\nratio = 0.1\nports = [1, 2]\nwhen = 2020-01-01\n[app.db]\n\
    pool = 7\n$DAEMON_KILL_TIMEOUT=2s\n$DAEMON_LISTEN_HTTP__V6ONLY=no\n$DAEMON_APP__DB__POOL=9\n\
    --set listen.http=[::]:8080\n--set app.size=1.5e3\n";

/// The seeds of a target, with `text` and `number` in them.
pub(crate) fn of(target: &str, text: &str, number: u64) -> Vec<Vec<u8>> {
    match target {
        "from_worker" => written(&from_worker(text, number)),
        "to_worker" => written(&to_worker(text, number)),
        "request" => written(&requests()),
        "reply" => written(&replies(text, number)),
        "marker" => written(&[
            json!({ "pid": number % 65_536, "role": "solo", "state": 7 }),
            json!({ "pid": 7, "role": "worker", "link": 3, "respawn": true, "exe": "/usr/bin/hello",
                    "start_dir": "/", "overrides": [text, "app.a=1"] }),
            json!({ "pid": 7, "role": "supervisor", "state": 9, "back": 4, "generation": 3 }),
            json!({ "pid": 7, "role": "restored", "state": 9, "failure": text, "by": "11" }),
            json!({ "pid": 7, "role": "preflight", "state": 9, "echo": 10 }),
        ]),
        "handoff" => [
            json!({ "type": "http", "listener": "http", "peer": "127.0.0.1:80",
                    "accepted": number }),
            json!({ "type": "http", "listener": text, "path": "/run/peer.sock",
                    "requests": number, "new": [] }),
            json!({ "type": "own", "name": text, "version": 7 }),
            json!({ "type": "later" }),
        ]
        .iter()
        .map(|header| {
            let (header, read) = (header.to_string().into_bytes(), b"GET / HTTP/1.1\r\nHos");
            let lengths = [header.len(), read.len()].map(|it| u32::try_from(it).unwrap());
            let lengths = lengths.map(u32::to_le_bytes).concat();
            // Twice, because a packet may have several.
            [&lengths[..], &header, read].concat().repeat(2)
        })
        .chain([[&b"+"[..], &number.to_le_bytes(), b"\x02\0"].concat()])
        .collect(),
        "configuration" => vec![FILE.into(), "[app]\nx = [[1], {a = 1.25}]\n".into()],
        "address" => ["127.0.0.1:80", "[::1]:8080", "unix:/run/a.sock", "unix:a", "[fe80::1%2]:1"]
            .map(Vec::from)
            .into(),
        "duration" => ["30s", "1m 30s", "365days", "0", "1h2ms3ns", "5"].map(Vec::from).into(),
        "elf" => [(true, false, 4), (true, true, 8), (false, false, 4)]
            .map(|(wide, big_endian, align)| {
                image::build_id::example(wide, big_endian, align, &number.to_ne_bytes())
            })
            .into(),
        "state" => vec![crate::compat::STATE.into()],
        "probe" => vec![
            "GET /livez HTTP/1.1\r\nHost: a\r\n\r\n".into(),
            format!("HEAD /readyz?{number} HTTP/1.0\n\n").into(),
            format!("POST /startupz HTTP/2.0\r\n{text}\r\n\r\n").into(),
        ],
        "pid" => vec![format!("{number}\n").into(), b" 17 ".into()],
        other => unreachable!("no target {other}"),
    }
}

fn written(messages: &[impl ToJson]) -> Vec<Vec<u8>> {
    messages.iter().map(|message| json::to_vec(message).unwrap()).collect()
}

fn loaded(text: &str, number: u64) -> Box<Configuration> {
    let mut loaded = config::fuzz::example(FILE);
    loaded.app["text"] = text.into();
    loaded.app["number"] = number.into();
    // Any bit pattern, also an infinity or NaN.
    loaded.app["ratio"] = f64::from_bits(number).into();
    loaded.sources.insert("app.text".into(), text.into());
    Box::new(loaded)
}

fn from_worker(text: &str, number: u64) -> Vec<FromWorker> {
    let (reason, message) = (text.to_owned(), text.to_owned());
    let protocol = Protocols { min: 1, max: u32::try_from(number % 9).unwrap() };
    let hello = |configuration| FromWorker::Hello { protocol, release: text.into(), configuration };
    vec![
        FromWorker::ExecFailed { reason: reason.clone() },
        hello(None),
        hello(Some(loaded(text, number))),
        FromWorker::Misconfigured { reason: reason.clone() },
        FromWorker::Settled { uid: 65_534, gid: 7, groups: vec![7, 33] },
        FromWorker::Ready {},
        FromWorker::Failing { reason },
        FromWorker::Leaving { main_ended: number.is_multiple_of(2) },
        FromWorker::Unhealthy { reason: text.into() },
        FromWorker::Confirm {},
        FromWorker::Check { passed: number.is_multiple_of(2) },
        FromWorker::Pong {},
        FromWorker::Status { text: text.into() },
        FromWorker::Orphan {
            protocol,
            release: text.into(),
            generation: 7,
            exclusive: number.is_multiple_of(2),
            listeners: vec![OrphanedListener {
                name: text.into(),
                addr: Address::Tcp(([127, 0, 0, 1], 80).into()),
                settings: ListenSettings {
                    addr: Address::Tcp(([127, 0, 0, 1], 0).into()),
                    further: Default::default(),
                    backlog: 16,
                    mode: None,
                    user: Some(text.into()),
                    group: None,
                    v6only: true,
                    http: crate::config::HttpSettings::default(),
                },
                source: ListenerSource::Store,
            }],
        },
        FromWorker::Error { message },
        FromWorker::Unknown,
    ]
}

fn to_worker(text: &str, number: u64) -> Vec<ToWorker> {
    let source = ListenerSource::Manager;
    let handle = |addr| ListenerHandle { name: text.into(), addr, source };
    let tcp = Address::Tcp(([127, 0, 0, 1], 80).into());
    vec![
        ToWorker::Welcome {
            generation: 7,
            configuration: loaded(text, number),
            listeners: vec![handle(tcp), handle(Address::Unix("/run/a.sock".into()))],
            reattaches: number.is_multiple_of(2),
        },
        ToWorker::Go {},
        ToWorker::Quiesce { keep: vec![] },
        ToWorker::Quiesce { keep: vec![text.into(), "http".into()] },
        ToWorker::Resume {},
        ToWorker::Drain {
            deadline: number,
            last: number.is_multiple_of(2),
            finish: vec![],
            finish_at: vec![],
        },
        ToWorker::Drain {
            deadline: number,
            last: false,
            finish: vec![text.into()],
            finish_at: vec![],
        },
        ToWorker::Ping {},
        ToWorker::Successor {},
        ToWorker::Predecessor {},
        ToWorker::Reopen {},
        ToWorker::Rebound { name: text.into(), addr: Address::Unix("/run/a.sock".into()) },
        ToWorker::Error { message: text.into() },
        ToWorker::Unknown,
    ]
}

fn requests() -> Vec<Request> {
    vec![
        Request::Status {},
        Request::Restart { wait: true },
        Request::Restart { wait: false },
        Request::RestartFrom { exe: "/srv/hello".into(), wait: true },
        Request::Probe { probe: Probe::Startup },
        Request::Stop {},
        Request::Unknown,
    ]
}

fn replies(text: &str, number: u64) -> Vec<Reply> {
    let ledger = Ledger { accepted: number, handed_off: 3, ..Ledger::default() };
    let outcome = RestartOutcome {
        result: "aborted".into(),
        reason: Some(text.into()),
        note: Some(text.into()),
        generation: 8,
        from: Some(7),
        ledger: Some(ledger),
        to_commit_ms: Some(Duration::from_nanos(number).as_secs_f64() * 1000.0),
        to_drained_ms: None,
        output: vec![text.into(); 3],
        warnings: vec![text.into()],
    };
    let status: Status = Status::read(json!({
        "name": "hello", "pid": 7, "mode": "supervised", "state": "running",
        "uptime": Duration::from_nanos(number).as_secs_f64(), "since": number, "generation": 2,
        "workers": [{ "pid": 8, "generation": 2, "state": "serving", "uptime": 0.1,
                      "connections": number, "requests_in_flight": 1, "text": text }],
        "listeners": [{ "name": "http", "addr": "127.0.0.1:80" }], "probes": ["[::]:8086"],
        "image": { "path": "/usr/bin/hello", "release": "1.0", "build_id": text, "since": number },
        "known_good": { "path": "/usr/bin/hello", "generation": 1, "size": number },
        "on_disk": { "path": "/usr/bin/hello", "state": "unusable", "reason": text }, "pidfile": "/run/hello.pid",
        "restarts": [{ "at": number, "result": "ok", "generation": 2 }],
    }))
    .unwrap();
    vec![
        Reply::Progress { text: text.into() },
        Reply::Status { status: Box::new(status) },
        Reply::Probed { ok: number.is_multiple_of(2), text: text.into() },
        Reply::Restarted { outcome },
        Reply::Stopped { ledger, to_drained_ms: Some(2.5), warnings: vec![text.into()] },
        Reply::Refused { reason: text.into() },
        Reply::Unknown,
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Every message is decoded as it was sent, whatever text and number it has.
    #[test]
    fn messages_survive_round_trip(text in "\\PC{0,60}|[\\x00-\\x7f]{0,20}", number: u64) {
        for (name, target) in stable::TARGETS {
            for sent in of(name, &text, number) {
                target(&sent);
            }
        }
        for message in from_worker(&text, number) {
            let arrived: FromWorker = link::decode(&json::to_vec(&message).unwrap()).unwrap();
            prop_assert_eq!(format!("{arrived:?}"), format!("{message:?}"));
        }
        for message in to_worker(&text, number) {
            let arrived: ToWorker = link::decode(&json::to_vec(&message).unwrap()).unwrap();
            prop_assert_eq!(format!("{arrived:?}"), format!("{message:?}"));
        }
        for message in replies(&text, number) {
            let arrived: Reply = link::decode(&json::to_vec(&message).unwrap()).unwrap();
            prop_assert_eq!(format!("{arrived:?}"), format!("{message:?}"));
        }
        for message in requests() {
            let arrived: Request = link::decode(&json::to_vec(&message).unwrap()).unwrap();
            prop_assert_eq!(format!("{arrived:?}"), format!("{message:?}"));
        }
    }

    /// The clock can be advanced by any duration that a worker sends.
    #[test]
    fn durations_are_bounded(years in 1..u64::MAX / 31_557_600) {
        for hello in of("from_worker", "", 7) {
            let hello = String::from_utf8(hello).unwrap();
            let long = hello.replace("1m 30s", &format!("{years}years"));
            super::from_worker(long.as_bytes());
        }
    }

    /// Arbitrary bytes do not panic any parser.
    #[test]
    fn garbage_does_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        for (_, target) in stable::TARGETS {
            target(&bytes);
        }
    }
}

/// Writes the seeds for coverage-guided fuzzing to `$FUZZ_CORPUS`.
#[test]
#[ignore = "for .ci/run"]
fn write_the_corpus() {
    let corpus = std::path::PathBuf::from(std::env::var_os("FUZZ_CORPUS").expect("FUZZ_CORPUS"));
    for (name, _) in stable::TARGETS {
        let dir = corpus.join(name);
        std::fs::create_dir_all(&dir).unwrap();
        for (index, seed) in of(name, "a \"text\"", 7).iter().enumerate() {
            std::fs::write(dir.join(format!("seed-{index}")), seed).unwrap();
        }
    }
}
