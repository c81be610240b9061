//! The application of `hello.rs` without `unbroken`: the baseline of the benchmarks, and a server that no
//! daemon runs. Prints the address on which it listens.

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
