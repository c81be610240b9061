//! Responses without an end: at a drain they end as complete responses, and clients connect again.

#![allow(clippy::expect_used)]

use std::process::Command;
use std::time::Duration;

use unbroken_tests::{Browser, Child, Sandbox, eventually};

const SOON: Duration = Duration::from_secs(30);

/// At a restart an event stream ends as a complete body. curl would report one that was cut as an error (18).
#[test]
fn event_stream_ends_complete_at_a_drain() {
    let sandbox = Sandbox::new("http");
    let target = sandbox.start().target("http");
    for protocol in ["--http1.1", "--http2-prior-knowledge"] {
        let before = sandbox.status().generation();
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--no-buffer", protocol, &format!("http://{target}/events")]);
        let curl = Child::spawn(&mut curl);
        eventually("it listens", SOON, || sandbox.status().serving().requests_in_flight == 1);
        let report = sandbox.restart();
        let output = curl.wait(SOON).expect_code(0);
        assert!(output.stdout.ends_with(&format!("data: {before}\n\n")), "{output}");
        report.ledger().assert_balanced();
        assert_eq!(report.ledger().forced, 0, "{report:?}");
    }
    sandbox.stop();
}

/// A browser's `EventSource` reconnects to the next generation by itself.
#[test]
fn event_source_reconnects() {
    let Some(browser) = Browser::start() else { return };
    let sandbox = Sandbox::new("http");
    let target = sandbox.start().target("http");
    let mut page = browser.open(&format!("http://{target}/"));
    page.eval(
        "window.seen = new Set(); window.source = new EventSource('/events'); \
         source.onmessage = event => { seen.add(event.data) }; 0",
    );
    for generation in 1..=3 {
        page.wait_for(&format!("seen.has('{generation}')"));
        let report = sandbox.restart();
        assert_eq!(report.ledger().forced, 0, "{report:?}");
    }
    page.wait_for("seen.has('4') && source.readyState === EventSource.OPEN");
    drop((page, browser));
    sandbox.stop();
}
