//! A gRPC service that can be replaced while clients call it: `grpc restart`.

use unbroken::{Daemon, daemon};

#[daemon(graceful_restart, listen(grpc = "127.0.0.1:50051"))]
async fn main(daemon: Daemon) -> anyhow::Result<()> {
    // `serve` detects HTTP/2 without TLS, as gRPC clients speak it.
    daemon.serve("grpc", grpc::routes(&daemon)).await?;
    Ok(())
}
