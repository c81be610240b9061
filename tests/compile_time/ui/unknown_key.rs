use unbroken::{Daemon, daemon};

#[daemon(
    pidfle = "/run/x.pid",
    drain-timeout = "30s",
    GracefulRestart,
    sockets = 3,
    listen(http(addr = "0.0.0.0:80", backlogs = 10, nonsense = 1)),
)]
async fn main(daemon: Daemon) {
    daemon.draining().await;
}
