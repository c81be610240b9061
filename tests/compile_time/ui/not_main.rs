use unbroken::{Daemon, daemon};
use std::time::Duration;

#[daemon(pidfile = "/run/x.pid")]
async fn serve(daemon: Daemon) -> Duration {
    daemon.draining().await;
    Duration::ZERO
}
