use unbroken::{Daemon, daemon};

#[daemon(
    port = 8080,
    addr = "127.0.0.1:9000",
    host = "::1",
    bind = ":80",
    address = localhost,
    listen(dns = "udp://0.0.0.0:53", docker = "0.0.0.0:53/udp", web = "http://[::]:80/"),
)]
async fn main(_daemon: Daemon) {}
