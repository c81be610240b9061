//! Responds with values of its own section of the configuration, `[app]`.

use axum::Router;
use axum::routing::get;
use serde::Deserialize;
use unbroken::{Daemon, daemon};

#[derive(Debug, Clone, Deserialize)]
struct App {
    greeting: String,
    #[serde(default = "once")]
    times: usize,
}

fn once() -> usize {
    1
}

#[daemon(
    name = "app",
    graceful_restart,
    confirm_window = "0s",
    listen(http = "127.0.0.1:0"),
    ready_timeout = "10s",
    drain_timeout = "10s",
    kill_timeout = "1s"
)]
async fn main(daemon: Daemon) -> anyhow::Result<()> {
    let App { greeting, times } = daemon.config()?;
    let router = Router::new().route("/", get(move || async move { greeting.repeat(times) }));
    daemon.serve("http", router).await?;
    Ok(())
}
