//! A process that `shellflip` replaces. It leaves sockets to systemd, so that this one listens on the
//! socket that it is started with, as systemd passes it.

use std::os::fd::FromRawFd;

use shellflip::RestartConfig;
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let config = RestartConfig {
        enabled: true,
        coordination_socket_path: "shellflip.sock".into(),
        ..RestartConfig::default()
    };
    if std::env::args().nth(1).as_deref() == Some("restart") {
        config.request_restart().await?;
        return Ok(());
    }
    let restarted = config.try_into_restart_task()?;
    // SAFETY: descriptor 3 is the first that systemd passes (sd_listen_fds(3)). It is not closed on
    // exec, so that the next process finds it in the same place, and nobody else here owns it.
    let listener = unsafe { std::net::TcpListener::from_raw_fd(3) };
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    let router = hello::router()?;
    let restarted = async move {
        if let Err(error) = restarted.await {
            eprintln!("{error:#}");
        }
    };
    axum::serve(listener, router).with_graceful_shutdown(restarted).await?;
    Ok(())
}
