//! A service with a command line, commands and settings of its own.
//!
//! `APP_PORT` and `--port` set where it listens; `--reject` makes its function for settings fail.

use axum::Router;
use axum::routing::get;
use clap::{Parser, Subcommand};
use unbroken::{Daemon, OneShot, Overrides, daemon};

#[derive(Debug, Parser)]
#[command(name = "app", version = "7.8.9", after_help = "More in app(1).")]
struct Args {
    /// What to answer
    #[arg(long, default_value = "hello")]
    greeting: String,
    #[arg(long)]
    port: Option<String>,
    /// Sets this key, as KEY=VALUE
    #[arg(long)]
    key: Option<String>,
    /// Fails to read its own settings
    #[arg(long)]
    reject: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Migrate the database
    Migrate,
    /// Shows statistics, and is one letter away from `status`
    Statu,
}

#[derive(serde::Deserialize)]
struct App {
    #[serde(default)]
    database: String,
}

fn configure(args: &Args, overrides: &mut Overrides<'_>) -> Result<(), std::io::Error> {
    if args.reject {
        return Err(std::io::Error::other("own.toml is not there"));
    }
    if let Some(port) = args.port.clone().or_else(|| overrides.var("APP_PORT")) {
        overrides.set("listen.http", format_args!("127.0.0.1:{port}"));
    }
    if let Some((key, value)) = args.key.as_deref().and_then(|key| key.split_once('=')) {
        overrides.set(key, value);
    }
    Ok(())
}

fn oneshot(args: &Args, context: &OneShot<'_>) -> Option<anyhow::Result<()>> {
    match args.command {
        Some(Command::Migrate) => Some(migrate(context)),
        Some(Command::Statu) => {
            println!("statistics");
            Some(Ok(()))
        }
        None => None,
    }
}

fn migrate(context: &OneShot<'_>) -> anyhow::Result<()> {
    let app: App = context.config()?;
    anyhow::ensure!(app.database != "broken", "the database is broken");
    let found = context.var("APP_PORT").unwrap_or_default();
    context.block_on(async { println!("migrated `{}`, port `{found}`", app.database) })?;
    Ok(())
}

#[daemon(
    name = "app",
    graceful_restart,
    confirm_window = "0s",
    configure = configure,
    oneshot = oneshot,
    listen(http = "127.0.0.1:0"),
    drain_timeout = "10s"
)]
async fn main(daemon: Daemon, args: Args) -> anyhow::Result<()> {
    let greeting = args.greeting;
    let router = Router::new().route("/", get(move || async move { greeting }));
    daemon.serve("http", router).await?;
    Ok(())
}
