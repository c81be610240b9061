//! The application with routes that report the privileges of its process, and routes that attempt what it
//! may not do.

mod app;

use std::fs;
use std::os::unix::fs::MetadataExt;

use axum::Router;
use axum::extract::Path;
use axum::routing::get;
use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid, setuid};
use unbroken::{Daemon, daemon};

#[daemon(
    name = "app",
    graceful_restart,
    confirm_window = "0s",
    listen(http = "127.0.0.1:0"),
    ready_timeout = "10s",
    drain_timeout = "10s",
    kill_timeout = "1s"
)]
async fn main(daemon: Daemon) -> anyhow::Result<()> {
    let router = app::router(&daemon, "privileges").merge(attempts());
    daemon.serve("http", router).await?;
    Ok(())
}

/// The routes of the attempts. Each responds with `ok` or the error.
fn attempts() -> Router {
    Router::new()
        .route("/root", get(async || describe(setuid(Uid::from_raw(0)))))
        .route(
            "/signal/{pid}",
            get(async |Path(pid): Path<i32>| describe(kill(Pid::from_raw(pid), Signal::SIGTERM))),
        )
        .route(
            "/trace/{pid}",
            get(async |Path(pid): Path<i32>| {
                describe(ptrace::seize(Pid::from_raw(pid), ptrace::Options::empty()))
            }),
        )
        .route(
            "/memory/{pid}",
            get(async |Path(pid): Path<i32>| describe(fs::read(format!("/proc/{pid}/environ")))),
        )
        .route(
            "/bind/{addr}",
            get(async |Path(addr): Path<String>| describe(std::net::TcpListener::bind(addr))),
        )
        .route(
            "/touch/{*path}",
            get(async |Path(path): Path<String>| {
                describe(fs::write(format!("/{path}"), "hello\n"))
            }),
        )
        .route("/list/{*path}", get(async |Path(path): Path<String>| list(&path)))
        .route("/here", get(async || here()))
}

fn describe<T, E: std::fmt::Display>(done: Result<T, E>) -> String {
    match done {
        Ok(_) => "ok\n".to_owned(),
        Err(error) => format!("{error}\n"),
    }
}

fn list(path: &str) -> String {
    let entries = fs::read_dir(format!("/{path}")).map(|entries| {
        let mut names: Vec<_> = entries
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names.join(" ")
    });
    entries.unwrap_or_else(|error| error.to_string())
}

/// The working directory, and the inode of the root directory.
fn here() -> String {
    let dir = std::env::current_dir().map(|dir| dir.display().to_string());
    let root = fs::metadata("/").map(|meta| meta.ino().to_string());
    format!("{} {}", dir.unwrap_or_default(), root.unwrap_or_default())
}
