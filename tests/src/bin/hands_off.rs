//! Counts the lines of each connection. It hands off its connections with their counts, which therefore
//! survive restarts.

use std::path::PathBuf;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use unbroken::handoff::{HandoffError, HandoffState};
use unbroken::net::Stream;
use unbroken::{Daemon, daemon};

#[derive(serde::Deserialize)]
struct App {
    /// While this file exists, offered connections are neither accepted nor refused.
    hold: PathBuf,
    /// The version of the state that is sent. Only version 1 is accepted.
    #[serde(default = "one")]
    version: u32,
    /// Bytes of padding in the state.
    #[serde(default)]
    padding: usize,
}

fn one() -> u32 {
    1
}

#[daemon(
    name = "app",
    graceful_restart,
    confirm_window = "0s",
    listen(count = "127.0.0.1:0"),
    drain_timeout = "10s",
    kill_timeout = "1s",
    backoff_min = "10ms"
)]
async fn main(daemon: Daemon) -> anyhow::Result<()> {
    let App { hold, version, padding } = daemon.config()?;
    let mut passed = daemon.handoffs("count");
    let mut listener = daemon.listener("count")?;
    let mut held = Vec::new();
    loop {
        let (stream, count) = tokio::select! {
            Some(offer) = passed.next() => {
                if hold.exists() {
                    daemon.status("holding");
                    held.push(offer);
                    continue;
                }
                if offer.state().version != 1 {
                    continue;
                }
                let (stream, saved) = offer.accept().await?;
                (stream, u64::from_le_bytes(saved.bytes[..8].try_into()?))
            }
            accepted = listener.next() => match accepted {
                Some(accepted) => (accepted?.0, 0),
                None => return Ok(()),
            },
        };
        daemon.spawn(count_lines(daemon.clone(), stream, count, version, padding));
    }
}

async fn count_lines(
    daemon: Daemon,
    stream: Stream,
    mut count: u64,
    version: u32,
    padding: usize,
) -> anyhow::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    loop {
        tokio::select! {
            read = stream.read_line(&mut line) => {
                if read? == 0 {
                    return Ok(());
                }
                count += 1;
                let answer = format!("generation={} count={count}\n", daemon.generation());
                stream.get_mut().write_all(answer.as_bytes()).await?;
                line.clear();
            }
            () = daemon.draining() => break,
        }
    }
    let bytes = [&count.to_le_bytes()[..], &vec![0; padding]].concat();
    let passed =
        daemon.hand_off("count", stream.into_inner(), HandoffState { version, bytes }).await;
    if let Err(HandoffError { mut stream, reason, .. }) = passed {
        stream.write_all(format!("bye: {reason}\n").as_bytes()).await?;
        stream.mark_closed();
    }
    Ok(())
}
