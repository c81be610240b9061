//! The application with a `mode` in `[app]` that selects its behaviour in the confirm window: it fails, turns
//! unhealthy, or has a check that passes, fails, panics or hangs.

mod app;

use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

use unbroken::{Daemon, daemon};

#[derive(serde::Deserialize)]
struct Settings {
    #[serde(default)]
    mode: String,
    /// A file that the program locks, so only one generation at a time can have it.
    store: Option<PathBuf>,
}

#[daemon(
    name = "app",
    flavor = "current_thread",
    graceful_restart,
    confirm_window = "0s",
    listen(http = "127.0.0.1:0"),
    ready_timeout = "10s",
    drain_timeout = "10s",
    kill_timeout = "1s",
    backoff_min = "10ms"
)]
async fn main(daemon: Daemon) -> anyhow::Result<()> {
    let Settings { mode, store } = daemon.config()?;
    let _owned = match store {
        Some(path) => Some(own(path)?),
        None => None,
    };
    match mode.as_str() {
        "sick" => {
            let daemon = daemon.clone();
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(300)).await;
                daemon.unhealthy("the database is gone");
            });
        }
        "sick at start" => daemon.unhealthy("the database is gone"),
        "fails" => anyhow::bail!("no such table"),
        "crashes" => daemon.confirm_check(async { std::process::abort() as Result<(), String> }),
        "check fails" => daemon.confirm_check(async { Err("it answers 500") }),
        "check panics" => daemon.confirm_check(async { panic!("oops") as Result<(), String> }),
        "check hangs" => daemon.confirm_check(std::future::pending::<Result<(), String>>()),
        "check passes" => {
            daemon.confirm_check(async { Ok::<_, String>(()) });
            daemon.confirm();
        }
        "hangs" => daemon.confirm_check(async {
            loop {
                std::thread::park();
            }
            #[expect(unreachable_code, reason = "its type")]
            Ok::<_, String>(())
        }),
        _ => {}
    }
    daemon.serve("http", app::router(&daemon, "1")).await?;
    Ok(())
}

/// Locks the store, or fails if another process has locked it.
fn own(path: PathBuf) -> anyhow::Result<File> {
    let file = File::create(path)?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive)
        .map_err(|error| anyhow::anyhow!("the store has an owner: {error}"))?;
    Ok(file)
}
