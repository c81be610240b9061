//! Echoes lines, without async, with a `main` that does not join its threads.

use std::io::{BufRead, BufReader, Write};

use unbroken::{Daemon, daemon};

#[daemon(
    name = "app",
    graceful_restart,
    confirm_window = "0s",
    listen(echo = "127.0.0.1:0"),
    ready_timeout = "10s",
    drain_timeout = "10s",
    kill_timeout = "1s"
)]
fn main(daemon: Daemon) -> anyhow::Result<()> {
    let listener = daemon.blocking_listener("echo")?;
    while let Some(accepted) = listener.next() {
        let (stream, _) = accepted?;
        let generation = daemon.generation();
        std::thread::spawn(move || -> std::io::Result<()> {
            let mut stream = BufReader::new(stream);
            let mut line = String::new();
            while stream.read_line(&mut line)? > 0 {
                write!(stream.get_mut(), "{generation} {line}")?;
                line.clear();
            }
            Ok(())
        });
    }
    Ok(())
}
