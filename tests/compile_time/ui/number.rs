use unbroken::{Daemon, daemon};

#[daemon(
    graceful_restart,
    start_limit_burst = 0,
    worker_threads = "4",
    listen(
        a(addr = "0.0.0.0:1", backlog = -1),
        b(addr = "0.0.0.0:2", backlog = 0x8000_0000),
        c(addr = "0.0.0.0:3", backlog = 1.5),
    ),
)]
async fn main(daemon: Daemon) {
    daemon.draining().await;
}
