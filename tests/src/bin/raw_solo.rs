//! The server of `raw.rs` as a solo daemon.

mod raw_server;

use unbroken::{Daemon, daemon};

#[daemon(name = "app", listen(http = "127.0.0.1:0"), drain_timeout = "10s", kill_timeout = "1s")]
async fn main(daemon: Daemon) -> anyhow::Result<()> {
    // One loop per address.
    let listeners = daemon.raw_listener("http").await?.split();
    let mut loops = tokio::task::JoinSet::new();
    for listener in listeners {
        let (daemon, listener) = (daemon.clone(), listener.into_tokio_tcp()?);
        loops.spawn(async move { raw_server::serve(&daemon, listener).await });
    }
    while let Some(ended) = loops.join_next().await {
        ended??;
    }
    Ok(())
}
