//! The `Daemon` of the crate `unbroken-test` in the test's own process: it behaves as that of a solo daemon.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::get;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;
use tokio::time::timeout;
use unbroken::Daemon;
use unbroken::handoff::HandoffState;
use unbroken_test::{Address, Connection, InProcess, in_process};

const SOON: Duration = Duration::from_secs(20);

/// Runs blocking code of a client.
async fn client<T: Send + 'static>(code: impl FnOnce() -> T + Send + 'static) -> T {
    timeout(SOON, tokio::task::spawn_blocking(code)).await.unwrap().unwrap()
}

async fn body(app: &InProcess, path: &'static str) -> String {
    let addr = app.addr("http");
    client(move || Connection::open(&addr, SOON).unwrap().get(path).unwrap().text()).await
}

#[derive(serde::Deserialize)]
struct App {
    greeting: String,
    #[serde(default)]
    times: usize,
}

/// Notified when the request for `/late` has arrived.
static ARRIVED: Notify = Notify::const_new();

async fn greet(daemon: Daemon) -> unbroken::Result<()> {
    let App { greeting, times } = daemon.config()?;
    let wait = || async {
        ARRIVED.notify_one();
        tokio::time::sleep(Duration::from_millis(300)).await;
        "late"
    };
    let router = Router::new()
        .route("/", get(move || async move { greeting.repeat(times) }))
        .route("/late", get(wait));
    daemon.serve("http", router).await
}

#[tokio::test]
async fn serves_until_it_drains() {
    let app = in_process().listen("http").app(json!({ "greeting": "hi", "times": 2 })).start();
    assert!(!app.is_ready());
    let server = tokio::spawn(greet(app.daemon()));
    timeout(SOON, app.ready()).await.unwrap();
    assert!(app.is_ready());
    assert_eq!(body(&app, "/").await, "hihi");
    assert_eq!(app.daemon().drain_deadline(), None);

    let addr = app.addr("http");
    let in_flight = tokio::task::spawn_blocking(move || {
        let mut connection = Connection::open(&addr, SOON).unwrap();
        let text = connection.get("/late").unwrap().text();
        // The response is the last of its connection.
        connection.read_to_end(&mut Vec::new()).map(|_| text)
    });
    timeout(SOON, ARRIVED.notified()).await.unwrap();
    app.drain();
    app.daemon().draining().await;
    assert!(app.daemon().drain_deadline() > Some(Instant::now()));
    timeout(SOON, server).await.unwrap().unwrap().unwrap();
    assert_eq!(in_flight.await.unwrap().unwrap(), "late");
    assert!(app.drained().await);
    assert!(TcpStream::connect(app.addr("http").tcp()).is_err());
}

#[tokio::test]
async fn values_of_the_application_are_typed() {
    // As text, like values of the environment.
    let app = in_process().listen("http").set("app.greeting", "ho").set("app.times", "3").start();
    let server = tokio::spawn(greet(app.daemon()));
    assert_eq!(body(&app, "/").await, "hohoho");
    app.drain();
    timeout(SOON, server).await.unwrap().unwrap().unwrap();

    let app = in_process().listen("http").app(json!({ "greeting": 3 })).start();
    let error = greet(app.daemon()).await.unwrap_err().to_string();
    assert!(error.contains("`app.greeting`"), "{error}");
}

#[tokio::test]
async fn connections_of_the_programs_own() {
    let app = in_process().listen("echo").start();
    let daemon = app.daemon();
    let server = tokio::spawn(async move {
        let mut listener = daemon.listener("echo").unwrap();
        while let Some(accepted) = listener.next().await {
            let (mut stream, _) = accepted.unwrap();
            let draining = daemon.draining();
            daemon.spawn(async move {
                let mut byte = [0];
                tokio::select! {
                    () = draining => stream.write_all(b"bye").await.unwrap(),
                    read = stream.read(&mut byte) => assert_eq!(read.unwrap(), 0),
                }
            });
        }
    });
    // Accepted at the drain at the latest, as it is in the queue by then.
    let mut stream = TcpStream::connect(app.addr("echo").tcp()).unwrap();
    timeout(SOON, app.ready()).await.unwrap();
    app.drain();
    timeout(SOON, server).await.unwrap().unwrap();
    assert!(timeout(SOON, app.drained()).await.unwrap());
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "bye");
}

#[tokio::test]
async fn deadline_ends_the_wait_for_a_task() {
    let app = in_process().set("drain_timeout", "1h").start();
    timeout(SOON, app.ready()).await.expect("ready, as there is no listener");
    app.daemon().spawn(std::future::pending::<()>());
    app.drain();
    let deadline = app.daemon().drain_deadline().unwrap();
    assert!(deadline > Instant::now() + Duration::from_secs(3000));
    app.drain_within(Duration::from_millis(200));
    assert!(!timeout(SOON, app.drained()).await.unwrap());
    assert!(app.daemon().drain_deadline().unwrap() <= Instant::now());
}

