//! A TCP service with its own accept loop: it sends back everything that a client sends.

use tokio::io::{copy, split};
use unbroken::{Daemon, daemon};

#[daemon(graceful_restart, listen(echo = "127.0.0.1:7000"))]
async fn main(daemon: Daemon) -> anyhow::Result<()> {
    let mut listener = daemon.listener("echo")?;
    // `next` returns `None` when this worker drains. At a restart, another worker accepts by then.
    while let Some(accepted) = listener.next().await {
        let (stream, peer) = match accepted {
            Ok(connection) => connection,
            Err(error) => {
                eprintln!("cannot accept: {error}");
                continue;
            }
        };
        let draining = daemon.draining();
        // The drain waits for tasks of `Daemon::spawn`, until the drain deadline.
        daemon.spawn(async move {
            let (mut read, mut write) = split(stream);
            tokio::select! {
                echoed = copy(&mut read, &mut write) => match echoed {
                    Ok(bytes) => println!("{peer} sent {bytes} bytes"),
                    Err(error) => println!("{peer} failed: {error}"),
                },
                // An echo does not end by itself: this closes the connection when the drain begins.
                () = draining => println!("closing {peer}"),
            }
        });
    }
    Ok(())
}
