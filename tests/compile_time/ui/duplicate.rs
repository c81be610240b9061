use unbroken::{Daemon, daemon};

#[daemon(
    pidfile = "/run/x.pid",
    pidfile = "/run/y.pid",
    listen(
        http = "0.0.0.0:80",
        http = "0.0.0.0:81",
        admin = "0.0.0.0:80",
        api(addr = "unix:/run/x.sock", backlog = 10, backlog = 20),
        other = "unix:/run/x.sock",
        any = "127.0.0.1:0",
        free = "127.0.0.1:0",
    ),
    listen(more = "0.0.0.0:82"),
)]
async fn main(daemon: Daemon) {
    daemon.draining().await;
}
