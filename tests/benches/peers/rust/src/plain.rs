//! Stop and start: no help but axum's own graceful shutdown.

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let listener = TcpListener::bind(hello::address()?).await?;
    let asked = async move {
        terminate.recv().await;
    };
    axum::serve(listener, hello::router()?).with_graceful_shutdown(asked).await?;
    Ok(())
}
