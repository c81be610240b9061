//! The same application without a daemon around it: what the others are measured against.
//!
//! Prints the address it listens on, and how long after the start of the process that was.

use std::io::Write;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    std::io::stdout().flush()?;
    let answer = || async { format!("generation=0 pid={}\n", std::process::id()) };
    let router = axum::Router::new().route("/", axum::routing::get(answer));
    axum::serve(listener, router).await?;
    Ok(())
}
