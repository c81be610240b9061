use unbroken::{Daemon, daemon};

#[daemon(listen(
    a = "example.org:80",
    b = 8080,
    c = "8080",
    d = "0.0.0.0",
    e = "::1",
    f = "::1:80",
    g = ":http",
    h = ["0.0.0.0:81", ":81"],
    i = "0.0.0.0:99999",
    j = "256.0.0.1:80",
    k = "/run/x.sock",
    l = "unix:",
    m = "unix:/run/a/path/that/is/much/too/long/for/a/socket/because/the/kernel/has/only/one/hundred/and/eight/bytes/for/it.sock",
    n = "",
    o = "localhost",
    p = true,
    q = "unix:/run/\0",
))]
async fn main(daemon: Daemon) {
    daemon.draining().await;
}
