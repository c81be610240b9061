//! The application of `bare_http.rs` as a solo daemon. Valgrind does not support the pidfds that a supervisor
//! needs.

use unbroken::{Daemon, daemon};

#[daemon(name = "app", listen(http = "127.0.0.1:0"))]
async fn main(daemon: Daemon) -> anyhow::Result<()> {
    let answer = || async { format!("generation=0 pid={}\n", std::process::id()) };
    let router = axum::Router::new().route("/", axum::routing::get(answer));
    daemon.serve("http", router).await?;
    Ok(())
}
