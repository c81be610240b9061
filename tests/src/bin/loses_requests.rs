//! Ends its process when the drain begins, whatever is in flight.

use std::time::Duration;

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
    let draining = daemon.draining();
    tokio::spawn(async move {
        draining.await;
        std::process::exit(0);
    });
    let answer = || async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        "late"
    };
    let router = axum::Router::new().route("/", axum::routing::get(answer));
    daemon.serve("http", router).await?;
    Ok(())
}
