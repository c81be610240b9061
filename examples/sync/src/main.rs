//! A service without async: one thread per connection answers each line with its length.

use std::io::{BufRead, BufReader, Write};

use unbroken::net::blocking::Stream;
use unbroken::{Daemon, daemon};

#[daemon(graceful_restart, listen(lines = "127.0.0.1:7001"))]
fn main(daemon: Daemon) -> anyhow::Result<()> {
    let listener = daemon.blocking_listener("lines")?;
    let mut threads = Vec::new();
    while let Some(accepted) = listener.next() {
        let (stream, _peer) = accepted?;
        threads.retain(|thread: &std::thread::JoinHandle<()>| !thread.is_finished());
        threads.push(std::thread::spawn(move || {
            if let Err(error) = answer(stream) {
                eprintln!("connection failed: {error}");
            }
        }));
    }
    // Open connections have until the drain deadline; then the process exits.
    for thread in threads {
        let _ = thread.join();
    }
    Ok(())
}

fn answer(stream: Stream) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    while stream.read_line(&mut line)? > 0 {
        let length = line.trim_end().len();
        writeln!(stream.get_mut(), "{length}")?;
        line.clear();
    }
    Ok(())
}
