use unbroken::{Daemon as D, daemon};

#[daemon(
    pidfle = "/run/x.pid",
    umask = 27,
    restart = "always",
    listen(http = "db.local:80", http = "0.0.0.0:80"),
    drain_timeout = 30,
)]
#[tokio::main]
const unsafe extern "C" fn main<T>(daemon: D) {
    println!("{}", daemon.name());
}
