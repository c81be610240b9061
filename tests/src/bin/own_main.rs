//! A `main` written by hand, which calls the daemon for `server` and for the verbs.
//!
//! `APP_ADDRESS` is the address or the port of the listener.

use std::process::ExitCode;

mod server {
    use axum::Router;
    use axum::routing::get;
    use unbroken::{Daemon, daemon};

    #[daemon(
        name = "app",
        confirm_window = "0s",
        graceful_restart,
        listen(http(addr = "127.0.0.1:0", env = "APP_ADDRESS"))
    )]
    pub async fn serve(daemon: Daemon) -> anyhow::Result<()> {
        let words: Vec<String> = std::env::args().skip(1).collect();
        let router = Router::new().route("/", get(move || async move { words.join(" ") }));
        daemon.serve("http", router).await?;
        Ok(())
    }
}

fn main() -> ExitCode {
    let command = std::env::args().nth(1);
    if unbroken::is_verb() || command.as_deref() == Some("server") {
        return server::serve();
    }
    println!("usage: app server | local");
    ExitCode::from(if command.as_deref() == Some("local") { 0 } else { 2 })
}
