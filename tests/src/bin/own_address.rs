//! Binds an address itself, instead of declaring a listener, so only one generation at a time can have it.

use anyhow::Context;
use axum::Router;
use axum::routing::get;
use unbroken::{Daemon, daemon};

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
    let path = std::env::var("OWN_ADDRESS")?;
    let socket = std::os::unix::net::UnixListener::bind(path).context("cannot export metrics")?;
    daemon.serve("http", Router::new().route("/", get(async || "hello"))).await?;
    drop(socket);
    Ok(())
}
