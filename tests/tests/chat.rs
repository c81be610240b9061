//! The example `chat`: WebSockets stay connected and keep their history while the program is replaced.

#![allow(clippy::expect_used)]

use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use serde_json::{Value, json};
use tungstenite::protocol::frame::Frame;
use tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tungstenite::{Message, WebSocket};
use unbroken_tests::http::{Connection, Target};
use unbroken_tests::{Browser, Process, Report, Sandbox, eventually};

const SOON: Duration = Duration::from_secs(20);

const RESTARTS: u64 = 5;

/// Creates a sandbox with the example as its image.
fn sandbox() -> Sandbox {
    let mut sandbox = Sandbox::empty();
    sandbox.set("DAEMON_NAME", "app");
    sandbox.set("DAEMON_CONFIRM_WINDOW", "0s");
    sandbox.set("DAEMON_LISTEN_HTTP", "127.0.0.1:0");
    deploy(&sandbox, 1);
    sandbox
}

/// Deploys the example with another build number in its text.
fn deploy(sandbox: &Sandbox, build: u64) {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let program = BUILT.get_or_init(|| unbroken_tests::example::built("chat"));
    sandbox.deploy_changed(program, &format!("s/build 1/build {build}/"));
}

struct Client {
    socket: WebSocket<Connection>,
}

impl Client {
    fn join(target: &Target, name: &str) -> Client {
        let connection = Connection::open(target).expect("a connection");
        let url = format!("ws://{target}/ws?name={name}");
        let (socket, _) = tungstenite::client(url, connection).expect("a handshake");
        Client { socket }
    }

    fn say(&mut self, text: &str) {
        self.socket.send(Message::text(text)).expect("a message");
    }

