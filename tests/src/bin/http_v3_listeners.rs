//! The application, version 3: a second listener, and a shorter drain timeout.

mod app;

use unbroken::{Daemon, daemon};

#[daemon(
    name = "app",
    graceful_restart,
    confirm_window = "0s",
    listen(http = "127.0.0.1:0", admin = "127.0.0.1:0"),
    ready_timeout = "10s",
    drain_timeout = "1s",
    kill_timeout = "1s"
)]
async fn main(daemon: Daemon) -> anyhow::Result<()> {
    let router = app::router(&daemon, "3");
    let admin = daemon.serve_with("admin", router.clone(), |http| {
        http.http1().title_case_headers(true);
    });
    tokio::try_join!(daemon.serve("http", router), admin)?;
    Ok(())
}
