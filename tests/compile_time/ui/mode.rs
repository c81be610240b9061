use unbroken::{Daemon, daemon};

#[daemon(
    umask = 27,
    listen(
        a(addr = "unix:/run/a.sock", mode = 0660),
        b(addr = "unix:/run/b.sock", mode = "rw-rw----"),
        c(addr = "unix:/run/c.sock", mode = 0o1777),
        d(addr = "unix:/run/d.sock", mode = "1777"),
        e(addr = "unix:/run/e.sock", mode = 689),
        f(addr = "unix:/run/f.sock", mode = true),
        g(addr = "unix:/run/g.sock", mode = 0x1ff),
    ),
)]
async fn main(daemon: Daemon) {
    daemon.draining().await;
}
