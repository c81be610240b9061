use unbroken::{Daemon, daemon};

#[daemon]
#[tokio::main(flavor = "current_thread")]
async fn main(daemon: Daemon) {
    daemon.draining().await;
}
