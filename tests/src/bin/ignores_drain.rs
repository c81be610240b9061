//! Serves and ignores a drain: neither its `main` nor its tasks ever end.

mod app;

use unbroken::{Daemon, daemon};

#[daemon(
    name = "app",
    graceful_restart,
    confirm_window = "0s",
    listen(http = "127.0.0.1:0"),
    ready_timeout = "10s",
    drain_timeout = "1s",
    kill_timeout = "1s"
)]
async fn main(daemon: Daemon) {
    let router = app::router(&daemon, "deaf");
    daemon.spawn(std::future::pending::<()>());
    let serving = daemon.clone();
    tokio::spawn(async move { serving.serve("http", router).await });
    std::future::pending::<()>().await;
}
