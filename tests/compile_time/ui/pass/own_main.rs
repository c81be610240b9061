//! A `main` written by hand, and functions of other names.

mod server {
    use unbroken::{Daemon, daemon};

    #[daemon(graceful_restart, listen(http = "127.0.0.1:0"))]
    pub async fn serve(daemon: Daemon) {
        daemon.draining().await;
    }

    #[daemon]
    pub fn plain() -> std::io::Result<()> {
        Ok(())
    }
}

fn own_main() -> std::process::ExitCode {
    if unbroken::is_verb() { server::serve() } else { server::plain() }
}

fn main() {
    // The test runs this program, which must not become a daemon.
    let _ = own_main;
}