    /// Receives the next message of the server.
    fn hear(&mut self) -> Value {
        loop {
            match self.socket.read().expect("a message") {
                Message::Text(text) => return serde_json::from_str(&text).expect("JSON"),
                Message::Ping(_) | Message::Pong(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// Receives until `count` chat messages have arrived. Returns them, and the generations that served the
    /// client.
    fn hear_messages(&mut self, count: usize) -> (Vec<String>, Vec<u64>) {
        let (mut messages, mut generations) = (Vec::new(), Vec::new());
        while messages.len() < count {
            let message = self.hear();
            match message["type"].as_str() {
                Some("said") => messages.push(message["text"].as_str().expect("a text").to_owned()),
                Some("served") => {
                    generations.push(message["generation"].as_u64().expect("a generation"));
                }
                _ => panic!("{message}"),
            }
        }
        (messages, generations)
    }
}

/// Every client receives every message once and in order, although the program is replaced between messages.
#[test]
fn every_message_arrives_once_and_in_order() {
    let sandbox = sandbox();
    let target = sandbox.start().target("http");
    let mut clients: Vec<_> = (0..20).map(|n| Client::join(&target, &format!("n{n}"))).collect();
    let mut sent = Vec::new();
    for restart in 0..=RESTARTS {
        for round in 0..5 {
            for (number, client) in clients.iter_mut().enumerate() {
                client.say(&format!("{restart}.{round}.{number}"));
                sent.push(format!("{restart}.{round}.{number}"));
            }
            if round == 2 && restart < RESTARTS {
                // Between the messages of a round, most of which no client has read yet.
                deploy(&sandbox, restart + 2);
                let report = sandbox.restart();
                report.ledger().assert_balanced();
                assert_eq!(report.ledger().handed_off, 20, "{report:?}");
            }
        }
    }
    let mut order = None;
    for (number, client) in clients.iter_mut().enumerate() {
        let (heard, generations) = client.hear_messages(sent.len());
        assert_eq!(generations, (1..=RESTARTS + 1).collect::<Vec<_>>());
        let own = format!(".{number}");
        let of_own = |all: &[String]| -> Vec<String> {
            all.iter().filter(|text| text.ends_with(&own)).cloned().collect()
        };
        assert_eq!(of_own(&heard), of_own(&sent), "in the order in which they were sent");
        assert_eq!(*order.get_or_insert_with(|| heard.clone()), heard, "the same for everyone");
    }
    // A client that joins later receives the history.
    let (history, _) = Client::join(&target, "late").hear_messages(sent.len());
    assert_eq!(Some(history), order);
    sandbox.stop();
}

/// In the confirm window the visitors of the old worker learn that new ones are with the next version, and
/// after an abort that they are back.
#[test]
fn visitors_learn_of_a_pause_and_of_its_end() {
    let mut sandbox = sandbox();
    sandbox.set("DAEMON_CONFIRM_WINDOW", "10m");
    let target = sandbox.start().target("http");
    let mut client = Client::join(&target, "old");
    let restart = sandbox.spawn(["restart"]);
    let (texts, _) = client.hear_messages(1);
    assert!(texts[0].contains("a new version is starting"), "{texts:?}");
    let status = sandbox.status();
    let successor = status.workers.iter().find(|worker| worker.generation == 2);
    Process::open(successor.expect("a successor").pid).expect("it lives").kill();
    let (texts, _) = client.hear_messages(1);
    assert!(texts[0].contains("this one goes on"), "{texts:?}");
    restart.wait(SOON).expect_code(1);
    client.say("still here");
    assert_eq!(client.hear_messages(1).0, ["still here"]);
    sandbox.stop();
}

/// A WebSocket frame whose bytes were read by several generations is complete in the end.
#[test]
fn frame_in_pieces_survives_handoffs() {
    let sandbox = sandbox();
    let target = sandbox.start().target("http");
    let mut client = Client::join(&target, "slow");
    assert_eq!(client.hear()["generation"], 1);
    let mut frame = Frame::message("in pieces", OpCode::Data(Data::Text), true);
    frame.header_mut().mask = Some([7, 1, 2, 3]);
    let mut bytes = Vec::new();
    frame.format(&mut bytes).expect("memory");
    let read = |sandbox: &Sandbox| sandbox.status().serving().connections;
    for (index, byte) in bytes.iter().enumerate() {
        client.socket.get_mut().write_all(&[*byte]).expect("a byte");
        if index % 4 == 1 {
            let report = sandbox.restart();
            assert_eq!(report.ledger().handed_off, 1, "{report:?}");
            assert_eq!(read(&sandbox), 1);
            assert_eq!(client.hear()["type"], "served");
        }
    }
    assert_eq!(client.hear()["text"], "in pieces");
    sandbox.stop();
}

/// A client that reads nothing for several restarts then receives everything that was queued for it,
/// including frames that were written in part.
#[test]
fn slow_reader_gets_everything_later() {
    let sandbox = sandbox();
    let target = sandbox.start().target("http");
    let mut lazy = Client::join(&target, "lazy");
    let mut busy = Client::join(&target, "busy");
    let text = "x".repeat(4000);
    for round in 0..6 {
        for _ in 0..5 {
            busy.say(&format!("{round} {text}"));
        }
        busy.hear_messages(5);
        sandbox.restart();
    }
    let mut last = 0;
    loop {
        let message = lazy.hear();
        if let Some(text) = message["text"].as_str() {
            let round: u64 = text.split(' ').next().and_then(|n| n.parse().ok()).expect("a round");
            assert!(round >= last, "{round} after {last}");
            last = round;
        } else if message["generation"] == json!(7) {
            break;
        }
    }
    assert_eq!(last, 5);
    sandbox.stop();
}

/// At a stop the clients get a close frame with code 1012 (service restart).
#[test]
fn stop_sends_close_frames() {
    let mut sandbox = sandbox();
    sandbox.set("DAEMON_DRAIN_TIMEOUT", "2s");
    let target = sandbox.start().target("http");
    let mut client = Client::join(&target, "one");
    client.hear();
    let stop = sandbox.spawn(["stop", "--json"]);
    match client.socket.read().expect("a frame") {
        Message::Close(Some(close)) => assert_eq!(close.code, CloseCode::Restart),
        other => panic!("{other:?}"),
    }
    let output = stop.wait(SOON).expect_code(0);
    let report: Report = serde_json::from_str(&output.stdout).expect("a report");
    report.ledger().assert_balanced();
    assert_eq!((report.ledger().closed, report.ledger().forced), (1, 0), "{report:?}");
    let mut rest = Vec::new();
    client.socket.get_mut().read_to_end(&mut rest).expect("an end");
}

/// In a real browser there is no `close` event, and every message arrives once and in order.
#[test]
fn browser_sees_no_disconnect() {
    let Some(browser) = Browser::start() else { return };
    let sandbox = sandbox();
    let target = sandbox.start().target("http");
    let mut alice = browser.open(&format!("http://{target}/?name=Alice"));
    let mut bob = browser.open(&format!("http://{target}/?name=Bob"));
    let mut expected = Vec::new();
    let served = |generation: u64| {
        format!(
            "document.getElementById('served').textContent === \
             'served by generation {generation}, build {generation}'"
        )
    };
    for restart in 0..=RESTARTS {
        let generation = restart + 1;
        alice.wait_for(&served(generation));
        bob.wait_for(&served(generation));
        for (who, page) in [("Alice", &mut alice), ("Bob", &mut bob)] {
            let text = format!("hello from generation {generation}");
            page.eval(&format!("window.say({text:?})"));
            expected.push(format!("{who}{text}"));
            // One message at a time, because the order is compared below.
            let count = expected.len();
            page.wait_for(&format!("document.querySelectorAll('li.line').length === {count}"));
        }
        if restart < RESTARTS {
            deploy(&sandbox, generation + 1);
            let report = sandbox.restart();
            report.ledger().assert_balanced();
        }
    }
    for page in [&mut alice, &mut bob] {
        let count = expected.len();
        page.wait_for(&format!("document.querySelectorAll('li.line').length === {count}"));
        let lines = page.eval("[...document.querySelectorAll('li.line')].map(l => l.textContent)");
        assert_eq!(lines, json!(expected));
        assert_eq!(page.eval("window.events"), json!({ "open": 1, "close": 0 }));
    }
    if let Some(path) = std::env::var_os("UNBROKEN_SCREENSHOT") {
        bob.screenshot(path.as_ref());
    }
    drop(browser);
    eventually("the browser has left", SOON, || sandbox.status().serving().connections == 0);
    sandbox.stop();
}
