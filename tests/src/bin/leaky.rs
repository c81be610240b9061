//! Shows what a worker inherits at its start, on `/self`, and what its children inherit, on `/child`.

use std::fmt::Write;
use std::process::Command;

use axum::Router;
use axum::routing::get;
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
    let myself = describe()?;
    let router = Router::new()
        .route("/self", get(|| async { myself }))
        .route("/child", get(|| async { child() }));
    daemon.serve("http", router).await?;
    Ok(())
}

/// The arguments, environment, signal masks and descriptors of this process, one per line.
fn describe() -> anyhow::Result<String> {
    let mut text = String::new();
    for argument in std::env::args() {
        writeln!(text, "arg {argument}")?;
    }
    for (name, value) in std::env::vars() {
        writeln!(text, "env {name}={value}")?;
    }
    writeln!(text, "dir {}", std::env::current_dir()?.display())?;
    for line in std::fs::read_to_string("/proc/self/status")?.lines() {
        if line.starts_with("Sig") || line.starts_with("Umask") {
            writeln!(text, "{line}")?;
        }
    }
    let mut descriptors = std::fs::read_dir("/proc/self/fd")?.flatten().collect::<Vec<_>>();
    descriptors.sort_by_key(std::fs::DirEntry::file_name);
    for descriptor in descriptors {
        let target = std::fs::read_link(descriptor.path()).unwrap_or_default();
        writeln!(text, "fd {} {}", descriptor.file_name().display(), target.display())?;
    }
    Ok(text)
}

/// The environment, signal masks and descriptors of a child, as a shell shows them.
fn child() -> String {
    let script = "env | sed 's/^/env /'; grep -E '^(Sig|Umask)' /proc/self/status; \
                  for fd in /proc/self/fd/*; do echo \"fd ${fd##*/} $(readlink $fd)\"; done";
    match Command::new("sh").args(["-c", script]).output() {
        Ok(output) => String::from_utf8_lossy(&output.stdout).into_owned(),
        Err(error) => error.to_string(),
    }
}
