//! A TCP service with an accept loop of its own: every connection gets back what it sends.

use tokio::io::{copy, split};
use unbroken::{Daemon, daemon};

#[daemon(graceful_restart, listen(echo = "127.0.0.1:7000"))]
async fn main(daemon: Daemon) -> anyhow::Result<()> {
    let mut listener = daemon.listener("echo")?;
    // `next` ends when this worker drains: by then another one accepts.
    while let Some(accepted) = listener.next().await {
        let (stream, peer) = match accepted {
            Ok(connection) => connection,
            Err(error) => {
                eprintln!("cannot accept: {error}");
                continue;
            }
        };
        let draining = daemon.draining();
        // A spawned task is waited for, up to the drain deadline.
        daemon.spawn(async move {
            let (mut read, mut write) = split(stream);
            tokio::select! {
                echoed = copy(&mut read, &mut write) => match echoed {
                    Ok(bytes) => println!("{peer} sent {bytes} bytes"),
                    Err(error) => println!("{peer} failed: {error}"),
                },
                // An echo never ends by itself, so it says goodbye.
                () = draining => println!("closing {peer}"),
            }
        });
    }
    Ok(())
}
