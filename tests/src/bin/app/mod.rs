//! The application of the HTTP fixtures: an axum router whose routes respond at once, slowly, without an end,
//! or misbehave.

use std::convert::Infallible;
use std::os::unix::process::CommandExt;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Path;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use axum::response::IntoResponse;
use axum::response::sse::{Event, Sse};
use axum::routing::{get, post};
use futures_util::Stream;
use unbroken::Daemon;

/// The time over which a drain spreads the closing of WebSockets and event streams.
const JITTER: Duration = Duration::from_secs(2);

/// All routes. The usual response has the generation, the PID and the version of the worker, by which tests
/// identify it.
pub(crate) fn router(daemon: &Daemon, version: &'static str) -> Router {
    let generation = daemon.generation();
    let answer =
        move || format!("generation={generation} pid={} version={version}\n", std::process::id());
    let ws = {
        let daemon = daemon.clone();
        move |upgrade: WebSocketUpgrade| async move {
            upgrade.on_upgrade(move |socket| echo(socket, daemon))
        }
    };
    let events = {
        let daemon = daemon.clone();
        move || async move { events(&daemon) }
    };
    Router::new()
        .route("/", get(move || async move { answer() }))
        .route(
            "/slow",
            get(move || async move {
                tokio::time::sleep(Duration::from_secs(3)).await;
                answer()
            }),
        )
        .route(
            "/wait/{ms}",
            get(move |Path(ms): Path<u64>| async move {
                tokio::time::sleep(Duration::from_millis(ms)).await;
                answer()
            }),
        )
        .route("/echo", post(|body: Bytes| async move { body }))
        .route("/ws", get(ws))
        .route("/stream", get(stream))
        .route("/events", get(events))
        .route("/large", get(async || "x".repeat(32 * 1024 * 1024)))
        .route("/child", get(child))
        .route("/orphans", get(orphans))
        .route("/env", get(environment))
        .route("/log/{line}", get(|Path(line): Path<String>| async move { eprintln!("{line}") }))
        .route("/abort", get(abort))
        .route("/exit/{code}", get(exit))
        .route("/block", get(block))
        .route("/hoard", get(hoard))
}

/// Echoes every message. At a drain it sends a close frame with code 1012 (service restart) and ends.
async fn echo(mut socket: WebSocket, daemon: Daemon) {
    let draining = daemon.draining_with_jitter(JITTER);
    tokio::pin!(draining);
    loop {
        tokio::select! {
            () = &mut draining => {
                let close = CloseFrame { code: 1012, reason: "restart".into() };
                let _ = socket.send(Message::Close(Some(close))).await;
                return;
            }
            message = socket.recv() => match message {
                Some(Ok(message @ (Message::Text(_) | Message::Binary(_)))) => {
                    if socket.send(message).await.is_err() {
                        return;
                    }
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
            }
        }
    }
}

/// A response without an end.
async fn stream() -> Body {
    Body::from_stream(futures_util::stream::unfold((), |()| async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        Some((Ok::<_, Infallible>("more\n"), ()))
    }))
}

/// Server-sent events until the worker drains.
fn events(daemon: &Daemon) -> Sse<impl Stream<Item = Result<Event, Infallible>> + use<>> {
    let generation = daemon.generation().to_string();
    let events = futures_util::stream::unfold((), move |()| {
        let event = Event::default().retry(Duration::from_millis(100)).data(&generation);
        async move {
            tokio::time::sleep(Duration::from_millis(20)).await;
            Some((Ok(event), ()))
        }
    });
    Sse::new(unbroken::http::until_draining(daemon, JITTER, events))
}

/// Starts a child process that outlives the worker.
async fn child() -> impl IntoResponse {
    let mut sleep = std::process::Command::new("sleep");
    sleep.arg("1000").process_group(0);
    match sleep.spawn() {
        Ok(child) => format!("child={}\n", child.id()),
        Err(error) => error.to_string(),
    }
}

/// The environment of a child process, which inherits that of the worker.
async fn environment() -> String {
    let found = std::process::Command::new("env").arg("-0").output();
    let variables = found.map(|it| String::from_utf8_lossy(&it.stdout).replace('\0', "\n"));
    variables.unwrap_or_else(|error| error.to_string())
}

/// Leaves grandchildren behind for PID 1 to reap, in a container of the tests.
async fn orphans() -> Result<(), String> {
    match std::process::Command::new("/bin/container").args(["orphans", "5"]).status() {
        Ok(status) if status.success() => Ok(()),
        ended => Err(format!("{ended:?}")),
    }
}

async fn block() -> &'static str {
    loop {
        std::thread::park();
    }
}

/// Allocates and fills 1 GiB of memory, more than the limit that the test sets.
async fn hoard() -> String {
    let mut hoard = Vec::new();
    while hoard.len() < 64 {
        hoard.push(vec![1_u8; 16 * 1024 * 1024]);
    }
    hoard.iter().map(Vec::len).sum::<usize>().to_string()
}

async fn abort() {
    std::process::abort()
}

#[allow(clippy::exit, reason = "what the tests want to see survived")]
async fn exit(Path(code): Path<i32>) {
    std::process::exit(code)
}
