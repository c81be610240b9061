//! Echoes lines, with an accept loop of its own instead of `Daemon::serve`.

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use unbroken::{Daemon, daemon};

#[daemon(
    name = "app",
    graceful_restart,
    confirm_window = "0s",
    listen(echo = "127.0.0.1:0"),
    ready_timeout = "10s",
    drain_timeout = "10s",
    kill_timeout = "1s"
)]
async fn main(daemon: Daemon) -> anyhow::Result<()> {
    let mut listener = daemon.listener("echo")?;
    while let Some(accepted) = listener.next().await {
        let (stream, _) = accepted?;
        let draining = daemon.draining();
        let generation = daemon.generation();
        daemon.spawn(async move {
            let (read, mut write) = tokio::io::split(stream);
            let mut lines = BufReader::new(read).lines();
            tokio::pin!(draining);
            loop {
                tokio::select! {
                    line = lines.next_line() => {
                        let Some(line) = line? else { return std::io::Result::Ok(()) };
                        write.write_all(format!("{generation} {line}\n").as_bytes()).await?;
                    }
                    () = &mut draining => {
                        write.write_all(b"bye\n").await?;
                        return write.shutdown().await;
                    }
                }
            }
        });
    }
    Ok(())
}
