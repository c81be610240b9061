//! Never becomes ready: `main` waits forever before it accepts.

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
async fn main(_daemon: Daemon) {
    eprintln!("waiting for the database");
    std::future::pending::<()>().await;
}
