//! The cost of the dependency at build time: two programs that differ only in it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use serde_json::{Value, json};

pub(crate) struct Build {
    /// The number of packages in the dependency tree, including the program.
    pub(crate) packages: usize,
    /// The time of a release build from scratch.
    pub(crate) seconds: f64,
    /// The size of the stripped program.
    pub(crate) bytes: u64,
}

impl Build {
    pub(crate) fn json(&self) -> Value {
        json!({ "packages": self.packages, "seconds": self.seconds, "bytes": self.bytes })
    }
}

const BARE: &str = r#"#[tokio::main]
async fn main() -> Result<(), std::io::Error> {
    let app = axum::Router::new().route("/", axum::routing::get(|| async { "hello" }));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:8080").await?;
    axum::serve(listener, app).await
}
"#;

const DAEMON: &str = r#"use unbroken::{Daemon, daemon};

#[daemon(graceful_restart, listen(http = "127.0.0.1:8080"))]
async fn main(daemon: Daemon) -> Result<(), unbroken::Error> {
    let app = axum::Router::new().route("/", axum::routing::get(|| async { "hello" }));
    daemon.serve("http", app).await
}
"#;

/// Builds both programs: bare, then as a daemon.
pub(crate) fn compare() -> Result<[Build; 2], String> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let runtime = workspace.join("runtime");
    let dependency = format!("unbroken = {{ path = {runtime:?}, features = [\"axum\"] }}");
    Ok([build(workspace, "bare", BARE, "")?, build(workspace, "daemon", DAEMON, &dependency)?])
}

fn build(workspace: &Path, name: &str, main: &str, dependency: &str) -> Result<Build, String> {
    let dir = scratch().join(name);
    let write = || {
        if dir.exists() {
            fs::remove_dir_all(&dir)?;
        }
        fs::create_dir_all(dir.join("src"))?;
        // The same releases of dependencies, which are downloaded already.
        fs::copy(workspace.join("Cargo.lock"), dir.join("Cargo.lock"))?;
        fs::write(dir.join("src/main.rs"), main)?;
        let manifest = format!(
            r#"[package]
name = "{name}"
edition = "2024"

[workspace]

[profile.release]
strip = true

[dependencies]
axum = {{ version = "0.8", default-features = false, features = ["http1", "tokio"] }}
tokio = {{ version = "1", features = ["rt-multi-thread", "macros", "net"] }}
{dependency}
"#
        );
        fs::write(dir.join("Cargo.toml"), manifest)
    };
    write().map_err(|error: std::io::Error| format!("{}: {error}", dir.display()))?;
    // Each name and version counts once.
    let tree = cargo(&dir, &["tree", "--offline", "--prefix", "none", "--format", "{p}"])?;
    let name_and_version = |line: &str| line.split(' ').take(2).collect::<Vec<_>>().join(" ");
    let packages: BTreeSet<String> = tree.lines().map(name_and_version).collect();
    let begun = Instant::now();
    cargo(&dir, &["build", "--quiet", "--release", "--offline", "--target-dir", "target"])?;
    let seconds = begun.elapsed().as_secs_f64();
    let program = dir.join("target/release").join(name);
    let bytes = fs::metadata(&program).map_err(|error| format!("{program:?}: {error}"))?.len();
    Ok(Build { packages: packages.len(), seconds, bytes })
}

fn cargo(dir: &Path, arguments: &[&str]) -> Result<String, String> {
    let program = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let output = Command::new(program).args(arguments).current_dir(dir).output();
    let output = output.map_err(|error| format!("cargo: {error}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

fn scratch() -> PathBuf {
    let program = std::env::current_exe().expect("the path of this program");
    program.ancestors().nth(3).expect("a target directory").join("overhead")
}
