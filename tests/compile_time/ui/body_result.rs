use unbroken::{Daemon, daemon};

#[daemon]
async fn main(daemon: Daemon) -> anyhow::Result<()> {
    daemon.draining().await;
}
