//! A server with an accept loop of its own on the listener `http`, and a framework that wants bare streams on
//! the listener `lines`.

mod raw_server;

use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use unbroken::net::ConnectionGuard;
use unbroken::{Daemon, ErrorKind, daemon};

/// How long a connection of `lines` takes to say goodbye.
const FAREWELL: Duration = Duration::from_millis(500);

#[derive(serde::Deserialize)]
struct App {
    /// `hangs`: never asks for `lines`, so it is never ready. `crashes`: soon after it serves.
    #[serde(default)]
    mode: String,
}

#[daemon(
    name = "app",
    graceful_restart,
    confirm_window = "0s",
    listen(http = "127.0.0.1:0", lines = "127.0.0.1:0"),
    ready_timeout = "10s",
    drain_timeout = "10s",
    kill_timeout = "1s"
)]
async fn main(daemon: Daemon) -> anyhow::Result<()> {
    let App { mode } = daemon.config()?;
    if mode != "hangs" {
        daemon.spawn(lines(daemon.clone()));
    }
    let unknown = daemon.raw_listener("unknown").await;
    assert!(unknown.is_err_and(|error| error.kind() == ErrorKind::Listen));
    let http = daemon.raw_listener("http").await?.into_tokio_tcp()?;
    if mode == "crashes" {
        std::thread::spawn(|| {
            std::thread::sleep(FAREWELL);
            std::process::abort();
        });
    }
    raw_server::serve(&daemon, http).await?;
    let again = daemon.raw_listener("http").await;
    assert!(again.is_err_and(|error| error.kind() == ErrorKind::Refused));
    Ok(())
}

async fn lines(daemon: Daemon) -> anyhow::Result<()> {
    let mut listener = daemon.listener("lines")?.into_tcp()?;
    while let Some(accepted) = listener.next().await {
        let (stream, guard) = accepted?.0.into_parts();
        // Not a task of the daemon: the drain waits for the guard alone.
        tokio::spawn(echo(stream, guard));
    }
    Ok(())
}

async fn echo(stream: TcpStream, guard: ConnectionGuard) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    loop {
        tokio::select! {
            read = stream.read_line(&mut line) => if read? == 0 {
                return Ok(());
            },
            () = guard.draining() => break,
        }
        stream.get_mut().write_all(line.as_bytes()).await?;
        line.clear();
    }
    assert!(guard.drain_deadline().is_some());
    tokio::time::sleep(FAREWELL).await;
    stream.get_mut().write_all(b"bye\n").await?;
    guard.mark_closed();
    Ok(())
}