#[tokio::test]
async fn readiness_by_the_program() {
    let app = in_process().listen("http").set("ready", "manual").start();
    let daemon = app.daemon();
    let mut listener = daemon.listener("http").unwrap();
    let addr = app.addr("http").tcp();
    let stream = TcpStream::connect(addr).unwrap();
    // Before it is ready, the program does not accept.
    assert!(timeout(Duration::from_millis(200), listener.accept()).await.is_err());
    assert!(!app.is_ready());
    daemon.ready();
    timeout(SOON, app.ready()).await.unwrap();
    let (_, peer) = timeout(SOON, listener.accept()).await.unwrap().unwrap();
    assert_eq!(peer.to_string(), stream.local_addr().unwrap().to_string());
}

#[tokio::test]
async fn no_generation_takes_a_connection() {
    let app = in_process().set("name", "hello").start();
    let daemon = app.daemon();
    assert_eq!((daemon.name(), daemon.generation()), ("hello", 1));
    app.drain();
    let (stream, mut peer) = tokio::net::UnixStream::pair().unwrap();
    let state = HandoffState { version: 1, bytes: Vec::new() };
    let mut error =
        timeout(SOON, daemon.hand_off("chat", stream, state)).await.unwrap().unwrap_err();
    error.stream.write_all(b"goodbye").await.unwrap();
    drop(error);
    let mut text = String::new();
    peer.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "goodbye");
}

#[test]
fn program_without_async() {
    let dir = std::env::temp_dir().join(format!("unbroken-test-unit-{}", std::process::id()));
    let app = in_process().set("listen.lines", format!("unix:{}", dir.display())).start();
    assert_eq!(app.addr("lines"), Address::Unix(PathBuf::from(&dir)));
    let daemon = app.daemon();
    let server = std::thread::spawn(move || {
        let listener = daemon.blocking_listener("lines").unwrap();
        let mut served = 0;
        while let Some(accepted) = listener.next() {
            let (mut stream, _) = accepted.unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).unwrap();
            stream.write_all(text.to_uppercase().as_bytes()).unwrap();
            served += 1;
        }
        daemon.wait_draining();
        served
    });
    let mut connection = Connection::open(&app.addr("lines"), SOON).unwrap();
    connection.write_all(b"hello").unwrap();
    connection.finish().unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "HELLO");
    app.drain();
    assert_eq!(server.join().unwrap(), 1);
    assert!(!dir.exists());
}

#[test]
fn files_of_listeners_are_removed_without_a_drain() {
    let path = std::env::temp_dir().join(format!("unbroken-test-drop-{}", std::process::id()));
    let app = in_process().set("listen.http", format!("unix:{}", path.display())).start();
    assert!(path.exists());
    drop(app);
    assert!(!path.exists());
}

#[test]
#[should_panic(expected = "there is no listener `grpc`")]
fn undeclared_listener() {
    let _ = in_process().listen("http").start().addr("grpc");
}

#[test]
#[should_panic(expected = "drain_timeout")]
fn wrong_setting() {
    let _ = in_process().set("drain_timeout", "soon").start();
}

#[test]
fn daemons_beside_each_other() {
    let apps: Vec<InProcess> = (0..8).map(|_| in_process().listen("http").start()).collect();
    let mut ports: Vec<u16> = apps.iter().map(|app| app.addr("http").tcp().port()).collect();
    ports.sort_unstable();
    ports.dedup();
    assert_eq!(ports.len(), 8);
}

/// Neither the environment nor signals nor descriptors of the process are changed, and threads end with the
/// daemon.
#[test]
fn nothing_of_the_process_is_changed() {
    let signals = || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let of_signals = ["SigBlk:", "SigIgn:", "SigCgt:"];
        let lines = status.lines().filter(|line| of_signals.iter().any(|it| line.starts_with(it)));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let variables = || std::env::vars_os().collect::<Vec<_>>();
    let before = (signals(), variables());
    let app = in_process().listen("http").start();
    app.drain();
    assert_eq!(before, (signals(), variables()));
    let threads = || {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
        let names = tasks.filter_map(|it| std::fs::read_to_string(it.path().join("comm")).ok());
        names.filter(|name| name.starts_with("unbroken-test")).count()
    };
    // The threads of other tests of this file come and go.
    drop(app);
    unbroken_tests::eventually("the threads end", SOON, || threads() == 0);
}
