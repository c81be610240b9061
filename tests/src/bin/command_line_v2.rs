//! The next release of the service with a command line: it has no option `--greeting`.

use axum::Router;
use axum::routing::get;
use clap::Parser;
use unbroken::{Daemon, daemon};

#[derive(Debug, Parser)]
#[command(name = "app")]
struct Args {
    #[arg(long, default_value = "second")]
    answer: String,
}

#[daemon(name = "app", graceful_restart, confirm_window = "0s", listen(http = "127.0.0.1:0"))]
async fn main(daemon: Daemon, args: Args) -> anyhow::Result<()> {
    let router = Router::new().route("/", get(move || async move { args.answer }));
    daemon.serve("http", router).await?;
    Ok(())
}
