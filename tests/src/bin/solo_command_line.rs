//! A solo service without async that takes its command line.

use std::io::Write;

use clap::Parser;
use unbroken::{Daemon, daemon};

#[derive(Debug, Parser)]
#[command(name = "app")]
struct Args {
    #[arg(long)]
    greeting: String,
}

#[daemon(name = "app", listen(http = "127.0.0.1:0"))]
fn main(daemon: Daemon, args: Args) -> unbroken::Result<()> {
    let listener = daemon.blocking_listener("http")?;
    while let Some(accepted) = listener.next() {
        let Ok((mut stream, _)) = accepted else { continue };
        let body = &args.greeting;
        let head = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length:";
        // The client may have left.
        let _ = write!(stream, "{head} {}\r\n\r\n{body}", body.len());
    }
    Ok(())
}
