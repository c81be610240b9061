//! A headless Chromium, driven by the DevTools protocol.

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;
use tungstenite::{Message, WebSocket};

use crate::{Process, eventually};

/// The time the browser may take for one call or one condition.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running Chromium. Dropping it ends the browser.
#[derive(Debug)]
pub struct Browser {
    profile: TempDir,
    child: std::process::Child,
    port: u16,
}

/// One page of the browser.
#[derive(Debug)]
pub struct Page {
    socket: WebSocket<TcpStream>,
    last: u64,
}

impl Browser {
    /// Starts the Chromium of this machine. Reports a skipped test and returns `None` if there is none.
    ///
    /// # Panics
    ///
    /// If Chromium does not start, or if there is none and `UNBROKEN_REQUIRE_ALL` is set.
    pub fn start() -> Option<Browser> {
        let program = program()?;
        let profile = tempfile::tempdir().expect("a directory");
        let mut command = Command::new(program);
        command
            .args(["--headless", "--disable-gpu", "--disable-quic", "--no-first-run"])
            .args(["--disable-background-networking", "--disable-component-update"])
            .args(["--disable-sync", "--remote-debugging-port=0", "--window-size=900,640"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg("about:blank")
            // By this variable `drop` finds the helper processes.
            .env("UNBROKEN_TEST_BROWSER", profile.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        if rustix::process::getuid().is_root() {
            command.arg("--no-sandbox");
        }
        let child = command.spawn().expect("chromium");
        let file = profile.path().join("DevToolsActivePort");
        let port = || std::fs::read_to_string(&file).ok()?.lines().next()?.parse().ok();
        eventually("chromium listens", PATIENCE, || port().is_some());
        let port = port().expect("a port");
        Some(Browser { profile, child, port })
    }

    /// Opens a page in a tab of its own.
    pub fn open(&self, url: &str) -> Page {
        // The page is opened blank. It navigates to `url` below, once the test is connected to it.
        let created = self.http("PUT", "/json/new?about:blank");
        let address = created["webSocketDebuggerUrl"].as_str().expect("an address").to_owned();
        let stream = TcpStream::connect(("127.0.0.1", self.port)).expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        let (socket, _) = tungstenite::client(address, stream).expect("a handshake");
        let mut page = Page { socket, last: 0 };
        page.call("Page.enable", json!({}));
        page.call("Page.navigate", json!({ "url": url }));
        page.wait_for("document.readyState === 'complete'");
        page
    }

    fn http(&self, method: &str, path: &str) -> Value {
        let target = crate::http::Target::Tcp(([127, 0, 0, 1], self.port).into());
        let mut connection = crate::http::Connection::open(&target).expect("a connection");
        connection
            .send(format!("{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"))
            .expect("a request");
        let response = connection.response().expect("a response");
        serde_json::from_str(&response.text()).expect("JSON")
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let mark = self.profile.path().display().to_string();
        for process in Process::with_variable("UNBROKEN_TEST_BROWSER", &mark) {
            process.kill();
        }
        // Killed above if it had not ended; only reaped here.
        let _ = self.child.wait();
    }
}

impl Page {
    /// Returns the value of a JavaScript expression.
    ///
    /// # Panics
    ///
    /// If the expression throws.
    pub fn eval(&mut self, expression: &str) -> Value {
        let answer = self.call(
            "Runtime.evaluate",
            json!({ "expression": expression, "returnByValue": true, "awaitPromise": true }),
        );
        assert!(answer["exceptionDetails"].is_null(), "{expression}: {answer:#}");
        answer["result"]["value"].clone()
    }

    /// Waits until a JavaScript expression is `true`.
    #[track_caller]
    pub fn wait_for(&mut self, expression: &str) {
        let deadline = Instant::now() + PATIENCE;
        while self.eval(expression) != json!(true) {
            assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {expression}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Writes a screenshot of the page, as PNG.
    pub fn screenshot(&mut self, path: &Path) {
        let answer = self.call("Page.captureScreenshot", json!({ "format": "png" }));
        let picture = answer["data"].as_str().expect("a picture");
        std::fs::write(path, base64(picture)).expect("a file");
    }

    fn call(&mut self, method: &str, params: Value) -> Value {
        self.last += 1;
        let call = json!({ "id": self.last, "method": method, "params": params });
        self.socket.send(Message::text(call.to_string())).expect("a call");
        loop {
            let Message::Text(text) = self.socket.read().expect("an answer") else { continue };
            let mut answer: Value = serde_json::from_str(&text).expect("JSON");
            // Events may arrive before the answer.
            if answer["id"] == json!(self.last) {
                assert!(answer["error"].is_null(), "{method}: {answer:#}");
                return answer["result"].take();
            }
        }
    }
}

fn program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .flat_map(|dir| ["chromium", "chromium-browser", "google-chrome"].map(|it| dir.join(it)))
        .find(|path| path.is_file());
    if found.is_none() {
        crate::skip("there is no chromium");
    }
    found
}

/// Decodes base64 (RFC 4648 §4).
fn base64(text: &str) -> Vec<u8> {
    let letters = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let value = |letter: u8| letters.iter().position(|it| *it == letter);
    let values: Vec<u32> =
        text.bytes().filter_map(|letter| u32::try_from(value(letter)?).ok()).collect();
    let group = |four: &[u32]| {
        let bits = four.iter().enumerate().map(|(i, v)| v << (18 - 6 * i)).sum::<u32>();
        bits.to_be_bytes()[1..four.len()].to_vec()
    };
    values.chunks(4).flat_map(group).collect()
}
