use unbroken::{Daemon, daemon};

async fn work() -> anyhow::Result<()> {
    Ok(())
}

#[daemon]
async fn main(daemon: Daemon) -> anyhow::Result<()> {
    daemon.draining().await;
    work()?;
    Ok(())
}
