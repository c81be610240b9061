use unbroken::{Daemon, daemon};

#[daemon(pidfle = "/run/x.pid")]
async fn main(daemon: Daemon) {
    let name: u32 = daemon.name();
    println!("{name}");
}
