//! A listener that `ecdysis` hands from process to process, at each hangup signal.

use std::io;
use std::net::SocketAddr;

use axum::serve::Listener;
use ecdysis::tokio_ecdysis::{SignalKind, StopOnShutdown, StoppableStream, TokioEcdysisBuilder};
use futures::StreamExt;
use tokio::net::TcpStream;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let addr = hello::address()?;
    let mut builder = TokioEcdysisBuilder::new(SignalKind::hangup())?;
    builder.stop_on_signal(SignalKind::terminate())?;
    builder.set_pid_file("pidfile");
    let stream = builder.build_listen_tcp(StopOnShutdown::Yes, addr, |socket, addr| {
        socket.set_reuse_address(true)?;
        socket.bind(&addr.into())?;
        socket.listen(1024)?;
        Ok(socket.into())
    })?;
    let (_ecdysis, over) = builder.ready()?;
    let over = async move {
        let _ = over.await;
    };
    let listener = Inherited { stream, addr };
    axum::serve(listener, hello::router()?).with_graceful_shutdown(over).await?;
    Ok(())
}

/// The stream of connections, as axum wants it.
struct Inherited<S> {
    stream: StoppableStream<S>,
    addr: SocketAddr,
}

impl<S> Listener for Inherited<S>
where
    S: futures::Stream<Item = io::Result<TcpStream>> + Unpin + Send + 'static,
{
    type Io = TcpStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        loop {
            match self.stream.next().await {
                Some(Ok(stream)) => {
                    if let Ok(peer) = stream.peer_addr() {
                        return (stream, peer);
                    }
                }
                Some(Err(error)) => eprintln!("accept: {error}"),
                // The graceful shutdown follows.
                None => std::future::pending().await,
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.addr)
    }
}
