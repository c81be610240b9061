//! The application with a configuration file that does not exist.

mod app;

use unbroken::{Daemon, daemon};

#[daemon(
    name = "app",
    graceful_restart,
    confirm_window = "0s",
    config = "no-such-file.toml",
    listen(http = "127.0.0.1:0"),
    ready_timeout = "10s"
)]
async fn main(daemon: Daemon) -> anyhow::Result<()> {
    daemon.serve("http", app::router(&daemon, "bad")).await?;
    Ok(())
}
