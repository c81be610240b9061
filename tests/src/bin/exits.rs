//! Exits before it is ready, with the code in `APP_EXIT` or 1.

use unbroken::{Daemon, daemon};

#[allow(clippy::exit, reason = "what the tests want to see reported")]
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
    eprintln!("opening the database");
    let code = std::env::var("APP_EXIT").ok().and_then(|code| code.parse().ok());
    std::process::exit(code.unwrap_or(1));
}
