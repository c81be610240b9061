use unbroken::{Daemon, daemon};

const PATH: &str = "/run/x.pid";

#[daemon(
    name = "a/b",
    pidfile = PATH,
    runtime_dir = "",
    workdir = '/',
    log = concat!("a", "b"),
    config = "a\0b",
    listen(http(addr = "0.0.0.0:80", user = 3.3, group = "")),
    crate = "not a path",
)]
async fn main(daemon: Daemon) {
    daemon.draining().await;
    let _ = PATH;
}
