//! The application as a solo daemon.

mod app;

use unbroken::{Daemon, daemon};

#[daemon(
    name = "app",
    listen(http = "127.0.0.1:0"),
    ready_timeout = "10s",
    drain_timeout = "10s",
    kill_timeout = "1s"
)]
async fn main(daemon: Daemon) -> anyhow::Result<()> {
    daemon.serve("http", app::router(&daemon, "solo")).await?;
    Ok(())
}
