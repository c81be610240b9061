//! A server with an accept loop of its own: minimal HTTP/1.1 on a plain Tokio listener. It is paused, resumed
//! and stopped as the daemon reports.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use unbroken::Daemon;

/// How long a connection without a request is kept after the drain has begun.
const GRACE: Duration = Duration::from_secs(1);

/// The header of a client that sends one request only.
const CLOSE: &[u8] = b"connection: close";

/// Serves until the drain, in tasks of the daemon. Shows each change as the worker's status text.
pub(crate) async fn serve(daemon: &Daemon, listener: TcpListener) -> std::io::Result<()> {
    loop {
        tokio::select! {
            biased;
            () = daemon.draining() => return Ok(()),
            () = daemon.paused() => {
                assert!(daemon.is_paused());
                daemon.status("paused");
                tokio::select! {
                    () = daemon.draining() => return Ok(()),
                    () = daemon.resumed() => daemon.status("resumed"),
                }
            }
            accepted = listener.accept() => {
                let (stream, _) = accepted?;
                daemon.spawn(answer(daemon.clone(), stream));
            }
        }
    }
}

/// Answers requests without bodies until the client closes the connection, or the drain has begun.
async fn answer(daemon: Daemon, mut stream: TcpStream) -> std::io::Result<()> {
    let draining = daemon.draining_token();
    let over = async {
        daemon.draining().await;
        tokio::time::sleep(GRACE).await;
    };
    tokio::pin!(over);
    let mut head = Vec::new();
    loop {
        let read = tokio::select! {
            read = stream.read_buf(&mut head) => read?,
            () = &mut over, if head.is_empty() => return Ok(()),
        };
        if read == 0 {
            return Ok(());
        }
        if !head.ends_with(b"\r\n\r\n") {
            continue;
        }
        let asked = head.to_ascii_lowercase().windows(CLOSE.len()).any(|part| part == CLOSE);
        head.clear();
        let close = asked || draining.is_cancelled();
        let body = format!("generation={} pid={}\n", daemon.generation(), std::process::id());
        let connection = if close { "close" } else { "keep-alive" };
        let length = body.len();
        let response = format!(
            "HTTP/1.1 200 OK\r\nConnection: {connection}\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        stream.write_all(response.as_bytes()).await?;
        if close {
            return Ok(());
        }
    }
}
