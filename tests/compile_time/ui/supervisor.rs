use unbroken::{Daemon, daemon};

#[daemon(
    restart = "always",
    backoff_min = "1s",
    backoff_max = "2s",
    start_limit_burst = 5,
    start_limit_interval = "1m",
    confirm_window = "2s",
    orphan_grace = "10s",
    exe = "/usr/bin/hello",
    kill_timeout = "5s",
)]
async fn main(daemon: Daemon) {
    daemon.draining().await;
}
