//! Panics before it is ready, with a message nearly as long as a packet of the link may be.

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
    panic!("the schema is from the future: {}", "x".repeat(126_000));
}
