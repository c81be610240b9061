//! The application, which dies half a second after it has begun to serve.

mod app;

use std::time::Duration;

use unbroken::{Daemon, daemon};

#[daemon(
    name = "app",
    graceful_restart,
    listen(http = "127.0.0.1:0"),
    ready_timeout = "10s",
    drain_timeout = "10s",
    kill_timeout = "1s"
)]
async fn main(daemon: Daemon) -> anyhow::Result<()> {
    std::thread::spawn(|| {
        std::thread::sleep(Duration::from_millis(500));
        eprintln!("the cache is corrupt");
        std::process::abort();
    });
    daemon.serve("http", app::router(&daemon, "bad")).await?;
    Ok(())
}
