//! An application that writes to its log: numbered lines if `WRITE_LINES` is set, and events, panics and
//! output of children upon request.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use unbroken::Daemon;

/// Serves. If `WRITE_LINES` is set, a thread writes numbered lines, and their number at the end.
pub(crate) async fn serve(daemon: Daemon) -> anyhow::Result<()> {
    let lines = std::env::var("WRITE_LINES").is_ok().then(|| Lines::begin(daemon.generation()));
    let app = Router::new()
        .route("/", get(async || "hello\n"))
        .route("/events", get(events))
        .route("/large", get(async || tracing::info!(large = "x".repeat(1024 * 1024), "large")))
        .route("/child", get(child))
        .route("/panic", get(panic))
        .route("/raw/{text}", get(raw));
    daemon.serve("http", app).await?;
    if let Some(lines) = lines {
        lines.end();
    }
    Ok(())
}

struct Lines {
    end: Arc<AtomicBool>,
    writer: JoinHandle<()>,
}

impl Lines {
    fn begin(generation: u32) -> Self {
        let end = Arc::new(AtomicBool::new(false));
        let writer = {
            let end = Arc::clone(&end);
            thread::spawn(move || {
                let mut number = 0;
                while !end.load(Ordering::Relaxed) {
                    write(format!("line {generation} {number}\n"));
                    number += 1;
                    thread::sleep(Duration::from_micros(200));
                }
                write(format!("lines {generation} {number}\n"));
            })
        };
        Self { end, writer }
    }

    fn end(self) {
        self.end.store(true, Ordering::Relaxed);
        let _ = self.writer.join();
    }
}

/// Writes the line with a single write(2). `eprintln!` makes one for each piece of its text, and lines of
/// other processes could come in between.
fn write(line: String) {
    eprint!("{line}");
}

async fn events() {
    let span = tracing::info_span!("request", id = 7, user = tracing::field::Empty);
    span.record("user", "jo");
    let _in = span.enter();
    tracing::error!(listener = "http", "an error");
    tracing::warn!(answer = 42, ok = true, "a warning\nof two lines");
    tracing::info!(target: "elsewhere", "an information");
    tracing::debug!("debugged");
    tracing::trace!("traced");
    log::warn!("of the crate log");
}

/// Runs a child that writes to the outputs that it inherits.
async fn child() -> String {
    let mut child = std::process::Command::new("sh");
    child.args(["-c", "echo on the stderr of a child >&2; echo on its stdout"]);
    format!("{:?}\n", child.status())
}

async fn panic() {
    let _ = thread::spawn(|| panic!("a thread's panic")).join();
}

/// Writes to descriptor 2 directly, as a C library does.
async fn raw(axum::extract::Path(text): axum::extract::Path<String>) -> String {
    let written = rustix::io::write(std::io::stderr(), format!("{text}\n").as_bytes());
    format!("{written:?}\n")
}
