//! The service of the example `grpc`.

use unbroken::{Daemon, daemon};

#[daemon(
    name = "app",
    graceful_restart,
    confirm_window = "0s",
    listen(grpc = "127.0.0.1:0"),
    drain_timeout = "10s",
    kill_timeout = "1s"
)]
async fn main(daemon: Daemon) -> anyhow::Result<()> {
    daemon.serve("grpc", grpc::routes(&daemon)).await?;
    Ok(())
}
