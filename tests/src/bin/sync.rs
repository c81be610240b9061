//! Lines, without async: one thread per connection.

use std::io::{BufRead, BufReader, Write};

use unbroken::{Daemon, daemon};

#[daemon(
    name = "app",
    graceful_restart,
    listen(echo = "127.0.0.1:0"),
    ready_timeout = "10s",
    drain_timeout = "10s",
    kill_timeout = "1s"
)]
fn main(daemon: Daemon) -> anyhow::Result<()> {
    let mut listener = daemon.blocking_listener("echo")?;
    let mut threads = Vec::new();
    while let Some(accepted) = listener.next() {
        let (mut stream, _) = accepted?;
        let generation = daemon.generation();
        threads.push(std::thread::spawn(move || -> std::io::Result<()> {
            let lines = BufReader::new(stream.try_clone()?).lines();
            for line in lines {
                writeln!(stream, "{generation} {}", line?)?;
            }
            Ok(())
        }));
    }
    for thread in threads {
        let _ = thread.join();
    }
    Ok(())
}
