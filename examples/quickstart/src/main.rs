//! A web service that can be replaced while it serves requests: `quickstart restart`.

use std::time::Duration;

use axum::{Router, routing::get};
use unbroken::{Daemon, daemon};

#[daemon(graceful_restart, listen(http = "127.0.0.1:8080"))]
async fn main(daemon: Daemon) -> anyhow::Result<()> {
    let line = format!("generation={} pid={}\n", daemon.generation(), std::process::id());
    let slow = line.clone();
    let app = Router::new().route("/", get(|| async { line })).route(
        "/slow",
        get(|| async {
            tokio::time::sleep(Duration::from_secs(3)).await;
            slow
        }),
    );
    daemon.serve("http", app).await?;
    Ok(())
}
