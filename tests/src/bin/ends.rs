//! The application with a `main` that ends in the way that `[app]` selects.

mod app;

use std::sync::Arc;

use anyhow::bail;
use axum::routing::get;
use serde::Deserialize;
use tokio::sync::{Notify, mpsc};
use unbroken::{Daemon, daemon};

#[derive(Deserialize)]
struct Settings {
    #[serde(default)]
    mode: Mode,
}

#[derive(Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Mode {
    /// Joins the future that serves and an actor; ends when both have ended.
    #[default]
    Joined,
    /// Drops the future that serves at a drain, then waits for the actor.
    Dropped,
    /// Fails, returns or panics upon a request for `/end`.
    Fails,
    Returns,
    Panics,
    /// Does not end.
    Stays,
}

#[daemon(
    name = "app",
    graceful_restart,
    confirm_window = "0s",
    listen(http = "127.0.0.1:0"),
    ready_timeout = "10s",
    drain_timeout = "30s",
    kill_timeout = "2s"
)]
async fn main(daemon: Daemon) -> anyhow::Result<()> {
    let mode = daemon.config::<Settings>()?.mode;
    let (sender, commands) = mpsc::channel::<()>(1);
    let end = Arc::new(Notify::new());
    let asked = Arc::clone(&end);
    let held = move || {
        let _sender = &sender;
        asked.notify_one();
        async { "it ends\n" }
    };
    let leave = || async {
        tokio::spawn(std::future::pending::<()>());
        "a task is left\n"
    };
    let keeper = daemon.clone();
    let keep = move || async move {
        keeper.spawn(std::future::pending::<()>());
        "a task is kept\n"
    };
    let router = app::router(&daemon, "ends")
        .route("/end", get(held))
        .route("/leave", get(leave))
        .route("/keep", get(keep));
    let serve = async { anyhow::Ok(daemon.serve("http", router).await?) };
    match mode {
        Mode::Joined => {
            tokio::try_join!(serve, actor(commands))?;
        }
        Mode::Dropped => {
            tokio::select! {
                served = serve => served?,
                () = daemon.draining() => {}
            }
            actor(commands).await?;
        }
        Mode::Fails | Mode::Returns | Mode::Panics => tokio::select! {
            served = serve => served?,
            () = end.notified() => match mode {
                Mode::Fails => bail!("the database is gone"),
                Mode::Panics => panic!("the database is gone"),
                _ => {}
            },
        },
        Mode::Stays => {
            serve.await?;
            eprintln!("main stays");
            std::future::pending::<()>().await;
        }
    }
    Ok(())
}

/// Ends when the last sender of its commands is dropped. The router holds one.
async fn actor(mut commands: mpsc::Receiver<()>) -> anyhow::Result<()> {
    while commands.recv().await.is_some() {}
    eprintln!("the actor has ended");
    Ok(())
}
