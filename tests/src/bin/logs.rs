//! The application of `writes`, supervised.

mod writes;

use unbroken::{Daemon, daemon};

#[daemon(
    name = "app",
    graceful_restart,
    confirm_window = "0s",
    listen(http = "127.0.0.1:0"),
    drain_timeout = "10s",
    kill_timeout = "1s"
)]
async fn main(daemon: Daemon) -> anyhow::Result<()> {
    writes::serve(daemon).await
}
