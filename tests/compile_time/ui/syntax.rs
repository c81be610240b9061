use unbroken::{Daemon, daemon};

#[daemon(
    name "hello",
    pidfile =,
    "runtime_dir" = "/run",
    workdir = "/" config = "x.toml",
    log = "x.log" + "y",
    ,
    exe: "/bin/true",
    = "x",
    start_limit_burst = "5",
    graceful_restart,
)]
async fn main(daemon: Daemon) {
    daemon.draining().await;
}
