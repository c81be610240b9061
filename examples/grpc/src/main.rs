//! A gRPC service that can be replaced while it is called: `grpc restart`.

use unbroken::{Daemon, daemon};

#[daemon(graceful_restart, listen(grpc = "127.0.0.1:50051"))]
async fn main(daemon: Daemon) -> anyhow::Result<()> {
    // HTTP/2 without TLS, which is what gRPC clients speak by default.
    daemon.serve("grpc", grpc::routes(&daemon)).await?;
    Ok(())
}
