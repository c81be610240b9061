//! The application with an `env_prefix`, so its variables begin with `HELLO_`.

mod app;

use unbroken::{Daemon, daemon};

#[daemon(
    name = "app",
    env_prefix = "HELLO",
    graceful_restart,
    confirm_window = "0s",
    listen(http = "127.0.0.1:0"),
    ready_timeout = "10s",
    drain_timeout = "10s",
    kill_timeout = "1s"
)]
async fn main(daemon: Daemon) -> anyhow::Result<()> {
    daemon.serve("http", app::router(&daemon, "prefixed")).await?;
    Ok(())
}
