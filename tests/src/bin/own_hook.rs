//! Installs a panic hook of its own before the daemon starts. A request for `/panic` panics.

use axum::Router;
use axum::routing::get;

fn main() -> std::process::ExitCode {
    std::panic::set_hook(Box::new(|info| eprintln!("own hook: {info}")));
    server::main()
}

mod server {
    use super::{Router, get};
    use unbroken::{Daemon, daemon};

    #[daemon(name = "app", graceful_restart, confirm_window = "0s", listen(http = "127.0.0.1:0"))]
    pub(crate) async fn main(daemon: Daemon) -> anyhow::Result<()> {
        let app = Router::new().route("/", get(async || "hello")).route("/panic", get(panic));
        daemon.serve("http", app).await?;
        Ok(())
    }

    async fn panic() {
        panic!("of the program");
    }
}
