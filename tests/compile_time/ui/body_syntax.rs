use unbroken::{Daemon, daemon};

#[daemon]
async fn main(daemon: Daemon) {
    daemon.
}
